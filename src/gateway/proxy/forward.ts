import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { ServerResponse as NodeResponse } from '../../base/node-http.ts';
import { Failure } from '../../model/failure.ts';
import type { Use } from '../../ops/use.ts';
import type { AnswerHead } from './answer-reader.ts';
import type { GuestConnection, Listener } from './guest-connection.ts';
import { GuestOver } from './guest-pool.ts';
import { headForGuest, type ClientFacts, type Going } from './headers.ts';
import { BadMessage } from './message-head.ts';
import type { RawHeaders } from './pairs.ts';
import { addTrailers, beginAnswer, cut, hasBody, isOpenEnded, sayInterim } from './versions.ts';

/** What a client still sends when it has its answer is thrown away for so long; then its connection ends. */
const LINGER_MS = 5000;
/** A body of up to so much goes out with its head. */
const SMALL_BYTES = 16 * 1024;

export interface Exchange {
  readonly request: IncomingMessage;
  readonly sender: ClientFacts;
  readonly guest: GuestConnection;
  /** Whether the connection may be kept for the next request. */
  readonly going: Going;
  /** Connects to the guest anew, where it has hung up on a connection that was kept. */
  readonly again: () => Promise<GuestConnection>;
  /** A guest that has had all of the request, or takes no more of it, is waited for so long until its answer begins; milliseconds. */
  readonly answerMs: number;
  /** How long its wake was waited for, in milliseconds; undefined: it was awake. */
  readonly wokenMs: number | undefined;
  /** The use of the VM that it is. */
  readonly use: Use;
}

/** The guest hung up without a word on a connection that had been kept: what was asked did not reach it. */
class Unheard extends Error {}

/**
 * Sends a request on to a guest and its answer back, as they come: bodies of any length both ways, no faster than the other side takes
 * them, trailers, `100 Continue`. An end of either side before its time ends the other. Rejects with a Failure `guest_unreachable` or
 * `timeout` when there was no answer; resolves when all is over.
 */
export async function forward(exchange: Exchange, response: ServerResponse): Promise<void> {
  const head = headOf(exchange);
  try {
    await converse(exchange, head, exchange.guest, response);
  } catch (error) {
    if (!(error instanceof Unheard)) throw error;
    await converse(exchange, head, await exchange.again(), response);
  }
}

function headOf({ request, sender, going, guest }: Exchange): string {
  try {
    return headForGuest(request, sender, going);
  } catch (error) {
    guest.end(new Error('there is nothing to ask'));
    throw error;
  }
}

/**
 * Whether a request may be sent over a connection that was kept, and again over a new one where the guest had hung up on that: it changes
 * nothing (RFC 9110, 9.2.1), and has no body. Any other is sent once, over a connection of its own.
 */
export function mayRepeat(request: IncomingMessage): boolean {
  return REPEATABLE.has(request.method ?? '') && !hasBody(request);
}

const REPEATABLE = new Set(['GET', 'HEAD', 'OPTIONS']);

function converse(
  { request, wokenMs, answerMs }: Exchange,
  head: string,
  guest: GuestConnection,
  response: ServerResponse,
): Promise<void> {
  return new Promise((resolve, reject) => {
    const late = endIfLate(guest, answerMs);
    let [heard, begun, wrote, whole] = [false, false, false, false];
    /** What has come of a body so far, when that is little: the rest may be here already. */
    let small: Buffer | undefined;
    const going = (): void => {
      // One that was cleared would run again.
      if (!heard) late.refresh();
    };
    const onDrain = (): void => guest.resume();
    const onClose = (): void => {
      clearTimeout(late);
      heard = true;
      if (!whole) guest.end(new Error('the client went away'));
      resolve();
    };
    const listener: Listener = {
      interim: ({ status, headers }) => sayInterim(response, status, headers),
      head: ({ status, reason, headers }) => {
        clearTimeout(late);
        heard = true;
        if (status === 101) throw new BadMessage('is for another protocol, which nobody asked for');
        beginAnswer(response, status, reason, withWake(headers, wokenMs));
        begun = true;
      },
      body: (piece) => {
        if (!wrote && !small && piece.length <= SMALL_BYTES) {
          small = piece;
          return true;
        }
        if (small) response.write(small);
        small = undefined;
        wrote = true;
        return response.write(piece);
      },
      settled: () => {
        if (small) {
          wrote = true;
          response.write(small);
          small = undefined;
        }
        // Its head is news already, as of server-sent events.
        else if (begun && !wrote && !whole) response.flushHeaders();
      },
      end: (trailers) => {
        whole = true;
        // The connection may be another's by then.
        response.off('drain', onDrain);
        if (trailers.length > 0) addTrailers(response, trailers);
        // As text it goes out with the head, in one write.
        if (small) response.end(small.toString('latin1'), 'latin1');
        else response.end();
        small = undefined;
        if (!sentWhole()) leaveUnread(request, guest);
      },
      drained: () => {
        going();
        request.resume();
      },
      failed: (cause, anything) => {
        clearTimeout(late);
        heard = true;
        response.off('close', onClose);
        response.off('drain', onDrain);
        if (!anything && guest.isUsed && !(cause instanceof GuestOver)) return reject(new Unheard());
        if (!begun) return reject(whyNoAnswer(cause));
        // Cut off, so that the client sees that it was not all.
        cut(response);
        resolve();
      },
    };
    response.on('drain', onDrain);
    response.once('close', onClose);
    guest.ask(head, request.method ?? 'GET', listener);
    const sentWhole = sendBody(request, guest, going);
  });
}

