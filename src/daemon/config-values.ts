import { isIP, isIPv4 } from 'node:net';
import { resolve } from 'node:path';
import { Cron } from 'croner';
import { isHostName } from '../model/host-name.ts';

/**
 * How each kind of setting is read from its text. All throw an Error whose message completes the sentence "NAME ...", saying
 * what is allowed.
 */

/** One of the given words. */
export function oneOf<const W extends readonly string[]>(...words: W): (text: string) => W[number] {
  return (text) => {
    const found = words.find((word) => word === text);
    if (found === undefined) throw new Error(`must be one of ${words.join(', ')}.`);
    return found;
  };
}

/** A whole number between two others, both included. */
export function whole(least: number, most: number): (text: string) => number {
  return (text) => {
    const value = /^\d{1,15}$/.test(text) ? Number(text) : NaN;
    if (!(value >= least && value <= most))
      throw new Error(`must be a whole number from ${least} to ${most}.`);
    return value;
  };
}

/** A duration in milliseconds: `500ms`, `30s`, `5m`, `1h`. */
export function duration(text: string): number {
  const [, amount, unit] = /^(\d{1,9})(ms|s|m|h)$/.exec(text) ?? [];
  if (amount === undefined || unit === undefined)
    throw new Error('must be a duration such as 30s, 5m or 1h.');
  return Number(amount) * { ms: 1, s: 1000, m: 60_000, h: 3_600_000 }[unit as 'ms' | 's' | 'm' | 'h'];
}

/** `address:port`, an IPv6 address in brackets; port 0 lets the system choose. */
export function hostPort(text: string): { readonly host: string; readonly port: number } {
  const [, six, other, digits] = /^(?:\[([^\]]+)\]|([^:]*)):(\d{1,5})$/.exec(text) ?? [];
  const host = six ?? other;
  const port = Number(digits);
  if (host === undefined || host === '' || (six !== undefined && isIP(six) !== 6) || !(port <= 65535)) {
    throw new Error('must be an address and a port such as 127.0.0.1:8080.');
  }
  return { host, port };
}

/** An absolute path, or the name of a program for PATH to find. */
export function path(text: string): string {
  if (text.includes('\0')) throw new Error('must be a path.');
  return text.includes('/') ? resolve(text) : text;
}

/** Absolute paths with colons between. */
export function paths(text: string): readonly string[] {
  return text
    .split(':')
    .filter((part) => part !== '')
    .map((part) => resolve(part));
}

/** One word without spaces. */
export function word(text: string): string {
  if (!/^[\x21-\x7e]+$/.test(text)) throw new Error('must be one word without spaces.');
  return text;
}

/** A domain that names can hang under, in lower case. */
export function baseDomain(text: string): string {
  const domain = text.toLowerCase();
  if (!isHostName(`${'x'.repeat(63)}.${domain}`))
    throw new Error('must be a domain such as hatch.example.com, of at most 189 characters.');
  return domain;
}

/** One line of printable characters. */
export function line(text: string): string {
  if (!/^[\x20-\x7e]+$/.test(text)) throw new Error('must be one line of printable characters.');
  return text;
}

/** A cron line of five fields (six with seconds), as it is. */
export function cron(text: string): string {
  try {
    if (new Cron(text, { paused: true }).nextRun()) return text;
  } catch {
    // Said below, without a library's words.
  }
  throw new Error('must be a cron line such as "30 3 * * *" that comes at some time.');
}

/** Kernel arguments: one line, at most 2048 bytes. */
export function bootArgs(text: string): string {
  if (text.length > 2048) throw new Error('must be at most 2048 bytes.');
  return line(text);
}

/** A host's name in the database. */
export function hostName(text: string): string {
  if (!/^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/.test(text))
    throw new Error('must be up to 63 letters, digits, dots and dashes.');
  return text;
}

/** A Linux network interface's name (IFNAMSIZ: at most 15 characters). */
export function interfaceName(text: string): string {
  if (!/^[A-Za-z0-9][A-Za-z0-9_.-]{0,14}$/.test(text))
    throw new Error('must be an interface name of at most 15 letters, digits, dots and dashes.');
  return text;
}

/** An IP address to listen on. */
export function address(text: string): string {
  if (isIP(text) === 0) throw new Error('must be an IP address.');
  return text;
}

