import { chmodSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import type { Io } from './io.ts';

/** A server and the key that is good there, as `hatch login` keeps them. */
export interface Login {
  readonly url: string;
  readonly apiKey: string;
}

type Home = Pick<Io, 'env' | 'home'>;

/** Where a login is kept (XDG Base Directory Specification). */
export function loginFile({ env, home }: Home): string {
  const named = env['XDG_CONFIG_HOME'];
  return join(named === undefined || named === '' ? join(home, '.config') : named, 'hatch', 'login.json');
}

/** The login that is kept; undefined: none, or a file that holds none. */
export function readLogin(io: Home): Login | undefined {
  try {
    const found: unknown = JSON.parse(readFileSync(loginFile(io), 'utf8'));
    if (typeof found !== 'object' || found === null || !('url' in found && 'api_key' in found))
      return undefined;
    const { url, api_key: apiKey } = found;
    return typeof url === 'string' && URL.canParse(url) && typeof apiKey === 'string'
      ? { url, apiKey }
      : undefined;
  } catch {
    return undefined;
  }
}

/** Keeps a login, for this user's eyes alone. */
export function keepLogin(io: Home, { url, apiKey }: Login): void {
  const path = loginFile(io);
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  const fresh = `${path}.${process.pid}`;
  writeFileSync(fresh, `${JSON.stringify({ url, api_key: apiKey }, null, 2)}\n`, { mode: 0o600 });
  // One that was left there keeps the mode it had.
  chmodSync(fresh, 0o600);
  renameSync(fresh, path);
}

/** Forgets the login; false: there was none. */
export function forgetLogin(io: Home): boolean {
  try {
    rmSync(loginFile(io));
    return true;
  } catch {
    return false;
  }
}
