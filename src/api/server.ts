import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox';
import { fastify } from 'fastify';
import type { Clock } from '../base/clock.ts';
import { Crowd } from '../base/crowd.ts';
import { errorFields } from '../base/logger.ts';
import { createServer, httpsModule, maxHeaderSize, STATUS_CODES } from '../base/node-http.ts';
import { Failure } from '../model/failure.ts';
import { accountRoutes } from './accounts.ts';
import type { ApiDeps, App } from './app.ts';
import { guardRoutes } from './auth.ts';
import { boundBodies, MOST_BODY_BYTES, REQUEST_MS, tooSlow } from './bodies.ts';
import { consoleRoutes } from './console.ts';
import { describeRoutes, docsRoutes } from './docs.ts';
import { ANSWER_HEADERS, errorBody, errorHeaders, newRequestId, statusOf } from '../model/failure-answer.ts';
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
import { AnswerCache } from './answer-cache.ts';
import { serializerCompiler, validatorCompiler } from './validation.ts';
import { vmRoutes } from './vms.ts';

/** How the API is reached. */
export interface ApiOptions {
  /** PEM texts; plain HTTP without. */
  readonly tls?: { readonly cert: string; readonly key: string } | undefined;
  /** Per key; none without. */
  readonly rateLimit?: RateLimit | undefined;
  readonly mostConnections?: number | undefined;
  /** Of bodies that are still coming, together. */
  readonly mostBodyBytes?: number | undefined;
}

/** How long whoever was answered in the middle of its request has to read that, in milliseconds: a reset may take the answer away. */
const LAST_WORD_MS = 5_000;
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
  {
    tls,
    rateLimit = { perSecond: 0, burst: 0 },
    mostConnections = MOST_CONNECTIONS,
    mostBodyBytes = MOST_BODY_BYTES,
  }: ApiOptions = {},
): Promise<App> {
  const { hatch, log, clock, version, meter } = deps;
  const countRequest = rateLimiter(clock, rateLimit);
  const answerCache = new AnswerCache(deps, countRequest);
  const app: App = fastify({
    bodyLimit: BODY_BYTES,
    genReqId: newRequestId,
    return503OnClosing: false,
    routerOptions: { ignoreTrailingSlash: true, maxParamLength: 512 },
    // Ours are set below; where nothing is said here Fastify loads its own, a fifth of a second of each start.
    schemaController: { compilersFactory: { buildValidator: () => notOurs, buildSerializer: () => notOurs } },
    frameworkErrors: (error, request, reply) => {
      sendFailure(toFailure(error), request, reply);
    },
    clientErrorHandler: (error, socket) => answerBrokenHttp(error, socket, clock),
    serverFactory: (routes): Server => {
      const handler = (request: IncomingMessage, response: ServerResponse): void => {
        if (!answerCache.answer(request, response)) routes(request, response);
      };
      // No Host is answered in our shape.
      const options = { requireHostHeader: false };
      const server = tls
        ? httpsModule().createServer({ ...options, ...tls }, handler)
        : createServer(options, handler);
      // What else is expected than "100-continue" may be left alone (RFC 9110, 10.1.1).
      server.on('checkExpectation', handler);
      server.on('connect', (_request, socket: Socket) =>
        hangUp(new Failure('invalid_request', 'CONNECT is for proxies, and this is none.'), socket, clock),
      );
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
  takeJsonOnly(app);
  accompanyRequests(app, { log, clock, meter });
  const streams = closeInTime(app, { hatch, log, clock });
  const crowd = new Crowd(app.server, mostConnections);
  boundBodies(app, {
    clock,
    crowd,
    most: mostBodyBytes,
    hangUp: (failure, socket) => hangUp(failure, socket, clock),
  });
  wantOneHost(app);
  guardRoutes(app, hatch, countRequest);
  answerCache.watch(app, crowd);
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

/** No schema is compiled by anything but what is set. */
function notOurs(): never {
  throw new Error('a schema was to be compiled by a compiler of Fastify');
}

/**
 * Refuses what Node would answer without a word of ours: no Host, or two of them, of which who stands between may believe another than we do
 * (RFC 9112, 3.2).
 */
function wantOneHost(app: App): void {
  app.addHook('onRequest', ({ raw: { rawHeaders, httpVersion } }, _reply, done) => {
    let hosts = 0;
    // Names and values in turn.
    for (let i = 0; i < rawHeaders.length; i += 2) if (/^host$/i.test(rawHeaders[i] ?? '')) hosts++;
    if (hosts === 1 || (hosts === 0 && httpVersion !== '1.1')) return done();
    done(
      new Failure('invalid_request', 'A request must have one header "Host", and only one.', {
        details: { field: 'Host' },
      }),
    );
  });
}

/** Answers what is not HTTP at all, in the shape of every other error, and ends the connection. */
function answerBrokenHttp(error: Error & { readonly code?: string }, socket: Socket, clock: Clock): void {
  if (error.code === 'ECONNRESET') return void socket.destroy();
  const failure =
    error.code === 'HPE_HEADER_OVERFLOW'
      ? new Failure(
          'headers_too_large',
          `The path and the headers of a request may have at most ${maxHeaderSize} bytes together.`,
          { details: { limit: maxHeaderSize } },
        )
      : error.code === 'ERR_HTTP_REQUEST_TIMEOUT'
        ? tooSlow()
        : new Failure('invalid_request', 'This is not a valid HTTP request.');
  hangUp(failure, socket, clock);
}

/** Answers on a connection whose request nobody else answers, and ends it; whoever does not hang up then is cut off. */
function hangUp(failure: Failure, socket: Socket, clock: Clock): void {
  if (!socket.writable) return void socket.destroy();
  const id = newRequestId();
  const [body, status] = [JSON.stringify(errorBody(failure, id)), statusOf(failure)];
  const headers = { ...ANSWER_HEADERS, 'x-request-id': id, ...errorHeaders(failure) };
  const more = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`);
  socket.end(
    `HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\ncontent-type: application/json; charset=utf-8\r\n${more.join('')}` +
      `content-length: ${Buffer.byteLength(body)}\r\nconnection: close\r\n\r\n${body}`,
  );
  const gone = new AbortController();
  socket.once('close', () => gone.abort());
  clock.sleep(LAST_WORD_MS, gone.signal).then(
    () => socket.destroy(),
    () => undefined,
  );
}
