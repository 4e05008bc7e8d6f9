import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import type { Clock } from '../../base/clock.ts';
import { deadline, DeadlineExceeded } from '../../base/deadline.ts';
import { errorFields, type Logger } from '../../base/logger.ts';
import { sooner } from '../../base/sooner.ts';
import { until } from '../../base/until.ts';
import { Failure } from '../../model/failure.ts';
import { newRequestId } from '../../model/failure-answer.ts';
import type { Route } from '../../model/route.ts';
import type { Arrival, Visit, Visits } from '../../ops/visits.ts';
import { dial } from '../dial.ts';
import { allowSources } from '../ssh/sources.ts';
import { answerFailure, answerWaiting } from './answers.ts';
import { openDoor, type Certificate, type Door } from './door.ts';
import { routeOfHost } from './host-header.ts';
import { answerOn, forward, forwardUpgrade, mayRepeat, type Exchange } from './forward.ts';
import { GuestPool } from './guest-pool.ts';
import type { GuestConnection } from './guest-connection.ts';
import { clientOf } from './headers.ts';
import { hostOf, isGone } from './versions.ts';
import { whyNotWake, type WakeRequest } from './wake-rules.ts';

export interface ProxyDeps {
  readonly visits: Visits;
  readonly log: Logger;
  readonly clock: Clock;
}

export interface ProxyOptions {
  /** What subdomains hang under, in lower case. */
  readonly baseDomain: string;
  /** How long a wake is waited for, the guest's port included; milliseconds. */
  readonly wakeTimeoutMs: number;
  /** Networks whose X-Forwarded-* headers count. */
  readonly trustedProxies: readonly string[];
  /** With one, TLS is spoken, and nothing else. */
  readonly certificate?: Certificate | undefined;
  readonly mostConnections?: number | undefined;
  /** A guest whose answer has not begun by then is not waited for any longer; milliseconds. */
  readonly answerMs?: number | undefined;
}

/** Connections there may be at once unless told otherwise. */
const MOST_CONNECTIONS = 10_000;
const ANSWER_MS = 300_000;
/** A guest on the host's own bridge takes a connection at once or not at all. */
const DIAL_MS = 1000;
/** How a port is tried that nobody listens at yet, after a wake. */
const DIAL_AGAIN = { firstMs: 20, mostMs: 250 } as const;
/** A browser is shown a page when a wake takes longer. */
const PAGE_MS = 2000;

/** Makes the door to the guests' routes; its server does not listen yet. */
export function openProxy(deps: ProxyDeps, options: ProxyOptions): Door {
  const proxy = new Proxy(deps, options);
  const { certificate, mostConnections = MOST_CONNECTIONS } = options;
  return openDoor(
    { certificate, mostConnections },
    {
      serve: (request, response) => void proxy.serve(request, response),
      upgrade: (request, client, head) => void proxy.upgrade(request, client, head),
      refuseConnect: (request, client) => proxy.refuseConnect(request, client),
    },
  );
}

class Proxy {
  readonly #deps: ProxyDeps;
  readonly #options: ProxyOptions;
  readonly #trusts: (address: string | undefined) => boolean;
  readonly #pool = new GuestPool();

  constructor(deps: ProxyDeps, options: ProxyOptions) {
    this.#deps = deps;
    this.#options = options;
    this.#trusts = allowSources(options.trustedProxies);
  }

