import { availableParallelism } from 'node:os';
import { ProxyThreads, type ThreadsDeps } from '../gateway/proxy/threads/threads.ts';
import type { Values } from './config.ts';
import { freePlace, whyNotListening } from './listening.ts';
import type { Shutdown } from './shutdown.ts';
import { followTls, readTls } from './tls.ts';

/** Unless more are asked for: each holds memory, and serves some ten thousand requests a second. */
const MOST_THREADS = 8;

/**
 * Starts the HTTP proxy that leads to the guests' routes, with TLS where there is a certificate, which is followed until the signal
 * aborts. Requests under way end with the daemon. Throws in a sentence when it cannot.
 */
export async function listenForRoutes(
  values: Values,
  deps: ThreadsDeps,
  shutdown: Shutdown,
  signal: AbortSignal,
): Promise<void> {
  const owner = 'HATCH_PROXY';
  const certificate = await readTls(values, owner);
  // Its threads would listen beside another hatchd's in peace.
  const place = await freePlace('HATCH_PROXY_ADDR', values.HATCH_PROXY_ADDR);
  const { host, port } = place;
  const threads = new ProxyThreads(deps, {
    threads: values.HATCH_PROXY_THREADS ?? Math.min(availableParallelism(), MOST_THREADS),
    place,
    baseDomain: values.HATCH_PROXY_BASE_DOMAIN,
    wakeTimeoutMs: values.HATCH_PROXY_WAKE_TIMEOUT,
    trustedProxies: values.HATCH_TRUSTED_PROXIES ?? [],
    certificate,
  });
  try {
    await threads.open();
  } catch (error) {
    throw new Error(whyNotListening('HATCH_PROXY_ADDR', place, error), { cause: error });
  }
  shutdown.add('proxy', () => threads.close());
  if (certificate)
    void followTls(deps, { values, owner, now: certificate }, (next) => threads.renew(next), signal);
  const [addr, scheme] = [`${host}:${port}`, certificate ? 'https' : 'http'];
  const facts = { addr, scheme, domain: values.HATCH_PROXY_BASE_DOMAIN, threads: threads.size };
  deps.log.info(facts, 'the proxy listens');
}
