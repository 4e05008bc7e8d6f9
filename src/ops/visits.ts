import type { VmId } from '../base/ids.ts';
import type { WayIn } from '../model/activity.ts';
import { Failure } from '../model/failure.ts';
import type { Route, RouteName } from '../model/route.ts';
import type { Vm } from '../model/vm.ts';
import { GuestLives, type GuestLife } from './guest-lives.ts';
import type { Refusals } from './refusals.ts';
import { NOT_COUNTED, type Use } from './use.ts';
import type { Waker } from './waker.ts';
import { isAwake } from './waker.ts';
import type { World } from './world.ts';

const DAY_MS = 86_400_000;

/** A visit, as far as it matters to whether its VM wakes and stays awake. */
export interface Visit {
  readonly by: Extract<WayIn, 'http' | 'upgrade'>;
  readonly from: string;
  /** Why it wakes nothing, as the end of a sentence; it keeps nothing awake then either. undefined: it may. */
  readonly unwanted: string | undefined;
}

/** A visit that has come to a VM that runs. */
export interface Arrival {
  readonly ip: string;
  /** How long its wake was waited for, in milliseconds; undefined: it was awake. */
  readonly wokenMs: number | undefined;
  /** The visit as a use of the VM: whoever is given it ends it. */
  readonly use: Use;
  /** The guest it has come to; undefined where it is not known yet, as when the daemon has just started. */
  readonly life: GuestLife | undefined;
}

/** Visits of VMs by their routes. */
export class Visits {
  readonly #world: Pick<
    World,
    'store' | 'settings' | 'clock' | 'activity' | 'fleet' | 'flights' | 'routeBook'
  >;
  readonly #waker: Pick<Waker, 'wake'>;
  readonly #refusals: Pick<Refusals, 'note'>;
  readonly #lives: GuestLives;
  /** Guests that were seen to run here, with their addresses. */
  readonly #seen = new WeakMap<GuestLife, string>();
  readonly #waking = new Set<VmId>();
  /** How often routes with a budget have woken their VMs on a day. */
  readonly #woken = new Map<Route['id'], { readonly day: number; readonly times: number }>();

  constructor(
    world: Pick<World, 'store' | 'settings' | 'clock' | 'activity' | 'fleet' | 'flights' | 'routeBook'>,
    waker: Pick<Waker, 'wake'>,
    refusals: Pick<Refusals, 'note'>,
  ) {
    this.#world = world;
    this.#waker = waker;
    this.#refusals = refusals;
    this.#lives = new GuestLives(world);
  }

  /** The route of a name, if it was just looked for; undefined: `find` it. */
  known(name: RouteName): Route | undefined {
    return this.#world.routeBook.known(name);
  }

  find(name: RouteName): Promise<Route | null> {
    return this.#world.routeBook.find(name);
  }

  /**
   * As `arrive`, for a guest that was seen to run here and lives on with nothing under way that ends it: then nothing need be waited for or
   * read. This process alone changes that, and knows of it before it is written. undefined: it is not so.
   */
  arriveAtOnce({ vmId }: Route, visit: Visit): Arrival | undefined {
    const { activity, flights } = this.#world;
    const life = this.#lives.of(vmId);
    const ip = life && this.#seen.get(life);
    if (ip === undefined || life?.hasMachine !== true) return undefined;
    const verb = flights.verbOf(vmId);
    if (verb !== undefined && verb !== 'fork') return undefined;
    const use = visit.unwanted === undefined ? activity.begin(vmId, visit.by) : NOT_COUNTED;
    return { ip, wokenMs: undefined, use, life };
  }

  /** Whether visits may come to a guest again without asking: nothing is under way on it, or about to be. */
  mayComeAgain({ vmId }: Pick<Route, 'vmId'>, life: GuestLife): boolean {
    const { activity, flights } = this.#world;
    return (
      !life.isOver && life.hasMachine && flights.verbOf(vmId) === undefined && !activity.isFallingAsleep(vmId)
    );
  }

