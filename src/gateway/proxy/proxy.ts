import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { isErrno } from '../../base/errno.ts';
import type { Clock } from '../../base/clock.ts';
import { deadline, DeadlineExceeded } from '../../base/deadline.ts';
import { errorFields, type Logger } from '../../base/logger.ts';
import { sooner } from '../../base/sooner.ts';
import { until } from '../../base/until.ts';
import { Failure } from '../../model/failure.ts';
import { newRequestId } from '../../model/failure-answer.ts';
import type { Route, RouteName } from '../../model/route.ts';
import type { Arrival, Visit, Visits } from '../../ops/visits.ts';
import { dial } from '../dial.ts';
import { allowSources } from '../ssh/sources.ts';
import { answerFailure, answerWaiting, DEFECT } from './answers.ts';
import { openDoor, type Certificate, type Door } from './door.ts';
import { HostNames } from './host-header.ts';
import { answerOn, forward, forwardUpgrade, mayRepeat, type Exchange } from './forward.ts';
import { GuestPool } from './guest-pool.ts';
import type { GuestConnection } from './guest-connection.ts';
import { clientOf, type ClientFacts } from './headers.ts';
import { hostOf, isGone } from './versions.ts';
import { whyNotWake, type WakeRequest } from './wake-rules.ts';

/** Visits of VMs, as the proxy makes them. */
export type ProxyVisits = Pick<Visits, 'known' | 'find' | 'arriveAtOnce' | 'arrive'>;

export interface ProxyDeps {
  readonly visits: ProxyVisits;
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
export const MOST_CONNECTIONS = 10_000;
const ANSWER_MS = 300_000;
/**
 * A guest takes or refuses a connection at once; one that has too many waiting is knocked at again after 1 s and 3 s (TCP), and one that
 * has no address yet, as a copy just made or one that boots, says nothing.
 */
const DIAL_MS = 5000;
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
  readonly #names: HostNames;
  readonly #pool = new GuestPool();

  constructor(deps: ProxyDeps, options: ProxyOptions) {
    this.#deps = deps;
    this.#options = options;
    this.#names = new HostNames(options.baseDomain);
    const allowed = allowSources(options.trustedProxies);
    this.#trusts = (address) => options.trustedProxies.length > 0 && allowed(address);
  }

