import { inspect } from 'node:util';
import type { VmId } from '../../../base/ids.ts';
import { Failure } from '../../../model/failure.ts';
import type { ActivityTracker } from '../../../ops/activity.ts';
import type { GuestLife } from '../../../ops/guest-lives.ts';
import type { SharedUses } from '../../../ops/shared-uses.ts';
import type { Use } from '../../../ops/use.ts';
import type { Visits } from '../../../ops/visits.ts';
import { DEFECT } from '../answers.ts';
import type { RemoteFailure, FromThread, ToThread } from './messages.ts';

interface Lent {
  readonly number: number;
  readonly shared: SharedUses;
}

export interface VisitServerDeps {
  readonly visits: Visits;
  readonly activity: Pick<ActivityTracker, 'share'>;
}

type Asking = Extract<FromThread, { readonly kind: 'route' | 'arrive' | 'end' | 'payload' }>;

/** Where one thread of the proxy asks: its visits are made here, and the guests it has come to are lent to it while they live. */
export class VisitServer {
  readonly #deps: VisitServerDeps;
  readonly #say: (message: ToThread) => void;
  /** Those who wait, and the uses of those who have come, by the numbers of what was asked. */
  readonly #waiting = new Map<number, AbortController>();
  readonly #uses = new Map<number, Use>();
  readonly #lent = new Map<GuestLife, Lent>();
  #next = 1;
  #isClosed = false;

  constructor(deps: VisitServerDeps, say: (message: ToThread) => void) {
    this.#deps = deps;
    this.#say = say;
  }

  /** Takes what the thread asks. */
  hear(message: Asking): void {
    switch (message.kind) {
      case 'route':
        return void this.#answer(message.id, async () => {
          const route = await this.#deps.visits.find(message.name);
          this.#tell({ kind: 'route', id: message.id, route });
        });
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

  /** Unless the thread is gone. */
  #tell(message: ToThread): void {
    if (!this.#isClosed) this.#say(message);
  }

  /** Does what was asked; `work` says the answer itself, and a failure is told here. */
  async #answer(id: number, work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      this.#tell({ kind: 'failed', id, failure: toFar(error) });
    }
  }

  async #arrive({ id, route, visit }: Extract<FromThread, { readonly kind: 'arrive' }>): Promise<void> {
    const gone = new AbortController();
    this.#waiting.set(id, gone);
    try {
      const { ip, wokenMs, use, life } = await this.#deps.visits.arrive(route, visit, gone.signal);
      if (gone.signal.aborted) return use.end();
      this.#uses.set(id, use);
      // In one go: that a guest is over is not to be said before it was lent.
      this.#tell({ kind: 'arrived', id, arrival: { ip, wokenMs, life: this.#lend(route.vmId, ip, life) } });
    } catch (error) {
      if (!gone.signal.aborted) throw error;
    } finally {
      this.#waiting.delete(id);
    }
  }

  /** Lends a guest to the thread, which may come to it again by itself while nothing is under way on it. Gives its number. */
  #lend(vmId: VmId, ip: string, life: GuestLife | undefined): number | null {
    if (!life || life.isOver) return null;
    const known = this.#lent.get(life);
    const lent = known ?? { number: this.#next++, shared: this.#deps.activity.share(vmId) };
    if (!known) {
      this.#lent.set(life, lent);
      this.#tell({ kind: 'lent', life: lent.number, vmId, ip, memory: lent.shared.memory });
      life.whenOver(() => this.#takeBack(life, lent));
    }
    if (this.#deps.visits.mayComeAgain({ vmId }, life)) lent.shared.open();
    return lent.number;
  }

  #takeBack(life: GuestLife, { number, shared }: Lent): void {
    shared.retire();
    if (this.#lent.delete(life)) this.#tell({ kind: 'over', life: number });
  }
}

/** The thread logs what nobody foresaw, with the request it was met by: it is told all of it. */
function toFar(error: unknown): RemoteFailure {
  const failure = error instanceof Failure ? error : new Failure('internal', DEFECT, { cause: error });
  const { code, message, details, cause } = failure;
  return { code, message, details, cause: cause === undefined ? undefined : inspect(cause) };
}
