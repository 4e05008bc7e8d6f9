import { isIPv4 } from 'node:net';

/** Where the host's resolvers are written, best first: systemd-resolved shows its own loopback one in the first. */
export const RESOLVER_FILES = ['/etc/resolv.conf', '/run/systemd/resolve/resolv.conf'];

/**
 * The IPv4 resolvers a guest can use, from the first of these files' texts that names any (resolv.conf(5)). One on a loopback
 * address, or on one of the host's `own`, is closed to guests. Empty when there are none.
 */
export function guestResolvers(
  files: readonly (string | undefined)[],
  own: ReadonlySet<string> = new Set(),
): readonly string[] {
  for (const text of files) {
    const found = (text ?? '')
      .split('\n')
      .map((line) => /^\s*nameserver\s+(\S+)/.exec(line)?.[1] ?? '')
      .filter(
        (address) =>
          isIPv4(address) && !address.startsWith('127.') && address !== '0.0.0.0' && !own.has(address),
      );
    if (found.length > 0) return [...new Set(found)].slice(0, 3);
  }
  return [];
}