  async serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const id = newRequestId();
    try {
      const exchange = await this.#arrive(request, id, response);
      if (exchange) await forward(exchange, response).finally(() => exchange.use.end());
    } catch (error) {
      this.#answer(error, id, response);
    }
  }

  async upgrade(request: IncomingMessage, client: Duplex, head: Buffer): Promise<void> {
    client.on('error', () => undefined);
    const id = newRequestId();
    try {
      const exchange = await this.#arrive(request, id, undefined, client);
      if (exchange) await forwardUpgrade(exchange, client, head).finally(() => exchange.use.end());
    } catch (error) {
      if (!client.destroyed) this.#answer(error, id, answerOn(request, client));
    }
  }

  refuseConnect(request: IncomingMessage, client: Duplex): void {
    client.on('error', () => undefined);
    const why = 'CONNECT is not taken here: ask for the host itself.';
    answerFailure(answerOn(request, client), new Failure('method_not_allowed', why), newRequestId());
  }

  /** Finds the guest that is asked for, wakes it where it sleeps, and connects to it. undefined: an answer was given, or nobody waits. */
  async #arrive(
    request: IncomingMessage,
    id: string,
    response: ServerResponse | undefined,
    client: Duplex = request.socket,
  ): Promise<Exchange | undefined> {
    const gone = new AbortController();
    const onClose = (): void => gone.abort(new Error('the client went away'));
    const ear = response ?? client;
    ear.once('close', onClose);
    try {
      const route = await this.#routeOf(request);
      const peer = request.socket.remoteAddress ?? '';
      const sender = {
        from: peer,
        proto: this.#options.certificate ? 'https' : 'http',
        trusted: this.#trusts(peer),
      } as const;
      const from = clientOf(peer, request.headers['x-forwarded-for'], this.#trusts);
      const limit = AbortSignal.any([gone.signal, AbortSignal.timeout(this.#options.wakeTimeoutMs)]);
      const unwanted = whyNotWake(route.wake, wakeRequestOf(request, from));
      const by = response ? 'http' : 'upgrade';
      const arrived = this.#guestOf(request, route, { by, from, unwanted }, limit);
      if (
        response &&
        wantsPage(request) &&
        !(await settlesWithin(PAGE_MS, arrived, { clock: this.#deps.clock, signal: gone.signal }))
      ) {
        // The wake goes on; the browser comes again.
        arrived.then(leave).catch(() => undefined);
        answerWaiting(response, id);
        return undefined;
      }
      const reached = await arrived;
      if (!gone.signal.aborted) return { request, sender, ...reached };
      leave(reached);
      return undefined;
    } catch (error) {
      if (gone.signal.aborted) return undefined;
      throw error;
    } finally {
      ear.off('close', onClose);
    }
  }

  async #routeOf(request: IncomingMessage): Promise<Route> {
    if (!request.url?.startsWith('/') && request.url !== '*')
      throw new Failure('invalid_request', 'Ask for a path: whole URLs are not taken here.');
    const name = routeOfHost(hostOf(request), this.#options.baseDomain);
    const route = name && (await this.#deps.visits.find(name));
    if (!route) throw new Failure('not_found', 'Nothing is published under this host name.');
    return route;
  }

  async #guestOf(
    request: IncomingMessage,
    route: Route,
    visit: Visit,
    signal: AbortSignal,
  ): Promise<Reached> {
    const { targetPort: port } = route;
    let arrival: Arrival | undefined;
    try {
      arrival = await this.#deps.visits.arrive(route, visit, signal);
      const { ip, wokenMs, use, life } = arrival;
      const connect = async (patient: boolean, within: AbortSignal): Promise<GuestConnection> =>
        this.#pool.add(life, port, await this.#dial(ip, port, patient, within));
      const kept =
        life && visit.by === 'http' && mayRepeat(request) ? this.#pool.take(life, port) : undefined;
      const guest = kept ?? (await connect(wokenMs !== undefined, signal));
      const going = visit.by === 'upgrade' ? 'upgrade' : life ? 'kept' : 'once';
      const { answerMs = ANSWER_MS } = this.#options;
      return { guest, going, again: () => connect(false, NEVER), answerMs, wokenMs, use };
    } catch (error) {
      arrival?.use.end();
      if (!signal.aborted || !(signal.reason instanceof DOMException)) throw error;
      throw new Failure(
        'timeout',
        `The machine was not ${arrival ? 'reachable' : 'awake'} within ${this.#options.wakeTimeoutMs / 1000} s.`,
        { cause: error },
      );
    }
  }

  /** Connects to a guest's port. One that was just woken may need a moment until it listens. */
  async #dial(host: string, port: number, patient: boolean, signal: AbortSignal): Promise<Socket> {
    const dialled = async (): Promise<Socket> => {
      try {
        return await deadline(
          'the connection',
          DIAL_MS,
          (within) => dial({ host, port, noDelay: true }, within),
          signal,
        );
      } catch (cause) {
        signal.throwIfAborted();
        const how = cause instanceof DeadlineExceeded ? 'does not answer' : 'refuses connections';
        throw new Failure(
          'guest_unreachable',
          `Port ${port} of the guest ${how}: does a server listen there?`,
          {
            details: { port },
            cause,
          },
        );
      }
    };
    if (!patient) return dialled();
    return until(
      { clock: this.#deps.clock, signal },
      () =>
        dialled().catch((error: unknown) => (signal.aborted ? Promise.reject(error as Error) : undefined)),
      DIAL_AGAIN,
    );
  }

  #answer(error: unknown, id: string, response: ServerResponse): void {
    if (isGone(response)) return;
    const failure =
      error instanceof Failure
        ? error
        : new Failure('internal', 'The server met a defect; its log has the request id.', { cause: error });
    if (failure.code === 'internal')
      this.#deps.log.error({ request_id: id, ...errorFields(error) }, 'a proxied request failed');
    answerFailure(response, failure, id);
  }
}

/** Connecting has its own bound. */
const NEVER = new AbortController().signal;

type Reached = Omit<Exchange, 'request' | 'sender'>;

/** Nobody is there any more who would speak to the guest that was reached. */
function leave({ guest, use }: Reached): void {
  guest.end(new Error('the client went away'));
  use.end();
}

function wakeRequestOf({ method = 'GET', url = '/', headers }: IncomingMessage, from: string): WakeRequest {
  return { method, path: url.split('?', 1)[0] ?? '/', from, userAgent: headers['user-agent'] };
}

function wantsPage({ method, headers }: IncomingMessage): boolean {
  return method === 'GET' && (headers.accept ?? '').includes('text/html');
}

/** Whether something has settled within so many milliseconds. Rejects with the signal's reason. */
async function settlesWithin(
  ms: number,
  work: Promise<unknown>,
  deps: { readonly clock: Clock; readonly signal: AbortSignal },
): Promise<boolean> {
  let settled = false;
  const note = (): void => void (settled = true);
  await sooner(deps, work.then(note, note), ms);
  return settled;
}
