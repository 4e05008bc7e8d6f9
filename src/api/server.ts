import { createServer, maxHeaderSize, STATUS_CODES, type Server } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import type { Socket } from 'node:net';
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox';
import { fastify } from 'fastify';
import type { Clock } from '../base/clock.ts';
import { Crowd } from '../base/crowd.ts';
import { errorFields } from '../base/logger.ts';
import { Failure } from '../model/failure.ts';
import { accountRoutes } from './accounts.ts';
import type { ApiDeps, App } from './app.ts';
import { guardRoutes } from './auth.ts';
import { consoleRoutes } from './console.ts';
import { describeRoutes, docsRoutes } from './docs.ts';
import { errorBody, newRequestId, statusOf } from '../model/failure-answer.ts';
import { errorHandler, sendFailure, toFailure } from './errors.ts';
import { eventRoutes } from './events.ts';
import { execRoutes } from './exec.ts';
import { guestFileRoutes } from './guest-files.ts';
import { healthRoutes } from './health.ts';
import { idleRoutes } from './idle.ts';
import { imageRoutes } from './images.ts';
import { BODY_BYTES, takeJsonOnly } from './json-body.ts';
import { keyRoutes } from './keys.ts';
import { accompanyRequests, closeInTime } from './lifecycle.ts';
import { metricsRoutes } from './metrics.ts';
import { answerUnknownPaths } from './paths.ts';
import { savedFileRoutes } from './saved-files.ts';
import { templateRoutes } from './templates.ts';
import { snapshotFileRoutes } from './snapshot-files.ts';
import { snapshotRoutes } from './snapshots.ts';
import { routeRoutes } from './routes.ts';
import { acceptIdempotencyKeys } from './idempotency.ts';
import { rateLimiter, type RateLimit } from './rate-limit.ts';
import { serializerCompiler, validatorCompiler } from './validation.ts';
import { vmRoutes } from './vms.ts';

/** How the API is reached. */
export interface ApiOptions {
  /** PEM texts; plain HTTP without. */
  readonly tls?: { readonly cert: string; readonly key: string } | undefined;
  /** Per key; none without. */
  readonly rateLimit?: RateLimit | undefined;
  readonly mostConnections?: number | undefined;
}

/** A whole request, body included, must have come within this, in milliseconds; of a file that is uploaded only the headers. */
const REQUEST_MS = 60_000;
/** How long an idle connection is kept, in milliseconds; longer than load balancers usually keep theirs. */
const KEEP_ALIVE_MS = 72_000;

/** Connections there may be at once unless told otherwise: those that say nothing make room for others. */
const MOST_CONNECTIONS = 4000;

/**
 * Builds the API over a Hatch. Nothing listens yet: call `listen({ host, port })`; `close()` ends within a second, whatever
 * is under way. Tests call `inject` without a port.
 */
