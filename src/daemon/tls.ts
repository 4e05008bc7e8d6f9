import { readFile } from 'node:fs/promises';
import { createSecureContext } from 'node:tls';
import { isErrno } from '../base/errno.ts';
import type { Clock } from '../base/clock.ts';
import { errorFields, type Logger } from '../base/logger.ts';
import type { Values } from './config.ts';

/** Who has a certificate of its own: the API, or the proxy. */
type Owner = 'HATCH_HTTP' | 'HATCH_PROXY';
type TlsFile = `${Owner}_TLS_${'CERT' | 'KEY'}`;
type TlsValues = Partial<Pick<Values, TlsFile>>;

/** A certificate with its chain, and its key, in PEM. */
interface Pair {
  readonly cert: string;
  readonly key: string;
}

/** How often the files are looked at, to see whether there is a new certificate. */
const LOOK_MS = 10_000;

/** Certificate and key of the API or the proxy; undefined where it is served without. Throws an Error in a sentence for files that will not do. */
export async function readTls(values: TlsValues, owner: Owner): Promise<Pair | undefined> {
  const files = tlsFiles(values, owner);
  if (!files) return undefined;
  const pair = { cert: await read(files.cert), key: await read(files.key) };
  check(files.cert, 'a certificate', { cert: pair.cert });
  check(files.key, 'a private key without a passphrase', { key: pair.key });
  check(files.key, `the private key of ${files.cert.name}`, pair);
  return pair;
}

/**
 * Looks every 10 s whether the files have changed and hands on a pair that will do, until the signal aborts. One that will not do is
 * warned of once, and the one in use stays: certificate and key are two files, and are seldom replaced at the same moment.
 */
export async function followTls(
  { clock, log }: { readonly clock: Clock; readonly log: Logger },
  { values, owner, now }: { readonly values: TlsValues; readonly owner: Owner; readonly now: Pair },
  renew: (pair: Pair) => void | Promise<void>,
  signal: AbortSignal,
): Promise<void> {
  let [known, warned] = [now, ''];
  for (;;) {
    try {
      await clock.sleep(LOOK_MS, signal);
    } catch {
      return;
    }
    try {
      const found = await readTls(values, owner);
      warned = '';
      if (!found || (found.cert === known.cert && found.key === known.key)) continue;
      await renew(found);
      known = found;
      log.info({ owner }, 'a new certificate is in use');
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error);
      if (message !== warned)
        log.warn(errorFields(error), 'a new certificate will not do; the one before is kept');
      warned = message;
    }
  }
}

interface Named {
  readonly name: TlsFile;
  readonly path: string;
}

function tlsFiles(values: TlsValues, owner: Owner): Record<'cert' | 'key', Named> | undefined {
  const [certName, keyName] = [`${owner}_TLS_CERT`, `${owner}_TLS_KEY`] as const;
  const [cert, key] = [values[certName], values[keyName]];
  if (cert === undefined || key === undefined) return undefined;
  return { cert: { name: certName, path: cert }, key: { name: keyName, path: key } };
}

async function read({ name, path }: Named): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    const why = isErrno(error, 'ENOENT') ? 'is not there' : 'cannot be read';
    throw new Error(`${name} ${path} ${why}.`, { cause: error });
  }
}

function check({ name, path }: Named, what: string, pem: Partial<Pair>): void {
  try {
    createSecureContext(pem);
  } catch (error) {
    throw new Error(`${name} ${path} is not ${what}, in PEM.`, { cause: error });
  }
}
