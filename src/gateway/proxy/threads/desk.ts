import { errorFields, type Logger } from '../../../base/logger.ts';
import type { VmId } from '../../../base/ids.ts';
import { Failure } from '../../../model/failure.ts';
import type { ActivityTracker } from '../../../ops/activity.ts';
import type { GuestLife } from '../../../ops/guest-lives.ts';
import type { SharedUses } from '../../../ops/shared-uses.ts';
import type { Use } from '../../../ops/use.ts';
import type { Visits } from '../../../ops/visits.ts';
import type { FarArrival, FromThread, ToThread } from './messages.ts';

interface Lent {
  readonly number: number;
  readonly shared: SharedUses;
}

export interface DeskDeps {
  readonly visits: Visits;
  readonly activity: Pick<ActivityTracker, 'share'>;
  readonly log: Logger;
}

type Asking = Extract<FromThread, { readonly kind: 'route' | 'arrive' | 'end' | 'payload' }>;

/** Where one thread of the proxy asks: its visits are made here, and the guests it has come to are lent to it while they live. */
export class Desk {
  readonly #deps: DeskDeps;
  readonly #say: (message: ToThread) => void;
  /** Those who wait, and the uses of those who have come, by the numbers of what was asked. */
  readonly #waiting = new Map<number, AbortController>();
  readonly #uses = new Map<number, Use>();
  readonly #lent = new Map<GuestLife, Lent>();
  #next = 1;
  #isClosed = false;

  constructor(deps: DeskDeps, say: (message: ToThread) => void) {
    this.#deps = deps;
    this.#say = say;
  }

  /** Takes what the thread asks. */
  hear(message: Asking): void {
    switch (message.kind) {
      case 'route':
        return void this.#answer(message.id, async () => ({
          kind: 'route',
          id: message.id,
          route: await this.#deps.visits.find(message.name),
        }));
      case 'arrive':
        return void this.#answer(message.id, () => this.#arrive(message));
      case 'payload':
        return this.#uses.get(message.id)?.payload();
      case 'end':
        this.#waiting.get(message.id)?.abort(new Error('the client went away'));
        this.#uses.get(message.id)?.end();
        this.#uses.delete(message.id);
    }
  }

  /** The thread is gone, and all it had open. */
  close(): void {
    this.#isClosed = true;
    for (const waiting of this.#waiting.values()) waiting.abort(new Error('the proxy closes'));
    for (const use of this.#uses.values()) use.end();
    this.#uses.clear();
    for (const { shared } of this.#lent.values()) shared.abandon();
    this.#lent.clear();
  }

  async #answer(id: number, work: () => Promise<ToThread | undefined>): Promise<void> {
    try {
      const answer = await work();
      if (answer && !this.#isClosed) this.#say(answer);
    } catch (error) {
      if (this.#isClosed) return;
      const failure = error instanceof Failure ? error : new Failure('internal', 'The server met a defect.');
      if (failure !== error) this.#deps.log.error(errorFields(error), 'a visit failed');
      const { code, message, details } = failure;
      this.#say({ kind: 'failed', id, failure: { code, message, details } });
    }
  }

  async #arrive({
    id,
    route,
    visit,
  }: Extract<FromThread, { readonly kind: 'arrive' }>): Promise<ToThread | undefined> {
    const gone = new AbortController();
    this.#waiting.set(id, gone);
    try {
      const { ip, wokenMs, use, life } = await this.#deps.visits.arrive(route, visit, gone.signal);
      if (gone.signal.aborted) {
        use.end();
        return undefined;
      }
      this.#uses.set(id, use);
      return { kind: 'arrived', id, arrival: { ip, wokenMs, ...this.#lend(route.vmId, life) } };
    } catch (error) {
      if (gone.signal.aborted) return undefined;
      throw error;
    } finally {
      this.#waiting.delete(id);
    }
  }

  /** Lends a guest to the thread, which may come to it again by itself while nothing is under way on it. */
  #lend(vmId: VmId, life: GuestLife | undefined): Pick<FarArrival, 'life' | 'memory'> {
    if (!life || life.isOver) return { life: null, memory: undefined };
    const known = this.#lent.get(life);
    const lent = known ?? { number: this.#next++, shared: this.#deps.activity.share(vmId) };
    if (!known) {
      this.#lent.set(life, lent);
      life.whenOver(() => this.#takeBack(life, lent));
    }
    if (this.#deps.visits.mayComeAgain({ vmId }, life)) lent.shared.open();
    return { life: lent.number, memory: known ? undefined : lent.shared.memory };
  }

  #takeBack(life: GuestLife, { number, shared }: Lent): void {
    shared.retire();
    if (this.#lent.delete(life)) this.#say({ kind: 'over', life: number });
  }
}
