import { request as httpRequest, ServerResponse, type ClientRequest, type IncomingMessage } from 'node:http';
import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { Failure } from '../../model/failure.ts';
import type { Use } from '../../ops/activity.ts';
import { towardsClient, towardsGuest, type ClientFacts } from './headers.ts';
import { pairs } from './pairs.ts';
import { addTrailers, beginAnswer, cut } from './versions.ts';

/** A guest that has said nothing of its answer by then is not waited for any longer. */
const ANSWER_MS = 300_000;

export interface Exchange {
  readonly request: IncomingMessage;
  readonly sender: ClientFacts;
  /** A connection to the guest that is used for this alone: one that was kept would be ahead of a guest that slept meanwhile. */
  readonly guest: Socket;
  /** How long its wake was waited for, in milliseconds; undefined: it was awake. */
  readonly wokenMs: number | undefined;
  /** The use of the VM that it is. */
  readonly use: Use;
}

/**
 * Sends a request on to a guest and its answer back, as they come: bodies of any length both ways, no faster than the other side takes
 * them, trailers, `100 Continue`. An end of either side before its time ends the other. Rejects with a Failure `guest_unreachable` or
 * `timeout` when there was no answer; resolves when all is over.
 */
export async function forward(exchange: Exchange, response: ServerResponse): Promise<void> {
  const { request } = exchange;
  const sent = start(exchange, false);
  sent.on('continue', () => response.writeContinue());
  const gone = (): void => void sent.destroy();
  response.once('close', gone);
  try {
    request.on('end', () => sent.addTrailers(pairs(request.rawTrailers)));
    request.on('error', gone);
    request.pipe(sent);
    await answerBack(await answerOf(sent), exchange, response);
  } finally {
    response.off('close', gone);
    request.unpipe(sent);
    sent.destroy();
  }
}

/**
 * Asks a guest for another protocol (WebSocket and any other), and leads both ways when it agrees, until either end closes. One that does
 * not agree has its answer sent back, and the client's connection ends with it. Rejects as `forward` does.
 */
export async function forwardUpgrade(exchange: Exchange, client: Duplex, head: Buffer): Promise<void> {
  const sent = start(exchange, true);
  const gone = (): void => void sent.destroy();
  client.once('close', gone);
  sent.end();
  try {
    const { answer, socket, first } = await upgradeOf(sent);
    if (!socket) return await answerBack(answer, exchange, answerOn(exchange.request, client));
    const lines = pairs(answer.rawHeaders).map(([name, value]) => `${name}: ${value}\r\n`);
    client.write(`HTTP/1.1 ${answer.statusCode} ${answer.statusMessage}\r\n${lines.join('')}\r\n`);
    if (first.length > 0) client.write(first);
    if (head.length > 0) socket.write(head);
    await together(client, socket, exchange.use);
  } finally {
    client.off('close', gone);
    sent.destroy();
  }
}

/** An answer for a request whose connection was taken out of the server's hands; the connection ends with it. */
export function answerOn(request: IncomingMessage, client: Duplex): ServerResponse {
  const response = new ServerResponse(request);
  response.shouldKeepAlive = false;
  response.assignSocket(client as Socket);
  response.once('finish', () => client.end());
  return response;
}

function start({ request, sender, guest }: Exchange, upgrade: boolean): ClientRequest {
  const sent = httpRequest({
    createConnection: () => guest,
    method: request.method,
    path: request.url,
    headers: towardsGuest(request, sender, upgrade),
    setHost: false,
  });
  // Heard where the answer is waited for; one that comes later ends with the connection.
  sent.on('error', () => undefined);
  return sent;
}

function answerOf(sent: ClientRequest): Promise<IncomingMessage> {
  return upgradeOf(sent).then(({ answer, socket }) => {
    // Nobody asked for another protocol.
    socket?.destroy();
    return answer;
  });
}

interface Answered {
  readonly answer: IncomingMessage;
  /** Where the guest goes on in another protocol, and what it has said there. */
  readonly socket: Socket | undefined;
  readonly first: Buffer;
}

function upgradeOf(sent: ClientRequest): Promise<Answered> {
  return new Promise((resolve, reject) => {
    const late = setTimeout(() => {
      reject(new Failure('timeout', `The guest did not answer within ${ANSWER_MS / 1000} s.`));
      sent.destroy();
    }, ANSWER_MS);
    const failed = (cause?: unknown): void => {
      clearTimeout(late);
      reject(
        new Failure('guest_unreachable', 'The guest ended the connection without an answer.', { cause }),
      );
    };
    sent.once('response', (answer) => {
      clearTimeout(late);
      resolve({ answer, socket: undefined, first: Buffer.alloc(0) });
    });
    sent.once('upgrade', (answer, socket, first) => {
      clearTimeout(late);
      resolve({ answer, socket, first });
    });
    sent.once('error', failed);
    sent.once('close', () => failed());
  });
}

/** Sends an answer back; resolves when it has been, or one side has gone. */
function answerBack(answer: IncomingMessage, { wokenMs }: Exchange, response: ServerResponse): Promise<void> {
  const headers = towardsClient(answer);
  if (wokenMs !== undefined) headers.push('Hatch-Wake-Ms', String(Math.round(wokenMs)));
  beginAnswer(response, answer.statusCode ?? 502, answer.statusMessage ?? '', headers);
  return new Promise((resolve) => {
    answer.on('end', () => {
      if (answer.rawTrailers.length > 0) addTrailers(response, answer.rawTrailers);
      response.end();
    });
    // Cut off, so that the client sees that it was not all.
    answer.on('close', () => {
      if (!answer.complete) cut(response);
    });
    answer.on('error', () => cut(response));
    response.once('close', () => {
      answer.destroy();
      resolve();
    });
    answer.pipe(response, { end: false });
  });
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
