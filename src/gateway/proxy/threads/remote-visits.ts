import { raceAbort } from '../../../base/deadline.ts';
import type { Clock } from '../../../base/clock.ts';
import type { VmId } from '../../../base/ids.ts';
import { Failure } from '../../../model/failure.ts';
import type { Route, RouteName } from '../../../model/route.ts';
import { Life } from '../../../ops/guest-lives.ts';
import { RouteBook } from '../../../ops/route-book.ts';
import { UsesOfThread } from '../../../ops/shared-uses.ts';
import { NOT_COUNTED, type Use } from '../../../ops/use.ts';
import type { Arrival, Visit } from '../../../ops/visits.ts';
import type { ProxyVisits } from '../proxy.ts';
import type { RemoteArrival, FromThread, ToThread } from './messages.ts';

/** Payload of a use the daemon keeps is told of no more often than this, in milliseconds. */
const TELL_MS = 1000;

interface Guest {
  readonly vmId: VmId;
  readonly ip: string;
  readonly life: Life;
  readonly uses: UsesOfThread;
}

interface Asked {
  readonly resolve: (answer: Extract<ToThread, { readonly kind: 'route' | 'arrived' }>) => void;
  readonly reject: (failure: Failure) => void;
}

/**
 * The visits of VMs as a thread of the proxy has them: it asks the daemon's own, and comes again to a guest that runs without asking. What
 * it knows of guests that end may be a moment old; memory it shares with the tracker lets it come to none that falls asleep.
 */
export class RemoteVisits implements ProxyVisits {
  readonly #tell: (message: FromThread) => void;
  readonly #clock: Clock;
  readonly #book: RouteBook;
  readonly #asked = new Map<number, Asked>();
  readonly #lives = new Map<number, Guest>();
  readonly #guests = new Map<VmId, Guest>();
  #next = 1;

  constructor(deps: {
    readonly tell: (message: FromThread) => void;
    readonly clock: Clock;
    readonly edition: SharedArrayBuffer;
  }) {
    const { tell, clock, edition } = deps;
    this.#tell = tell;
    this.#clock = clock;
    this.#book = new RouteBook({
      store: { routes: { byName: (name) => this.#routeOf(name) } },
      clock,
      edition,
    });
  }

  known(name: RouteName): Route | undefined {
    return this.#book.known(name);
  }

  find(name: RouteName): Promise<Route | null> {
    return this.#book.find(name);
  }

  arriveAtOnce({ vmId }: Route, visit: Visit): Arrival | undefined {
    const guest = this.#guests.get(vmId);
    if (!guest) return undefined;
    const { ip, life, uses } = guest;
    const use = visit.unwanted === undefined ? uses.begin(visit.by) : uses.isOpen ? NOT_COUNTED : undefined;
    return use && { ip, wokenMs: undefined, use, life };
  }

  async arrive(route: Route, visit: Visit, signal: AbortSignal): Promise<Arrival> {
    const atOnce = this.arriveAtOnce(route, visit);
    if (atOnce) return atOnce;
    const { id, answer } = this.#ask<'arrived'>((id) => ({ kind: 'arrive', id, route, visit }));
    try {
      const { arrival } = await raceAbort(answer, signal);
      return this.#arrived(id, visit, arrival);
    } catch (error) {
      this.#asked.delete(id);
      this.#tell({ kind: 'end', id });
      throw error;
    }
  }

  /** Takes what the daemon says. */
  hear(message: Exclude<ToThread, { readonly kind: 'renew' | 'close' }>): void {
    if (message.kind === 'lent') return this.#lent(message);
    if (message.kind === 'over') return this.#over(message.life);
    const asked = this.#asked.get(message.id);
    this.#asked.delete(message.id);
    if (message.kind !== 'failed') return asked?.resolve(message);
    const { code, message: why, details, cause } = message.failure;
    asked?.reject(
      new Failure(code, why, { details, cause: cause === undefined ? undefined : seenThere(cause) }),
    );
  }

  #arrived(id: number, { unwanted, by }: Visit, { ip, wokenMs, life }: RemoteArrival): Arrival {
    const guest = life === null ? undefined : this.#lives.get(life);
    const own = unwanted === undefined ? guest?.uses.begin(by) : NOT_COUNTED;
    // Whichever of them is begun later, it is in use all the time.
    if (own) this.#tell({ kind: 'end', id });
    return { ip, wokenMs, use: own ?? this.#useKeptThere(id), life: guest?.life };
  }

  #useKeptThere(id: number): Use {
    let [ended, told] = [false, this.#clock.steady()];
    return {
      payload: () => {
        const now = this.#clock.steady();
        if (ended || now - told < TELL_MS) return;
        told = now;
        this.#tell({ kind: 'payload', id });
      },
      end: () => {
        if (!ended) this.#tell({ kind: 'end', id });
        ended = true;
      },
    };
  }

  /** Whoever asked for it may have gone: the next who come have it all the same. */
  #lent({ life, vmId, ip, memory }: Extract<ToThread, { readonly kind: 'lent' }>): void {
    const guest = { vmId, ip, life: new Life(), uses: new UsesOfThread(memory, this.#clock) };
    this.#lives.set(life, guest);
    this.#guests.set(vmId, guest);
  }

  #over(life: number): void {
    const guest = this.#lives.get(life);
    if (!guest) return;
    this.#lives.delete(life);
    if (this.#guests.get(guest.vmId) === guest) this.#guests.delete(guest.vmId);
    guest.life.end();
  }

  async #routeOf(name: RouteName): Promise<Route | null> {
    return (await this.#ask<'route'>((id) => ({ kind: 'route', id, name })).answer).route;
  }

  #ask<Kind extends 'route' | 'arrived'>(
    question: (id: number) => FromThread,
  ): { readonly id: number; readonly answer: Promise<Extract<ToThread, { readonly kind: Kind }>> } {
    type Answer = Extract<ToThread, { readonly kind: Kind }>;
    const id = this.#next++;
    const { promise, resolve, reject } = Promise.withResolvers<Answer>();
    // Each question has one kind of answer.
    this.#asked.set(id, { resolve: (answer) => resolve(answer as Answer), reject });
    this.#tell(question(id));
    return { id, answer: promise };
  }
}

/** What another thread met, for the log. */
function seenThere(text: string): Error {
  return Object.assign(new Error('met where it was asked'), { stack: text });
}