export async function createApi(
  deps: ApiDeps,
  { tls, rateLimit = { perSecond: 0, burst: 0 }, mostConnections = MOST_CONNECTIONS }: ApiOptions = {},
): Promise<App> {
  const { hatch, log, clock, version, meter } = deps;
  const app: App = fastify({
    bodyLimit: BODY_BYTES,
    genReqId: newRequestId,
    return503OnClosing: false,
    routerOptions: { ignoreTrailingSlash: true, maxParamLength: 512 },
    frameworkErrors: (error, request, reply) => {
      sendFailure(toFailure(error), request, reply);
    },
    clientErrorHandler: (error, socket) => answerBrokenHttp(error, socket),
    serverFactory: (handler): Server => {
      const server = tls ? createTlsServer(tls, handler) : createServer(handler);
      // Bodies have a limit each of their own: an upload may take hours.
      server.requestTimeout = 0;
      server.headersTimeout = REQUEST_MS;
      server.keepAliveTimeout = KEEP_ALIVE_MS;
      return server;
    },
  }).withTypeProvider<TypeBoxTypeProvider>();

  app.addHook('onListen', async () => {
    app.server.on('error', (error) => log.warn(errorFields(error), 'could not take a connection'));
  });
  app.setValidatorCompiler(validatorCompiler);
  app.setSerializerCompiler(serializerCompiler);
  app.setErrorHandler(errorHandler(log));
  boundConnections(app, mostConnections);
  takeJsonOnly(app);
  accompanyRequests(app, { log, clock, meter });
  const streams = closeInTime(app, { hatch, log, clock });
  limitBodies(app, clock);
  guardRoutes(app, hatch, rateLimiter(clock, rateLimit));
  acceptIdempotencyKeys(app, { hatch, log });
  answerUnknownPaths(app);
  await describeRoutes(app, version);

  vmRoutes(app, { hatch });
  snapshotRoutes(app, { hatch });
  savedFileRoutes(app, { hatch, log, streams });
  await snapshotFileRoutes(app, { hatch, log, streams, clock });
  routeRoutes(app, { hatch });
  idleRoutes(app, { hatch });
  execRoutes(app, { hatch });
  await guestFileRoutes(app, { hatch, log, streams, clock });
  consoleRoutes(app, { hatch, log, streams });
  metricsRoutes(app, { hatch, meter });
  eventRoutes(app, { hatch, log, clock, streams });
  imageRoutes(app, { hatch });
  templateRoutes(app, { hatch });
  keyRoutes(app, { hatch, clock });
  accountRoutes(app, { hatch });
  healthRoutes(app, { hatch, version });
  await docsRoutes(app);
  await app.ready();
  return app;
}

/** Has connections without a request make room when there are almost too many. */
function boundConnections(app: App, most: number): void {
  const crowd = new Crowd(app.server, most);
  app.addHook('onRequest', async ({ raw: { socket } }, reply) => {
    crowd.busy(socket);
    reply.raw.once('close', () => crowd.silent(socket));
  });
}

/** Ends the connection of a body that does not come whole in time, unless it is an upload, which has a rule of its own. */
function limitBodies(app: App, clock: Clock): void {
  app.addHook('onRequest', async (request, reply) => {
    const { headers, socket } = request.raw;
    const none = headers['transfer-encoding'] === undefined && Number(headers['content-length'] ?? 0) === 0;
    if (none || request.routeOptions.config.upload !== undefined) return;
    const whole = new AbortController();
    // Whose body nobody reads to its end, because it was refused, hears of the connection's end alone.
    const over = (): void => {
      whole.abort();
      socket.off('close', over);
    };
    for (const event of ['end', 'close']) request.raw.once(event, over);
    socket.once('close', over);
    clock.sleep(REQUEST_MS, whole.signal).then(
      () => {
        if (reply.raw.headersSent) socket.destroy();
        else answerBrokenHttp(Object.assign(new Error('slow'), { code: 'ERR_HTTP_REQUEST_TIMEOUT' }), socket);
      },
      () => undefined,
    );
  });
}

/** Answers what is not HTTP at all, in the shape of every other error, and ends the connection. */
function answerBrokenHttp(error: Error & { readonly code?: string }, socket: Socket): void {
  if (error.code === 'ECONNRESET' || !socket.writable) return void socket.destroy();
  const failure =
    error.code === 'HPE_HEADER_OVERFLOW'
      ? new Failure(
          'headers_too_large',
          `The path and the headers of a request may have at most ${maxHeaderSize} bytes together.`,
          { details: { limit: maxHeaderSize } },
        )
      : error.code === 'ERR_HTTP_REQUEST_TIMEOUT'
        ? new Failure('request_timeout', `The request did not come whole within ${REQUEST_MS / 1000} s.`)
        : new Failure('invalid_request', 'This is not a valid HTTP request.');
  const [body, status] = [JSON.stringify(errorBody(failure, newRequestId())), statusOf(failure)];
  socket.end(
    `HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\ncontent-type: application/json; charset=utf-8\r\n` +
      `content-length: ${Buffer.byteLength(body)}\r\nconnection: close\r\n\r\n${body}`,
  );
}