  async serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    try {
      const exchange = this.#atOnce(request) ?? (await this.#arrive(request, response));
      if (exchange) await carryOut(exchange, forward(exchange, response));
    } catch (error) {
      this.#answer(error, response);
    }
  }

  async upgrade(request: IncomingMessage, client: Duplex, head: Buffer): Promise<void> {
    client.on('error', () => undefined);
    try {
      const exchange = await this.#arrive(request, undefined, client);
      if (exchange) await forwardUpgrade(exchange, client, head);
    } catch (error) {
      if (!client.destroyed) this.#answer(error, answerOn(request, client));
    }
  }

  refuseConnect(request: IncomingMessage, client: Duplex): void {
    client.on('error', () => undefined);
    const why = 'CONNECT is not taken here: ask for the host itself.';
    answerFailure(answerOn(request, client), new Failure('method_not_allowed', why), newRequestId());
  }

  /**
   * The exchange with a guest that is known to run, over a connection that is open to it: all of it is known, and nothing need be waited
   * for. undefined: it is not so.
   */
  #atOnce(request: IncomingMessage): Exchange | undefined {
    const { visits } = this.#deps;
    const name = this.#nameOf(request);
    const route = name && visits.known(name);
    if (!route || !mayRepeat(request)) return undefined;
    const sender = this.#senderOf(request);
    const arrival = visits.arriveAtOnce(route, this.#visitOf(request, 'http', route));
    const guest = arrival?.life && this.#pool.take(arrival.life, route.targetPort);
    if (arrival && guest) return { request, sender, ...this.#toward(route, 'http', arrival, guest) };
    arrival?.use.end();
    return undefined;
  }

  /** Finds the guest that is asked for, wakes it where it sleeps, and connects to it. undefined: an answer was given, or nobody waits. */
  async #arrive(
    request: IncomingMessage,
    response: ServerResponse | undefined,
    client: Duplex = request.socket,
  ): Promise<Exchange | undefined> {
    const gone = new AbortController();
    const onClose = (): void => gone.abort(new Error('the client went away'));
    const ear = response ?? client;
    ear.once('close', onClose);
    try {
      const route = await this.#routeOf(request);
      const sender = this.#senderOf(request);
      const limit = AbortSignal.any([gone.signal, AbortSignal.timeout(this.#options.wakeTimeoutMs)]);
      const visit = this.#visitOf(request, response ? 'http' : 'upgrade', route);
      const { promise: awake, resolve: isAwake } = Promise.withResolvers<void>();
      const arrived = this.#guestOf(request, route, visit, { signal: limit, isAwake });
      if (
        response &&
        wantsPage(request) &&
        !(await settlesWithin(PAGE_MS, Promise.race([arrived, awake]), {
          clock: this.#deps.clock,
          signal: gone.signal,
        }))
      ) {
        // The wake goes on; the browser comes again.
        arrived.then(leave).catch(() => undefined);
        answerWaiting(response, newRequestId());
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
    const name = this.#nameOf(request);
    const route = name && (await this.#deps.visits.find(name));
    if (!route) throw new Failure('not_found', 'Nothing is published under this host name.');
    return route;
  }

  #nameOf(request: IncomingMessage): RouteName | undefined {
    if (!request.url?.startsWith('/') && request.url !== '*')
      throw new Failure('invalid_request', 'Ask for a path: whole URLs are not taken here.');
    return this.#names.of(hostOf(request));
  }

  #senderOf({ socket }: IncomingMessage): ClientFacts {
    const from = socket.remoteAddress ?? '';
    const { certificate } = this.#options;
    return { from, proto: certificate ? 'https' : 'http', trusted: this.#trusts(from) };
  }

  #visitOf(request: IncomingMessage, by: Visit['by'], { wake }: Route): Visit {
    const peer = request.socket.remoteAddress ?? '';
    const from = clientOf(peer, request.headers['x-forwarded-for'], this.#trusts);
    return { by, from, unwanted: whyNotWake(wake, wakeRequestOf(request, from)) };
  }

  #toward(
    { targetPort: port }: Route,
    by: Visit['by'],
    { ip, life, wokenMs, use }: Arrival,
    guest: GuestConnection,
  ): Reached {
    const { answerMs = ANSWER_MS } = this.#options;
    const going = by === 'upgrade' ? 'upgrade' : life ? 'kept' : 'once';
    const again = async (): Promise<GuestConnection> =>
      this.#pool.add(life, port, await this.#dial(ip, port, false, NEVER));
    return { guest, going, again, answerMs, wokenMs, use };
  }

  /** `isAwake` is called where the VM was found awake: who waits from then on waits for its guest alone. */
  async #guestOf(
    request: IncomingMessage,
    route: Route,
    visit: Visit,
    { signal, isAwake }: { readonly signal: AbortSignal; readonly isAwake: () => void },
  ): Promise<Reached> {
    const { targetPort: port } = route;
    let arrival: Arrival | undefined;
    try {
      arrival = await this.#deps.visits.arrive(route, visit, signal);
      const { ip, wokenMs, life } = arrival;
      if (wokenMs === undefined) isAwake();
      const kept =
        life && visit.by === 'http' && mayRepeat(request) ? this.#pool.take(life, port) : undefined;
      const guest =
        kept ?? this.#pool.add(life, port, await this.#dial(ip, port, wokenMs !== undefined, signal));
      return this.#toward(route, visit.by, arrival, guest);
    } catch (error) {
      arrival?.use.end();
      if (!signal.aborted || !(signal.reason instanceof DOMException)) throw error;
      const within = this.#options.wakeTimeoutMs / 1000;
      throw new Failure(
        'timeout',
        arrival
          ? `Port ${port} of the guest was not reachable within ${within} s: does a server listen there?`
          : `The machine was not awake within ${within} s.`,
        { ...(arrival ? { details: { port } } : {}), cause: error },
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
          (within) =>
            until(
              { clock: this.#deps.clock, signal: within },
              () => dial({ host, port, noDelay: true }, within).catch(unlessUnreachable),
              DIAL_AGAIN,
            ),
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

  #answer(error: unknown, response: ServerResponse): void {
    if (isGone(response)) return;
    const id = newRequestId();
    const failure = error instanceof Failure ? error : new Failure('internal', DEFECT, { cause: error });
    if (failure.code === 'internal')
      this.#deps.log.error({ request_id: id, ...errorFields(error) }, 'a proxied request failed');
    answerFailure(response, failure, id);
  }
}

/** Connecting has its own bound. */
const NEVER = new AbortController().signal;

type Reached = Omit<Exchange, 'request' | 'sender'>;

/** Ends the use of a VM with the exchange it is. */
async function carryOut({ use }: Exchange, exchange: Promise<void>): Promise<void> {
  try {
    await exchange;
  } finally {
    use.end();
  }
}

/** The kernel gives up looking for who has an address before we do. */
function unlessUnreachable(error: unknown): undefined {
  if (!isErrno(error, 'EHOSTUNREACH')) throw error;
}

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
