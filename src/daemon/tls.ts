import { readFile } from 'node:fs/promises';
import { createSecureContext } from 'node:tls';
import { isErrno } from '../host/files.ts';
import type { Values } from './config.ts';

type TlsFile = 'HATCH_HTTP_TLS_CERT' | 'HATCH_HTTP_TLS_KEY';

/** Certificate and key of the API; undefined where it is served without. Throws an Error in a sentence for files that will not do. */
export async function readTls(
  values: Pick<Values, TlsFile>,
): Promise<{ readonly cert: string; readonly key: string } | undefined> {
  const { HATCH_HTTP_TLS_CERT: certPath, HATCH_HTTP_TLS_KEY: keyPath } = values;
  if (certPath === undefined || keyPath === undefined) return undefined;
  const cert = await read('HATCH_HTTP_TLS_CERT', certPath);
  const key = await read('HATCH_HTTP_TLS_KEY', keyPath);
  check('HATCH_HTTP_TLS_CERT', certPath, 'a certificate', { cert });
  check('HATCH_HTTP_TLS_KEY', keyPath, 'a private key without a passphrase', { key });
  check('HATCH_HTTP_TLS_KEY', keyPath, 'the private key of HATCH_HTTP_TLS_CERT', { cert, key });
  return { cert, key };
}

async function read(name: TlsFile, path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    const why = isErrno(error, 'ENOENT') ? 'is not there' : 'cannot be read';
    throw new Error(`${name} ${path} ${why}.`, { cause: error });
  }
}

function check(name: TlsFile, path: string, what: string, pem: { cert?: string; key?: string }): void {
  try {
    createSecureContext(pem);
  } catch (error) {
    throw new Error(`${name} ${path} is not ${what}, in PEM.`, { cause: error });
  }
}
