import { createHash } from 'node:crypto';
import type { FastifyRequest } from 'fastify';
import { errorFields } from '../base/logger.ts';
import { ERRORS, isErrorCode } from '../contract/errors.ts';
import { invalid } from '../model/failure.ts';
import type { Turn } from '../ops/idempotency.ts';
import type { ApiDeps, App } from './app.ts';
import { callerOf } from './auth.ts';
import { HungUp } from './hung-up.ts';

declare module 'fastify' {
  interface FastifyContextConfig {
    /** It makes something: with an Idempotency-Key it may be sent again, and makes it once. */
    idempotent?: true;
  }
  interface FastifyRequest {
    /** Set while it is carried out under an Idempotency-Key. */
    turn: Turn | null;
  }
}

/** Printable ASCII, as a header may hold (draft-ietf-httpapi-idempotency-key-header, which leaves the rest to the server). */
const KEY = /^[\x21-\x7e]{1,255}$/;

/**
 * Lets requests that make something be sent again with the same `Idempotency-Key` within a day: the first is carried out, those that come
 * meanwhile wait for its answer, those after it are given the same, with the header `Idempotency-Replayed`. An answer that says that the
 * same may succeed later is not kept; what had been made by then is found by the next try. A caller who hangs up is none the worse.
 */
export function acceptIdempotencyKeys(app: App, { hatch, log }: Pick<ApiDeps, 'hatch' | 'log'>): void {
  app.decorateRequest('turn', null);
  // After the body was checked: one that is wrong is none that could be carried out.
  app.addHook('preHandler', async (request, reply) => {
    const key = request.headers['idempotency-key'];
    if (key === undefined || request.routeOptions.config.idempotent !== true) return undefined;
    if (typeof key !== 'string' || !KEY.test(key))
      throw invalid(
        'Idempotency-Key',
        '"Idempotency-Key" must be 1 to 255 printable ASCII characters without spaces, such as a UUID.',
      );
    const gone = new AbortController();
    const onClose = (): void => gone.abort(new HungUp());
    request.raw.socket.once('close', onClose);
    const caller = callerOf(request);
    const found = await hatch.idempotency
      .of(caller, key, fingerprintOf(request), gone.signal)
      .finally(() => request.raw.socket.off('close', onClose));
    if ('settle' in found) {
      request.turn = found;
      request.caller = { ...caller, newId: found.newId };
      return undefined;
    }
    if (found.location !== null) reply.header('location', found.location);
    // An error names the request it came of, in its body and here.
    const of = found.status < 400 ? undefined : fieldOf(found.body, 'request_id');
    if (typeof of === 'string') reply.header('x-request-id', of);
    return reply
      .code(found.status)
      .headers({ 'content-type': 'application/json; charset=utf-8', 'idempotency-replayed': 'true' })
      .send(Buffer.from(found.body));
  });
  app.addHook('onSend', async (request, reply, payload) => {
    const { turn } = request;
    if (!turn) return;
    request.turn = null;
    const location = reply.getHeader('location');
    const answer =
      typeof payload === 'string' && lasts(reply.statusCode, payload)
        ? {
            status: reply.statusCode,
            body: payload,
            location: typeof location === 'string' ? location : null,
          }
        : null;
    try {
      // Before it is sent: whoever has it can rely on it.
      await turn.settle(answer);
    } catch (error) {
      // It is true all the same, and the next try finds what was made.
      log.warn({ request_id: request.id, ...errorFields(error) }, 'could not keep an answer');
    }
  });
}

/** Whether an answer will be the same each time: all but those of failures that may pass. */
function lasts(status: number, body: string): boolean {
  if (status < 400) return true;
  const code = fieldOf(body, 'code');
  if (typeof code !== 'string' || !isErrorCode(code)) return false;
  // A defect may have been mended by the next try.
  return !ERRORS[code].retryable && code !== 'internal';
}

function fieldOf(body: string, name: string): unknown {
  const parsed: unknown = JSON.parse(body);
  return typeof parsed === 'object' && parsed !== null ? Reflect.get(parsed, name) : undefined;
}

/** What makes a request the same as another: all of it but how long its answer is waited for. */
function fingerprintOf({ method, url, body, headers, routeOptions }: FastifyRequest): string {
  const [path, query = ''] = url.split('?', 2);
  const asked = [...new URLSearchParams(query)]
    .filter(([name]) => name !== 'wait' && name !== 'timeout')
    .map(([name, value]) => `${name}=${value}`)
    .sort();
  // What is uploaded has not been read yet; of another length it is another.
  const content = routeOptions.config.upload === undefined ? body : headers['content-length'];
  return createHash('sha256')
    .update(JSON.stringify([method, path, asked, content ?? null]))
    .digest('hex');
}
