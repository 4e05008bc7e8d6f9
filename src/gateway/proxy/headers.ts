import type { IncomingMessage } from 'node:http';
import { isIP } from 'node:net';
import { pairs, type RawHeaders } from './pairs.ts';
import { headersOf, hostOf, isOpenEnded } from './versions.ts';

/** Headers of one connection, not of what it carries (RFC 9110, 7.6.1); whoever sends on makes its own. */
const HOP_BY_HOP = new Set([
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

/**
 * The headers a guest is sent: the client's own, with the original `Host`, without those of its connection, and who it is by
 * X-Forwarded-*. `upgrade`: those that ask for another protocol are sent too.
 */
export function towardsGuest(request: IncomingMessage, sender: ClientFacts, upgrade: boolean): string[] {
  const said = (name: string): string | undefined => {
    const value = sender.trusted ? request.headers[name] : undefined;
    return typeof value === 'string' && value !== '' ? value : undefined;
  };
  const before = said('x-forwarded-for');
  const sent = endToEnd(headersOf(request), request.headers.connection, FORWARDED);
  sent.push('X-Forwarded-For', before === undefined ? sender.from : `${before}, ${sender.from}`);
  sent.push('X-Forwarded-Proto', said('x-forwarded-proto') ?? sender.proto);
  sent.push('X-Forwarded-Host', said('x-forwarded-host') ?? hostOf(request) ?? '');
  if (isOpenEnded(request)) sent.push('Transfer-Encoding', 'chunked');
  sent.push('Connection', upgrade ? 'Upgrade' : 'close');
  if (upgrade) sent.push('Upgrade', request.headers.upgrade ?? '');
  return sent;
}

/** The headers a client is sent of a guest's answer. */
export function towardsClient(answer: IncomingMessage): string[] {
  return endToEnd(answer.rawHeaders, answer.headers.connection, new Set());
}

function endToEnd(raw: RawHeaders, connection: string | undefined, not: ReadonlySet<string>): string[] {
  const named = new Set((connection ?? '').split(',').map((name) => name.trim().toLowerCase()));
  // What says where a message goes and ends is never a connection's own, whoever says so.
  for (const name of ['host', 'content-length']) named.delete(name);
  return pairs(raw).flatMap(([name, value]) => {
    const lower = name.toLowerCase();
    return HOP_BY_HOP.has(lower) || named.has(lower) || not.has(lower) ? [] : [name, value];
  });
}
