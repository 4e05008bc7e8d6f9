import { Readable } from 'node:stream';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { errorFields } from '../base/logger.ts';
import { sooner } from '../base/sooner.ts';
import { invalid } from '../model/failure.ts';
import type { HatchEvent } from '../model/records.ts';
import type { Hatch } from '../ops/hatch.ts';
import type { ApiDeps } from './app.ts';
import { callerOf } from './auth.ts';
import type { Streams } from './lifecycle.ts';
import { presentEvent } from './present.ts';

export type EventDeps = Pick<ApiDeps, 'hatch' | 'log' | 'clock'> & { readonly streams: Streams };

/** For the descriptions of the lists. */
export const FOLLOWED =
  'With `Accept: text/event-stream` events as they happen, from now on, as server-sent events: `id` is the event, `event` its kind, ' +
  '`data` the same object as in the list. `Last-Event-ID` goes on after that event, as browsers do by themselves.';

/** Something is said so often even where nothing happens, in milliseconds: who sits between may end what is silent. */
const SILENCE_MS = 15_000;
/** A client comes again so soon after the stream was cut off, in milliseconds. */
const COME_AGAIN_MS = 2000;

/** Whether a request for a list asks for what happens instead. */
export function wantsStream({ headers }: Pick<FastifyRequest, 'headers'>): boolean {
  return (headers.accept ?? '').split(',').some((one) => one.trim().startsWith('text/event-stream'));
}

/**
 * Answers with events as they happen, in the format of server-sent events (HTML Living Standard, 9.2), until the caller hangs up or the
 * server closes. A caller that reads slowly is sent no more than it takes.
 */
export async function followEvents(
  { hatch, log, clock, streams }: EventDeps,
  filter: Parameters<Hatch['events']['follow']>[1],
  request: FastifyRequest<{ Querystring: { limit?: number; after?: string } }>,
  reply: FastifyReply,
): Promise<FastifyReply> {
  for (const field of ['limit', 'after'] as const)
    if (request.query[field] !== undefined)
      throw invalid(field, `"${field}" is for lists; a stream goes on after the header Last-Event-ID.`);
  const last = request.headers['last-event-id'];
  const signal = streams.begin(reply);
  const after = typeof last === 'string' && last !== '' ? last : undefined;
  const events = await hatch.events.follow(callerOf(request), filter, after, signal);
  reply
    .type('text/event-stream; charset=utf-8')
    .headers({ 'cache-control': 'no-store', 'x-accel-buffering': 'no' });

  const text = async function* (): AsyncGenerator<string> {
    yield `retry: ${COME_AGAIN_MS}\n\n`;
    const each = events[Symbol.asyncIterator]();
    try {
      for (;;) {
        const next = each.next();
        let [come, told] = [false, Promise.withResolvers<void>()];
        const note = (): void => {
          come = true;
          told.resolve();
        };
        next.then(note, note);
        while (!come) {
          await sooner({ clock, signal }, told.promise, SILENCE_MS);
          if (come) break;
          // What waits on a promise stays with it, and a stream may be silent for weeks.
          told = Promise.withResolvers();
          yield ': nothing new\n\n';
        }
        const happened = await next;
        if (happened.done === true || signal.aborted) return;
        yield lineOf(happened.value);
      }
    } catch (error) {
      // An aborted stream ends; a broken one is cut off, and the caller comes again.
      if (signal.aborted) return;
      log.warn({ request_id: request.id, ...errorFields(error) }, 'a stream of events broke');
      throw error;
    }
  };
  return reply.send(Readable.from(text(), { objectMode: false, highWaterMark: 64 * 1024 }));
}

function lineOf(event: HatchEvent): string {
  // JSON has no line ends of its own.
  return `id: ${event.id}\nevent: ${event.kind}\ndata: ${JSON.stringify(presentEvent(event))}\n\n`;
}
