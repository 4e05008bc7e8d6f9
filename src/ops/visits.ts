import type { VmId } from '../base/ids.ts';
import { Failure } from '../model/failure.ts';
import type { Route, RouteName } from '../model/route.ts';
import type { Waker } from './waker.ts';
import { isAwake } from './waker.ts';
import type { World } from './world.ts';

const DAY_MS = 86_400_000;

/** What is known of a visit that may have to wake its VM. */
export interface Visit {
  readonly from: string;
  /** Why it wakes nothing; undefined: it may. Asked only where the VM does not run. */
  readonly why: () => string | undefined;
}

/** Visits of VMs by their routes. */
export class Visits {
  readonly #world: Pick<World, 'store' | 'settings' | 'clock'>;
  readonly #waker: Pick<Waker, 'wake'>;
  readonly #waking = new Set<VmId>();
  /** How often routes with a budget have woken their VMs on a day. */
  readonly #woken = new Map<Route['id'], { readonly day: number; readonly times: number }>();

  constructor(world: Pick<World, 'store' | 'settings' | 'clock'>, waker: Pick<Waker, 'wake'>) {
    this.#world = world;
    this.#waker = waker;
  }

  find(name: RouteName): Promise<Route | null> {
    return this.#world.store.routes.byName(name);
  }

  /**
   * Gives where a route's VM is reached, woken first if it sleeps and the visit may wake it; then `wokenMs` says how long that took. Throws
   * `not_found`, `unavailable` with `retry_after_seconds` for one that is not to be woken now, and the signal's reason.
   */
  async arrive(
    route: Route,
    visit: Visit,
    signal: AbortSignal,
  ): Promise<{ readonly ip: string; readonly wokenMs: number | undefined }> {
    const { store, settings } = this.#world;
    const vm = await store.vms.get(route.vmId);
    if (!vm?.network) throw new Failure('not_found', 'Nothing is published under this host name.');
    const { ip } = vm.network;
    if (isAwake(vm)) {
      if (vm.hostId === settings.hostId) return { ip, wokenMs: undefined };
      throw notNow(`The machine runs on host "${vm.hostId ?? ''}": ask there.`);
    }
    const why = visit.why() ?? this.#overBudget(route);
    if (why !== undefined) throw notNow(`The machine is not awake, and ${why}.`);
    // However many wait for it, a wake is one of the budget's.
    const first = !this.#waking.has(vm.id);
    this.#waking.add(vm.id);
    try {
      const wokenMs = await this.#waker.wake(vm.id, { by: 'http', from: visit.from }, signal);
      if (first) this.#count(route);
      return { ip, wokenMs };
    } catch (error) {
      if (!(error instanceof Failure) || error.code === 'not_found' || error.code === 'unavailable')
        throw error;
      throw notNow(`The machine could not be woken: ${error.message}`, error);
    } finally {
      if (first) this.#waking.delete(vm.id);
    }
  }

  #overBudget({ id, wake }: Route): string | undefined {
    const budget = wake?.dailyBudget;
    const today = this.#woken.get(id);
    if (budget === undefined || (today?.day === this.#day() ? today.times : 0) < budget) return undefined;
    return `its ${budget} wakes of today are used up`;
  }

  #count({ id, wake }: Route): void {
    if (wake?.dailyBudget === undefined) return;
    const day = this.#day();
    const before = this.#woken.get(id);
    this.#woken.set(id, { day, times: before?.day === day ? before.times + 1 : 1 });
  }

  #day(): number {
    return Math.floor(this.#world.clock.now() / DAY_MS);
  }
}

function notNow(message: string, cause?: unknown): Failure {
  return new Failure('unavailable', message, { details: { retry_after_seconds: 60 }, cause });
}
