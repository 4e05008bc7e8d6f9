import type { FastifyReply, FastifyRequest } from 'fastify';
import { onBehalfOf } from '../base/on-behalf.ts';
import { Failure } from '../model/failure.ts';
import type { ApiDeps, App } from './app.ts';
import { ANSWER_HEADERS } from '../model/failure-answer.ts';
import { hasBody } from './bodies.ts';
import { sendFailure } from './errors.ts';
import { HungUp } from './hung-up.ts';
import { KeyWatch } from './key-watch.ts';

/** How long answers under way have after the server was told to close, in milliseconds. */
const GRACE_MS = 600;
/** How long the last answers have to leave the machine. */
const FLUSH_MS = 100;

/** Names each request and what is done for it, sets the headers every answer has, and writes one log line when it is done. */
export function accompanyRequests(
  app: App,
  { log, clock, meter }: Pick<ApiDeps, 'log' | 'clock' | 'meter'>,
): void {
  app.decorateRequest('cameAt', 0);
  app.addHook('onRequest', (request, _reply, done) => onBehalfOf(request.id, done));
  // A body arrives by events of the connection, which many requests share.
  app.addHook('preValidation', (request, _reply, done) =>
    hasBody(request.raw) ? onBehalfOf(request.id, done) : done(),
  );
  // Hooks that wait for nothing are no promises, here and elsewhere: a dozen of them take as long as a query.
  app.addHook('onRequest', (request, reply, done) => {
    request.cameAt = clock.now();
    reply.headers({ ...ANSWER_HEADERS, 'x-request-id': request.id });
    done();
  });
  app.addHook('onResponse', (request, reply, done) => {
    const { method } = request;
    const [status, ms] = [reply.statusCode, clock.now() - request.cameAt];
    meter.request({ method, route: request.routeOptions.url, status, ms });
    log.info(
      {
        request_id: request.id,
        method,
        path: request.url.split('?')[0],
        status,
        ms,
        ...(request.caller ? { account: request.caller.accountId, key: request.caller.keyId } : {}),
      },
      'request',
    );
    done();
  });
}

/** Answers that go on until the caller hangs up. */
export interface Streams {
  /** A signal that aborts when the caller hangs up, its key is good no more, or the server closes. */
  begin(reply: FastifyReply): AbortSignal;
}

/**
 * Lets the server close within a second: streams are ended, new requests on open connections refused, answers under way
 * get a moment, and what then still waits (a guest to boot, say) is answered 503: the guest goes on, and what the journal has
 * unfinished is the next start's. A caller who hangs up ends only its own stream; what it asked for is done.
 */
export function closeInTime(
  app: App,
  { hatch, log, clock }: Pick<ApiDeps, 'hatch' | 'log' | 'clock'>,
): Streams {
  const streams = new Set<AbortController>();
  const underWay = new Map<FastifyReply, FastifyRequest>();
  const closed = new AbortController();
  const keys = new KeyWatch({ hatch, log, clock, signal: closed.signal });
  let closing = false;

  app.addHook('onRequest', (request, reply, done) => {
    if (closing) return done(stopping());
    underWay.set(reply, request);
    reply.raw.once('close', () => underWay.delete(reply));
    done();
  });
  app.addHook('onSend', (_request, reply, payload, done) => {
    if (closing) reply.header('connection', 'close');
    done(null, payload);
  });
  app.addHook('preClose', async () => {
    closing = true;
    for (const stream of streams) stream.abort(stopping());
    const wait = async (): Promise<void> => {
      await clock.sleep(GRACE_MS, closed.signal);
      for (const [reply, request] of underWay) if (!reply.sent) sendFailure(stopping(), request, reply);
      await clock.sleep(FLUSH_MS, closed.signal);
      app.server.closeAllConnections();
    };
    // Rejects only because the server closed sooner.
    wait().catch(() => undefined);
  });
  app.addHook('onClose', async () => closed.abort());

  return {
    begin: (reply) => {
      const controller = new AbortController();
      const { caller } = reply.request;
      const hungUp = (): void => {
        streams.delete(controller);
        if (caller) keys.leave(caller, controller);
        controller.abort(new HungUp());
      };
      streams.add(controller);
      if (caller) keys.join(caller, controller);
      reply.raw.once('close', hungUp);
      if (closing) controller.abort(stopping());
      // Whoever hung up while it was looked who asks is heard of no more.
      if (reply.raw.destroyed) hungUp();
      return controller.signal;
    },
  };
}

function stopping(): Failure {
  return new Failure(
    'unavailable',
    'Hatch is stopping. What was under way is finished or taken back when it is there again; ask in a moment.',
    { details: { retry_after_seconds: 1 } },
  );
}
