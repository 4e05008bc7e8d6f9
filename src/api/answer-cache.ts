import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Crowd } from '../base/crowd.ts';
import { newRequestId } from '../model/failure-answer.ts';
import type { ApiDeps, App } from './app.ts';

declare module 'fastify' {
  interface FastifyContextConfig {
    /** What it answers stands on rows of the database alone: asked for again it is the same, unless any row was written. */
    cached?: true;
  }
  interface FastifyRequest {
    /** What was known when it came; null where its answer is not cached. */
    asOf: AsOf | null;
  }
}

interface AsOf {
  /** What `Hatch.written` was. */
  readonly written: number;
  /** By the steady clock, in milliseconds. */
  readonly at: number;
}

interface Answer extends AsOf {
  /** A string, which Node sends in one write with the headers; of a Buffer it makes two. */
  readonly body: string;
  /** Names and values in turn. */
  readonly headers: readonly string[];
  readonly route: string | undefined;
  readonly path: string | undefined;
  readonly key: string;
  readonly account: string;
}

/** How long an answer is given again, in milliseconds: whoever has a key that expires is looked at anew within that. */
const KEEP_MS = 500;
const MOST_ANSWERS = 1000;
const MOST_BYTES = 16 * 1024;

/** Headers that change nothing of an answer; whoever sends another one is answered by the route. */
const HARMLESS = new Set(
  `accept accept-encoding accept-language cache-control connection dnt forwarded origin pragma priority referer sec-ch-ua sec-ch-ua-mobile
   sec-ch-ua-platform sec-fetch-dest sec-fetch-mode sec-fetch-site traceparent tracestate user-agent via x-forwarded-for x-forwarded-host
   x-forwarded-port x-forwarded-proto x-real-ip`.split(/\s+/),
);

/**
 * Gives an answer again, byte for byte but for the request's id, to who asks for the same with the same key while nobody wrote anything
 * (`Hatch.written`): those who look every second whether something has changed ask for what has not, mostly. All else of a request happens
 * as ever: it counts against its key's rate, and is counted and logged.
 */
export class AnswerCache {
  readonly #deps: Pick<ApiDeps, 'hatch' | 'log' | 'clock' | 'meter'>;
  readonly #countRequest: (key: string) => void;
  readonly #answers = new Map<string, Answer>();
  #crowd: Crowd | undefined;

  /** `countRequest` as for `guardRoutes`. */
  constructor(deps: Pick<ApiDeps, 'hatch' | 'log' | 'clock' | 'meter'>, countRequest: (key: string) => void) {
    this.#deps = deps;
    this.#countRequest = countRequest;
  }

  /** Remembers what routes that say so answer, until the server begins to close. */
  watch(app: App, crowd: Crowd): void {
    const { hatch, clock } = this.#deps;
    this.#crowd = crowd;
    app.decorateRequest('asOf', null);
    app.addHook('onRequest', (request, _reply, done) => {
      if (request.routeOptions.config.cached) {
        const written = hatch.written();
        if (written !== null) request.asOf = { written, at: clock.steady() };
      }
      done();
    });
    app.addHook('onSend', (request, reply, payload, done) => {
      const { asOf, caller, raw } = request;
      const authorization = asOf === null ? undefined : authorizationOf(raw.rawHeaders);
      if (
        asOf !== null &&
        caller !== null &&
        authorization !== undefined &&
        reply.statusCode === 200 &&
        typeof payload === 'string' &&
        payload.length <= MOST_BYTES &&
        this.#crowd !== undefined
      ) {
        const headers = Object.entries(reply.getHeaders()).flatMap(([name, value]) =>
          /^(?:x-request-id|content-length|connection)$/.test(name) ? [] : [name, String(value)],
        );
        this.#keep(`${authorization} ${raw.url ?? ''}`, {
          ...asOf,
          body: payload,
          headers: [...headers, 'content-length', String(Buffer.byteLength(payload))],
          route: request.routeOptions.url,
          path: request.url.split('?')[0],
          key: caller.keyId,
          account: caller.accountId,
        });
      }
      done(null, payload);
    });
    app.addHook('preClose', async () => {
      this.#crowd = undefined;
      this.#answers.clear();
    });
  }

  /** Answers a request if the answer is known; false: nothing was done. */
  answer(request: IncomingMessage, response: ServerResponse): boolean {
    const { hatch, clock, log, meter } = this.#deps;
    if (request.method !== 'GET' || this.#answers.size === 0 || !this.#crowd) return false;
    const authorization = authorizationOf(request.rawHeaders);
    if (authorization === undefined) return false;
    const known = this.#answers.get(`${authorization} ${request.url ?? ''}`);
    if (!known || known.written !== hatch.written() || clock.steady() - known.at > KEEP_MS) return false;
    const { key, account, route, path } = known;
    try {
      this.#countRequest(key);
    } catch {
      // The route says so.
      return false;
    }
    // It is the last of the silent ones now.
    this.#crowd.busy(request.socket);
    this.#crowd.silent(request.socket);
    const id = newRequestId();
    response.writeHead(200, [...known.headers, 'x-request-id', id]);
    response.end(known.body);
    meter.request({ method: 'GET', route, status: 200, ms: 0 });
    log.info({ request_id: id, method: 'GET', path, status: 200, ms: 0, account, key }, 'request');
    return true;
  }

  #keep(asked: string, answer: Answer): void {
    const [newest] = this.#answers.values();
    // All of another time are of no use any more.
    if (newest?.written !== answer.written || this.#answers.size >= MOST_ANSWERS) this.#answers.clear();
    this.#answers.set(asked, answer);
  }
}

/**
 * The Authorization header of a request that has one Host, one such header, and beside them only headers that change nothing of its answer;
 * else undefined. `rawHeaders`: names and values in turn.
 */
function authorizationOf(rawHeaders: readonly string[]): string | undefined {
  let [hosts, authorization]: [number, string | undefined] = [0, undefined];
  for (let i = 0; i < rawHeaders.length; i += 2) {
    const name = (rawHeaders[i] ?? '').toLowerCase();
    if (name === 'host') hosts++;
    else if (name === 'authorization') {
      if (authorization !== undefined) return undefined;
      authorization = rawHeaders[i + 1];
    } else if (!HARMLESS.has(name)) return undefined;
  }
  return hosts === 1 ? authorization : undefined;
}