/** IPv4 addresses with commas between. */
export function addresses(text: string): readonly string[] {
  const all = list(text);
  if (all.length === 0 || !all.every((one) => isIPv4(one)))
    throw new Error('must be IPv4 addresses with commas between.');
  return all;
}

/** Networks with commas between; a bare address is a network of one. */
export function networks(text: string): readonly string[] {
  const all = list(text).map((one) => (one.includes('/') ? one : `${one}/${isIPv4(one) ? 32 : 128}`));
  if (all.length === 0 || !all.every(isNetwork))
    throw new Error('must be networks such as 10.0.0.0/8 with commas between.');
  return all;
}

/** `allow`, `deny`, or IPv4 networks with commas between. */
export function egress(text: string): 'allow' | 'deny' | readonly string[] {
  if (text === 'allow' || text === 'deny') return text;
  try {
    const all = networks(text);
    if (all.every((one) => isIPv4(one.split('/')[0] ?? ''))) return all;
  } catch {
    // Said below, with what is allowed here.
  }
  throw new Error('must be allow, deny, or IPv4 networks with commas between.');
}

function isNetwork(text: string): boolean {
  const [ip = '', bits = ''] = text.split('/');
  return isIP(ip) !== 0 && /^\d{1,3}$/.test(bits) && Number(bits) <= (isIPv4(ip) ? 32 : 128);
}

function list(text: string): string[] {
  return text
    .split(',')
    .map((one) => one.trim())
    .filter((one) => one !== '');
}

/** `sqlite:PATH` or a postgres URL; one without a host names its socket's folder with `?host=`, as libpq has it. */
export function databaseUrl(text: string): string {
  if (/^sqlite:.+/.test(text)) return text;
  const url = text.replace('@/', '@localhost/');
  if (/^postgres(ql)?:\/\//.test(url) && URL.canParse(url)) return text;
  throw new Error(
    'must be sqlite:PATH or postgres://USER:PASSWORD@HOST/DATABASE; characters such as @ : / # in a password must be percent-encoded.',
  );
}

/** A database's URL for people to see: whatever may be a secret in it is hidden. */
export function databaseUrlShown(text: string): string {
  if (text.startsWith('sqlite:')) return text;
  const shown = text.replace(/^(postgres(?:ql)?:\/\/[^:@/]*):[^@/]*@/, '$1:***@').replace(/[?#].*$/s, '?***');
  // What does not look like one may hold a secret anywhere.
  return /^postgres(ql)?:\/\/([\w.%-]*(:\*\*\*)?@)?[\w.%[\]:-]*(\/[\w.%-]*)?(\?\*\*\*)?$/.test(shown)
    ? shown
    : '(hidden)';
}

/** Where snapshots are stored. */
export type SnapshotStore =
  | { readonly kind: 'dir'; readonly path: string }
  /** `prefix` is empty or ends in a slash. */
  | { readonly kind: 's3'; readonly bucket: string; readonly prefix: string };

/** `dir:PATH` or `s3://bucket/prefix`. */
export function snapshotStore(text: string): SnapshotStore {
  const [, path] = /^dir:([^\0]+)$/s.exec(text) ?? [];
  if (path !== undefined) return { kind: 'dir', path: resolve(path) };
  const [, bucket, prefix = ''] =
    /^s3:\/\/([A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9])(?:\/([A-Za-z0-9/._-]{0,200}))?$/.exec(text) ?? [];
  const parts = prefix.split('/').filter((part) => part !== '');
  if (bucket !== undefined && parts.every((part) => !part.startsWith('.')))
    return { kind: 's3', bucket, prefix: parts.map((part) => `${part}/`).join('') };
  throw new Error(
    'must be dir:PATH or s3://bucket/prefix, with letters, digits, dots, dashes and underscores in the prefix.',
  );
}

/** The URL of an S3 store: its keys are settings of their own. */
export function s3Endpoint(text: string): string {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (url && /^https?:$/.test(url.protocol) && !url.username && !url.password && !url.search && !url.hash)
    return text;
  throw new Error('must be an http or https URL without a user, such as https://s3.example.com.');
}

/** An S3 store's URL for people to see: what may be a password in it is hidden. */
export function s3EndpointShown(text: string): string {
  return text.replace(/\/\/.*@/s, '//***@').replace(/[?#].*$/s, '?***');
}
