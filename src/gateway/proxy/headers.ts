import type { IncomingMessage } from 'node:http';
import { isIP } from 'node:net';
import { Failure } from '../../model/failure.ts';
import { HOP_BY_HOP, withoutNamed } from './message-head.ts';
import { headersOf, hostOf, isHttp2, isOpenEnded } from './versions.ts';

/** One line that asks, and headers: nothing in them ends a line but its end. */
const SENDABLE =
  /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+ [\x21-\x7e\x80-\xff]+ HTTP\/1\.1\r\n(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+: [\t\x20-\x7e\x80-\xff]*\r\n)*$/;
const FORWARDED = new Set(['forwarded', 'x-forwarded-for', 'x-forwarded-proto', 'x-forwarded-host']);

/** What is known of a request besides what it says. */
export interface ClientFacts {
  /** The address at the other end of its connection. */
  readonly from: string;
  readonly proto: 'http' | 'https';
  /** Whether that one is a proxy of ours, which may say whom it speaks for. */
  readonly trusted: boolean;
}

/**
 * Whom a request is from: the address at the other end of its connection, or, where that is a proxy of ours, whom it speaks for: the last
 * in X-Forwarded-For that is not a proxy of ours too. What stands before that one anybody may have written.
 */
export function clientOf(
  from: string,
  forwardedFor: string | readonly string[] | undefined,
  trusts: (address: string) => boolean,
): string {
  let client = from;
  for (const before of String(forwardedFor ?? '')
    .split(',')
    .reverse()) {
    const address = before.trim();
    if (!trusts(client) || isIP(address) === 0) break;
    client = address;
  }
  return client;
}

/** How a request goes on: over a connection that is kept or not, or asking for another protocol. */
export type Going = 'kept' | 'once' | 'upgrade';

/**
 * The head of a request as a guest is sent it: the client's own, with the original `Host`, without the headers of its connection, and who
 * it is by X-Forwarded-*. Throws `invalid_request` for what HTTP/2 lets through and HTTP/1.1 cannot say.
 */
export function headForGuest(request: IncomingMessage, sender: ClientFacts, going: Going): string {
  const { method = 'GET', url = '/', headers } = request;
  const said = (name: string): string | undefined => {
    const value = sender.trusted ? headers[name] : undefined;
    return typeof value === 'string' && value !== '' ? value : undefined;
  };
  const before = said('x-forwarded-for');
  let head = `${method} ${url} HTTP/1.1\r\n`;
  const raw = withoutNamed(headersOf(request), (headers.connection ?? '').toLowerCase());
  for (let i = 0; i + 1 < raw.length; i += 2) {
    const lower = raw[i]?.toLowerCase() ?? '';
    if (!HOP_BY_HOP.has(lower) && !FORWARDED.has(lower)) head += `${raw[i]}: ${raw[i + 1]}\r\n`;
  }
  head += `X-Forwarded-For: ${before === undefined ? sender.from : `${before}, ${sender.from}`}\r\n`;
  head += `X-Forwarded-Proto: ${said('x-forwarded-proto') ?? sender.proto}\r\n`;
  head += `X-Forwarded-Host: ${said('x-forwarded-host') ?? hostOf(request) ?? ''}\r\n`;
  if (isOpenEnded(request)) head += 'Transfer-Encoding: chunked\r\n';
  if (going === 'upgrade') head += `Connection: Upgrade\r\nUpgrade: ${headers.upgrade ?? ''}\r\n`;
  if (going === 'once') head += 'Connection: close\r\n';
  // What came by HTTP/1.1 was read by the same rules.
  if (isHttp2(request) && !SENDABLE.test(head))
    throw new Failure('invalid_request', 'HTTP/1.1 cannot say what was asked.');
  return `${head}\r\n`;
}
