import type { IncomingMessage } from 'node:http';
import type { Socket } from 'node:net';
import type { FastifyRequest } from 'fastify';
import type { Clock } from '../base/clock.ts';
import type { Crowd } from '../base/crowd.ts';
import { Failure } from '../model/failure.ts';
import type { App } from './app.ts';

/** A whole request, body included, must have come within this, in milliseconds; of a file that is uploaded only the headers. */
export const REQUEST_MS = 60_000;
/** Bytes of bodies that are still coming, of all requests together, unless told otherwise. */
export const MOST_BODY_BYTES = 64 * 1024 * 1024;

interface Coming {
  readonly socket: Socket;
  bytes: number;
}

/**
 * Bounds what bodies that come slowly may hold: each has a minute, all together so many bytes, and a connection whose body has not come
 * whole is as good as silent: when there are almost too many, it makes room. Uploads, which are not kept in memory, have rules of their
 * own. `hangUp` answers on a connection and ends it.
 */
export function boundBodies(
  app: App,
  {
    clock,
    crowd,
    most,
    hangUp,
  }: {
    readonly clock: Clock;
    readonly crowd: Crowd;
    readonly most: number;
    readonly hangUp: (failure: Failure, socket: Socket) => void;
  },
): void {
  const coming = new Map<IncomingMessage, Coming>();
  let total = 0;
  const forget = (raw: IncomingMessage): void => {
    total -= coming.get(raw)?.bytes ?? 0;
    coming.delete(raw);
  };

  app.addHook('onRequest', (request, reply, done) => {
    const { raw } = request;
    crowd.busy(raw.socket);
    reply.raw.once('close', () => crowd.silent(raw.socket));
    if (!comesLater(request)) return done();
    // From now on it is the last of the silent ones.
    crowd.silent(raw.socket);
    const { socket } = raw;
    coming.set(raw, { socket, bytes: 0 });
    const whole = new AbortController();
    // Whose body nobody reads to its end, because it was refused, hears of the connection's end alone.
    const over = (): void => {
      forget(raw);
      whole.abort();
      socket.off('close', over);
    };
    for (const event of ['end', 'close']) raw.once(event, over);
    socket.once('close', over);
    clock.sleep(REQUEST_MS, whole.signal).then(
      () => {
        if (reply.raw.headersSent) socket.destroy();
        else hangUp(tooSlow(), socket);
      },
      () => undefined,
    );
    done();
  });

  // Not async: the body flows from the moment somebody listens, and who parses it must do so in the same turn.
  app.addHook('preParsing', (request, _reply, payload, done) => {
    const one = coming.get(request.raw);
    if (one)
      payload.on('data', (chunk: Buffer) => {
        if (!coming.has(request.raw)) return;
        one.bytes += chunk.length;
        total += chunk.length;
        for (const [slowest, { socket }] of coming) {
          if (total <= most) break;
          forget(slowest);
          hangUp(tooMany(), socket);
        }
      });
    done(null, payload);
  });
  app.addHook('preValidation', ({ raw: { socket } }, _reply, done) => {
    crowd.busy(socket);
    done();
  });
}

/** Refused with the headers that were too slow, too. */
export function tooSlow(): Failure {
  return new Failure('request_timeout', `The request did not come whole within ${REQUEST_MS / 1000} s.`);
}

function tooMany(): Failure {
  return new Failure(
    'unavailable',
    'Too many large bodies are being sent at once, and this one has taken longest; try again.',
    { details: { retry_after_seconds: 1 } },
  );
}

/** Whether a body comes after the headers, if only its end. */
export function hasBody({ headers }: Pick<IncomingMessage, 'headers'>): boolean {
  return headers['transfer-encoding'] !== undefined || Number(headers['content-length'] ?? 0) !== 0;
}

function comesLater({ raw, routeOptions }: FastifyRequest): boolean {
  return hasBody(raw) && routeOptions.config.upload === undefined;
}
