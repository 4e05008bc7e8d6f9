import { errorFields } from '../base/logger.ts';
import { openProxy, type ProxyDeps } from '../gateway/proxy/proxy.ts';
import type { Values } from './config.ts';
import { whyNotListening } from './listening.ts';
import type { Shutdown } from './shutdown.ts';
import { followTls, readTls } from './tls.ts';

/**
 * Starts the HTTP proxy that leads to the guests' routes, with TLS where there is a certificate, which is followed until the signal
 * aborts. Requests under way end with the daemon. Throws in a sentence when it cannot.
 */
export async function listenForRoutes(
  values: Values,
  deps: ProxyDeps,
  shutdown: Shutdown,
  signal: AbortSignal,
): Promise<void> {
  const { host, port } = values.HATCH_PROXY_ADDR;
  const owner = 'HATCH_PROXY';
  const certificate = await readTls(values, owner);
  const { server, renew, close } = openProxy(deps, {
    baseDomain: values.HATCH_PROXY_BASE_DOMAIN,
    wakeTimeoutMs: values.HATCH_PROXY_WAKE_TIMEOUT,
    trustedProxies: values.HATCH_TRUSTED_PROXIES ?? [],
    certificate,
  });
  try {
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen({ host, port, exclusive: true }, resolve);
    });
  } catch (error) {
    throw new Error(whyNotListening('HATCH_PROXY_ADDR', values.HATCH_PROXY_ADDR, error), { cause: error });
  }
  server.on('error', (error) => deps.log.warn(errorFields(error), 'could not take a connection'));
  shutdown.add('proxy', async () => close());
  if (certificate) void followTls(deps, { values, owner, now: certificate }, renew, signal);
  const [addr, scheme] = [`${host}:${port}`, certificate ? 'https' : 'http'];
  deps.log.info({ addr, scheme, domain: values.HATCH_PROXY_BASE_DOMAIN }, 'the proxy listens');
}
