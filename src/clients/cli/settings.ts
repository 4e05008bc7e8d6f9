import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Io } from './io.ts';
import { readLogin } from './login.ts';
import { UsageError } from './words.ts';

export const DEFAULT_URL = 'http://127.0.0.1:8080';

export interface Server {
  readonly url: string;
  readonly apiKey: string | undefined;
}

/**
 * Which server to talk to, and with which key: the options, else HATCH_URL and HATCH_API_KEY, else those of `hatch login`, else the server on
 * this machine with the key its first start left in its data folder. Neither key is ever sent to another server.
 */
export function readServer(
  options: { readonly url?: string | undefined; readonly apiKey?: string | undefined },
  io: Pick<Io, 'env' | 'cwd' | 'root' | 'home'>,
): Server {
  const said = options.url ?? notEmpty(io.env['HATCH_URL']);
  const login = readLogin(io);
  const url = said ?? login?.url ?? DEFAULT_URL;
  const host = hostOf(url);
  const given = options.apiKey ?? notEmpty(io.env['HATCH_API_KEY']);
  if (given !== undefined && !/^[\x21-\x7e]+$/.test(given))
    throw new UsageError('The API key has characters no key has; was it copied whole?');
  const isLocal = ['127.0.0.1', 'localhost', '[::1]'].includes(host);
  const known = login && isSame(login.url, url) ? login.apiKey : undefined;
  return { url, apiKey: given ?? known ?? (isLocal ? readAdminKey(io) : undefined) };
}

/** The folders where a hatchd on this machine may keep its data, the likeliest first. */
export function dataFolders({ env, cwd, root }: Pick<Io, 'env' | 'cwd' | 'root'>): readonly string[] {
  const named = notEmpty(env['HATCH_DATA_DIR']);
  return named === undefined ? [...new Set([join(cwd, 'data'), join(root, 'data')])] : [named];
}

function readAdminKey(io: Pick<Io, 'env' | 'cwd' | 'root'>): string | undefined {
  for (const folder of dataFolders(io)) {
    try {
      return readFileSync(join(folder, 'admin-key'), 'utf8').trim();
    } catch {
      // Not there, or not ours to read: the server will say that a key is needed.
    }
  }
  return undefined;
}

function hostOf(url: string): string {
  if (!URL.canParse(url) || !/^https?:$/.test(new URL(url).protocol))
    throw new UsageError(`The server's address must be a URL such as ${DEFAULT_URL}; it is "${url}".`);
  return new URL(url).hostname;
}

function notEmpty(text: string | undefined): string | undefined {
  return text === '' ? undefined : text;
}

function isSame(one: string, other: string): boolean {
  const [a, b] = [new URL(one), new URL(other)];
  return a.origin === b.origin && a.pathname.replace(/\/$/, '') === b.pathname.replace(/\/$/, '');
}