  /**
   * Gives where a route's VM is reached, woken first if it sleeps and the visit may wake it. It is in use from before it was looked at, so
   * that it does not fall asleep in between, until `use` is ended; a visit that is refused or unwanted counts as no use. Throws `not_found`,
   * `unavailable` with `retry_after_seconds` for one that is not to be woken now, and the signal's reason.
   */
  async arrive(route: Route, visit: Visit, signal: AbortSignal): Promise<Arrival> {
    const atOnce = this.arriveAtOnce(route, visit);
    if (atOnce) return atOnce;
    const refused = visit.unwanted ?? this.#whyNotWoken(route);
    if (refused === undefined) return this.#use(route, visit, (vm) => this.#wake(vm, route, visit, signal));
    const asleep = (): Promise<never> =>
      this.#refuse(route, visit, notNow(`The machine is not awake, and ${refused}.`));
    // Not counted before it is known to run: a visit that may not wake it is not to keep it from falling asleep either.
    const vm = await this.#look(route);
    if (!isAwake(vm)) return asleep();
    if (visit.unwanted === undefined) return this.#use(route, visit, asleep);
    return { ip: vm.network.ip, wokenMs: undefined, use: NOT_COUNTED, life: this.#see(vm) };
  }

  async #use(route: Route, visit: Visit, asleep: (vm: Networked) => Promise<number>): Promise<Arrival> {
    const use = this.#world.activity.begin(route.vmId, visit.by);
    try {
      const vm = await this.#look(route);
      const wokenMs = isAwake(vm) ? undefined : await asleep(vm);
      return { ip: vm.network.ip, wokenMs, use, life: this.#see(vm) };
    } catch (error) {
      use.end();
      throw error;
    }
  }

  /** The life of a guest that runs, which is known from now on. */
  #see({ id, network }: Networked): GuestLife | undefined {
    const life = this.#lives.of(id);
    if (life) this.#seen.set(life, network.ip);
    return life;
  }

  /** The VM of a route as it is now; throws for one that is gone, or awake on another host. */
  async #look({ vmId }: Route): Promise<Networked> {
    const { store, settings, activity } = this.#world;
    const vm = await store.vms.get(vmId);
    if (!vm) activity.forget(vmId);
    if (!vm || !isNetworked(vm)) throw new Failure('not_found', 'Nothing is published under this host name.');
    if (isAwake(vm) && vm.hostId !== settings.hostId)
      throw notNow(`The machine runs on host "${vm.hostId ?? ''}": ask there.`);
    return vm;
  }

  /** Notes that a visit is turned away, and throws that. */
  async #refuse({ vmId }: Route, { from }: Visit, why: Failure): Promise<never> {
    await this.#refusals.note(vmId, { by: 'http', from }, why);
    throw why;
  }

  async #wake(vm: Vm, route: Route, visit: Visit, signal: AbortSignal): Promise<number> {
    // However many wait for it, a wake is one of the budget's.
    const first = !this.#waking.has(vm.id);
    this.#waking.add(vm.id);
    try {
      const wokenMs = await this.#waker.wake(vm.id, { by: 'http', from: visit.from }, signal);
      if (first) this.#count(route);
      return wokenMs;
    } catch (error) {
      if (signal.aborted || !(error instanceof Failure) || error.code === 'not_found') throw error;
      const why =
        error.code === 'unavailable'
          ? error
          : error.code === 'no_capacity'
            ? // What of the host is held by whom is not for visitors.
              notNow('The machine could not be woken: the host has no room for it.', error)
            : notNow(`The machine could not be woken: ${error.message}`, error);
      return await this.#refuse(route, visit, why);
    } finally {
      if (first) this.#waking.delete(vm.id);
    }
  }

  /** Why nobody who comes by a route wakes its VM now. */
  #whyNotWoken({ id, autoWake, wake }: Route): string | undefined {
    if (!autoWake) return 'it is not woken by visits';
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

type Networked = Vm & { readonly network: NonNullable<Vm['network']> };

function isNetworked(vm: Vm): vm is Networked {
  return vm.network !== null;
}

function notNow(message: string, cause?: unknown): Failure {
  return new Failure('unavailable', message, { details: { retry_after_seconds: 60 }, cause });
}