/** Sends the body of a request, no faster than it is taken; `going` is told as it does. Gives whether all of it was. */
function sendBody(request: IncomingMessage, guest: GuestConnection, going: () => void): () => boolean {
  let whole = !hasBody(request);
  const chunked = isOpenEnded(request);
  if (whole) {
    guest.sent();
    return () => whole;
  }
  request.on('data', (piece: Buffer) => {
    going();
    if (!(chunked ? guest.writeChunk(piece) : guest.write(piece))) request.pause();
  });
  request.on('end', () => {
    whole = true;
    if (chunked) guest.write(`0\r\n${lines(request.rawTrailers)}\r\n`);
    guest.sent();
  });
  // That the client went away is heard from its answer.
  request.on('error', () => undefined);
  return () => whole;
}

/** The guest has answered without waiting for the whole request: what is left of it is thrown away. */
function leaveUnread(request: IncomingMessage, guest: GuestConnection): void {
  request.removeAllListeners('data');
  guest.end(new Error('it answered before it had been asked'));
  request.resume();
  const enough = setTimeout(() => request.destroy(), LINGER_MS).unref();
  request.once('close', () => clearTimeout(enough));
}

/**
 * Asks a guest for another protocol (WebSocket and any other). When it agrees both ways are led until either end closes, and the use of
 * the VM ends with that; it is not waited for, so that nothing of the request is kept in memory meanwhile. One that does not agree has its
 * answer sent back, and the client's connection ends with it. Rejects as `forward` does.
 */
export async function forwardUpgrade(exchange: Exchange, client: Duplex, head: Buffer): Promise<void> {
  const { use } = exchange;
  let guest: Socket | undefined;
  try {
    guest = await upgraded(exchange, headOf(exchange), client);
  } finally {
    if (!guest) use.end();
  }
  if (!guest) return;
  if (head.length > 0) guest.write(head);
  void together(client, guest, use).then(() => use.end());
}

/** The guest's socket when it agrees; undefined when it has answered otherwise. */
function upgraded(
  { request, guest, wokenMs, answerMs }: Exchange,
  head: string,
  client: Duplex,
): Promise<Socket | undefined> {
  return new Promise((resolve, reject) => {
    const late = endIfLate(guest, answerMs);
    let response: ServerResponse | undefined;
    let agreed: AnswerHead | undefined;
    const gone = (): void => {
      clearTimeout(late);
      guest.end(new Error('the client went away'));
      resolve(undefined);
    };
    client.once('close', gone);
    guest.ask(head, 'GET', {
      interim: () => undefined,
      head: (answer) => {
        clearTimeout(late);
        if (answer.status === 101) {
          if (answer.upgrade === undefined) throw new BadMessage('does not say which protocol it goes on in');
          agreed = answer;
          return;
        }
        response = answerOn(request, client);
        response.on('drain', () => guest.resume());
        beginAnswer(response, answer.status, answer.reason, withWake(answer.headers, wokenMs));
      },
      body: (piece) => response?.write(piece) ?? true,
      settled: () => response?.flushHeaders(),
      end: () => {
        if (!agreed) return void response?.end();
        client.off('close', gone);
        const { reason, headers, upgrade = '' } = agreed;
        const own = `Connection: Upgrade\r\nUpgrade: ${upgrade}\r\n`;
        client.write(`HTTP/1.1 101 ${reason}\r\n${lines(withWake(headers, wokenMs))}${own}\r\n`, 'latin1');
        resolve(guest.release());
      },
      drained: () => undefined,
      failed: (cause) => {
        clearTimeout(late);
        client.off('close', gone);
        if (!response) return reject(whyNoAnswer(cause));
        client.destroy();
        resolve(undefined);
      },
    });
    guest.sent();
  });
}

/** An answer for a request whose connection was taken out of the server's hands; the connection ends with it. */
export function answerOn(request: IncomingMessage, client: Duplex): ServerResponse {
  const response = new NodeResponse(request);
  response.shouldKeepAlive = false;
  response.assignSocket(client as Socket);
  response.once('finish', () => client.end());
  return response;
}

function endIfLate(guest: GuestConnection, ms: number): NodeJS.Timeout {
  const why = `The guest did not answer within ${ms / 1000} s.`;
  return setTimeout(() => guest.end(new Failure('timeout', why)), ms);
}

function whyNoAnswer(cause: Error): Failure {
  if (cause instanceof Failure) return cause;
  const why =
    cause instanceof GuestOver
      ? 'The machine was stopped or put to sleep before it answered.'
      : cause instanceof BadMessage
        ? `What the guest answered is not HTTP/1.1: it ${cause.message}.`
        : 'The guest ended the connection without an answer.';
  return new Failure('guest_unreachable', why, { cause });
}

function withWake(headers: RawHeaders, wokenMs: number | undefined): RawHeaders {
  return wokenMs === undefined ? headers : [...headers, 'Hatch-Wake-Ms', String(Math.round(wokenMs))];
}

function lines(raw: RawHeaders): string {
  return raw.map((text, i) => (i % 2 === 0 ? `${text}: ` : `${text}\r\n`)).join('');
}

/** Leads both ways; resolves when both are closed. One that closes takes the other with it, after what it had said. */
function together(one: Duplex, other: Duplex, use: Use): Promise<void> {
  const closed = (from: Duplex, to: Duplex): Promise<void> =>
    new Promise((resolve) => {
      from.on('error', () => to.destroy());
      from.once('close', () => {
        to.end();
        resolve();
      });
      from.on('data', () => use.payload());
      from.pipe(to);
    });
  return Promise.all([closed(one, other), closed(other, one)]).then(() => undefined);
}
