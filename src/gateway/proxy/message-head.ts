import type { RawHeaders } from './pairs.ts';

/** Something is not the HTTP/1.1 it should be (RFC 9112). The message completes "it ...". */
export class BadMessage extends Error {
  override readonly name = 'BadMessage';
}

/** The head of a message: its first line, and its headers by what they are for. */
export interface Head {
  readonly start: string;
  /** Those that are for the other end, as they were written, without those that are a connection's own (RFC 9110, 7.6.1). */
  readonly headers: RawHeaders;
  /** The values of all `Connection` headers, in lower case. */
  readonly connection: string;
  /** The value of `Content-Length`, read; undefined: none. */
  readonly length: number | undefined;
  /** Whether it has a `Transfer-Encoding`, which can only be chunked. */
  readonly chunked: boolean;
  readonly upgrade: string | undefined;
}

/** As many bytes a head may have; Node's own limit for requests is set to the same. */
export const HEAD_BYTES = 32 * 1024;

/** Headers of one connection, not of what it carries; whoever sends on makes its own. */
export const HOP_BY_HOP: ReadonlySet<string> = new Set([
  'connection',
  'keep-alive',
  'proxy-connection',
  'proxy-authenticate',
  'proxy-authorization',
  'te',
  'transfer-encoding',
  'upgrade',
  'http2-settings',
]);
/** What says where a message goes and ends is never a connection's own, whoever says so. */
const NEVER_NAMED: ReadonlySet<string> = new Set(['host', 'content-length']);

const TOKEN = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/;
const NOT_IN_VALUES = /[^\t\x20-\x7e\x80-\xff]/;
const LENGTH = /^\d{1,15}$/;

/**
 * Reads a head, given without the empty line at its end, as latin1. Strict, since what two sides read differently is how requests are
 * smuggled: lines end in CRLF, none is folded, names are tokens, there is one length or one chunked encoding. Throws BadMessage.
 */
export function readHead(text: string): Head {
  const [start = '', ...lines] = text.split('\r\n');
  const headers: string[] = [];
  let connection = '';
  let length: number | undefined;
  let chunked = false;
  let upgrade: string | undefined;
  for (const line of lines) {
    const colon = line.indexOf(':');
    const name = line.slice(0, Math.max(colon, 0));
    if (!TOKEN.test(name)) throw new BadMessage('has a line in its head that is no header');
    const value = trimmed(line, colon + 1);
    if (NOT_IN_VALUES.test(value)) throw new BadMessage(`has a control character in its header ${name}`);
    const lower = name.toLowerCase();
    if (lower === 'content-length') {
      if (length !== undefined || !LENGTH.test(value))
        throw new BadMessage('has more than one Content-Length, or one that is no number');
      length = Number(value);
    } else if (HOP_BY_HOP.has(lower)) {
      if (lower === 'connection') connection += `${connection === '' ? '' : ','}${value.toLowerCase()}`;
      else if (lower === 'upgrade') upgrade = value;
      else if (lower === 'transfer-encoding') {
        if (chunked || value.toLowerCase() !== 'chunked')
          throw new BadMessage('has a Transfer-Encoding other than chunked');
        chunked = true;
      }
      continue;
    }
    headers.push(name, value);
  }
  if (chunked && length !== undefined)
    throw new BadMessage('has both a Content-Length and a Transfer-Encoding');
  return { start, headers: withoutNamed(headers, connection), connection, length, chunked, upgrade };
}

/** Whether `Connection` has a word. */
export function says({ connection }: Pick<Head, 'connection'>, word: 'close' | 'keep-alive'): boolean {
  return connection.split(',').some((one) => one.trim() === word);
}

/** Headers without those that `Connection`, in lower case, says are the connection's own. */
export function withoutNamed(headers: RawHeaders, connection: string): RawHeaders {
  if (connection === '' || connection === 'close' || connection === 'keep-alive') return headers;
  const named = new Set(
    connection
      .split(',')
      .map((one) => one.trim())
      .filter((one) => one !== '' && one !== 'close' && one !== 'keep-alive' && !NEVER_NAMED.has(one)),
  );
  if (named.size === 0) return headers;
  return headers.filter((_, i) => !named.has((headers[i - (i % 2)] ?? '').toLowerCase()));
}

/** A header's value: what follows the colon, without spaces and tabs around it. */
function trimmed(line: string, from: number): string {
  let [first, last] = [from, line.length];
  while (first < last && isBlank(line.charCodeAt(first))) first++;
  while (last > first && isBlank(line.charCodeAt(last - 1))) last--;
  return line.slice(first, last);
}

function isBlank(code: number): boolean {
  return code === 0x20 || code === 0x09;
}
