import type { VmId } from '../base/ids.ts';
import type { Live } from './fleet.ts';
import type { World } from './world.ts';

/** A guest from when it began to run, or woke, until it sleeps or ends: what is connected to it then leads nowhere any more. */
export interface GuestLife {
  readonly isOver: boolean;
  /** Whether its machine runs; one that was just saved and has ended may go on in another, or not. */
  readonly hasMachine: boolean;
  /** Has something done when it is over. */
  whenOver(done: () => void): void;
}

/** A life for whoever follows its guest. */
export class Life implements GuestLife {
  readonly #done: (() => void)[] = [];
  isOver = false;
  hasMachine = true;

  whenOver(done: () => void): void {
    if (this.isOver) done();
    else this.#done.push(done);
  }

  /** It is over. */
  end(): void {
    this.isOver = true;
    this.hasMachine = false;
    for (const done of this.#done.splice(0)) done();
  }
}

/**
 * The lives of the guests that run here. A guest whose machine is exchanged for one that goes on from what was just saved lives on: it
 * did nothing in between, and its connections stand. One that is stopped, rebooted, put to sleep or put back does not.
 */
export class GuestLives {
  readonly #world: Pick<World, 'fleet' | 'flights' | 'store'>;
  readonly #lives = new Map<VmId, Life>();

  constructor(world: Pick<World, 'fleet' | 'flights' | 'store'>) {
    this.#world = world;
  }

  /** The life of a VM's guest; undefined when none is known to run here. */
  of(vmId: VmId): GuestLife | undefined {
    const known = this.#lives.get(vmId);
    if (known) return known;
    const live = this.#world.fleet.get(vmId);
    if (!live || live.ended.aborted) return undefined;
    const life = new Life();
    this.#lives.set(vmId, life);
    this.#follow(vmId, life, live);
    return life;
  }

  #follow(vmId: VmId, life: Life, { ended }: Live): void {
    life.hasMachine = true;
    ended.addEventListener('abort', () => this.#machineEnded(vmId, life), { once: true });
  }

  #machineEnded(vmId: VmId, life: Life): void {
    life.hasMachine = false;
    const verb = this.#world.flights.verbOf(vmId);
    if (verb === 'snapshot' || verb === 'fork') void this.#maybeGoesOn(vmId, life);
    else this.#end(vmId, life);
  }

  /** A machine that was saved has ended: its guest sleeps, or goes on in another that was loaded from it. */
  async #maybeGoesOn(vmId: VmId, life: Life): Promise<void> {
    const { fleet, flights, store } = this.#world;
    await flights.landed(vmId);
    const vm = await store.vms.get(vmId).catch(() => null);
    const live = fleet.get(vmId);
    if (vm?.state === 'running' && live && !live.ended.aborted) this.#follow(vmId, life, live);
    else this.#end(vmId, life);
  }

  #end(vmId: VmId, life: Life): void {
    this.#lives.delete(vmId);
    life.end();
  }
}
