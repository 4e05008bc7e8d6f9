import type { VmId } from '../base/ids.ts';
import { raceAbort } from '../base/deadline.ts';
import { Failure, notFound } from '../model/failure.ts';
import type { Vm } from '../model/vm.ts';
import type { Visitor } from './hatch.ts';
import { noteWoken } from './note-sleep.ts';
import { Refusals } from './refusals.ts';
import { flyRestore } from './restore-vm.ts';
import { flyStart } from './start-vm.ts';
import { translate } from './translate.ts';
import { waitFor } from './vms.ts';
import type { World } from './world.ts';

/** How many may wait for one VM, and for all of this host's. */
export const MOST_WAITING = { vm: 100, host: 1000 } as const;
/** After a wake that failed the next is tried no sooner than this, each time twice as long, at most so long; in milliseconds. */
const BACK_OFF = { firstMs: 1000, mostMs: 60_000 } as const;
/** A guest that was stopped by policy boots: its first answer may take a while. */
const BOOT_MS = 300_000;
/** An operation that is in the way may be followed by another, but not for ever. */
const MOST_TURNS = 10;

interface Failed {
  readonly cause: Failure;
  readonly delayMs: number;
  readonly until: number;
}

/**
 * Wakes VMs for those who touch them. However many come, and by whatever way, a VM is woken once for all of them; how many may wait is
 * bounded; after a failure it is left alone for a while, longer each time. A VM that a person stopped is not woken.
 */
export class Waker {
  readonly #world: World;
  readonly #attempts = new Map<VmId, Promise<void>>();
  readonly #waiting = new Map<VmId, number>();
  readonly #failed = new Map<VmId, Failed>();
  #waitingInAll = 0;
  /** Who was turned away, for those whose visitors were. */
  readonly refusals: Refusals;

  constructor(world: World) {
    this.#world = world;
    this.refusals = new Refusals(world);
  }

  /** How many wait for any VM now. */
  get waiting(): number {
    return this.#waitingInAll;
  }

  /**
   * Resolves when the VM runs, with how many milliseconds that was waited for: 0 for one that runs already. The caller's signal ends its
   * waiting, and the wake goes on. Throws `not_found`, `wrong_state` for a VM that no touch wakes, and `unavailable` with
   * `retry_after_seconds` while it is backing off or too many wait; else what the wake failed with.
   */
  async wake(vmId: VmId, visitor: Visitor, signal: AbortSignal): Promise<number> {
    const { store, clock } = this.#world;
    const vm = await store.vms.get(vmId);
    if (!vm) throw notFound('vm', vmId);
    if (isAwake(vm)) return 0;
    const refused = refusal(vm);
    if (refused) throw refused;
    this.#mustNotBackOff(vm);
    const from = clock.steady();
    this.#enter(vm);
    try {
      await raceAbort(this.#attempt(vm, visitor), signal);
    } finally {
      this.#leave(vmId);
    }
    return Math.round(clock.steady() - from);
  }

  #attempt(vm: Vm, visitor: Visitor): Promise<void> {
    const under = this.#attempts.get(vm.id);
    if (under) return under;
    const attempt = this.#carryOut(vm, visitor).finally(() => this.#attempts.delete(vm.id));
    // All who waited may have gone.
    attempt.catch(() => undefined);
    this.#attempts.set(vm.id, attempt);
    return attempt;
  }

  async #carryOut(vm: Vm, visitor: Visitor): Promise<void> {
    const { clock } = this.#world;
    const from = clock.steady();
    try {
      const woke = await this.#untilAwake(vm.id);
      this.#failed.delete(vm.id);
      // One that was about to sleep, and stays awake for them, tells of that itself.
      if (!woke) return;
      const waiters = this.#waiting.get(vm.id) ?? 0;
      await noteWoken(this.#world, vm, visitor, { waiters, ms: Math.round(clock.steady() - from) });
    } catch (error) {
      const cause = translate(error);
      const before = this.#failed.get(vm.id)?.delayMs;
      const delayMs = before === undefined ? BACK_OFF.firstMs : Math.min(2 * before, BACK_OFF.mostMs);
      this.#failed.set(vm.id, { cause, delayMs, until: clock.steady() + delayMs });
      throw cause;
    }
  }

  /**
   * Whatever is under way on the VM ends first: one that is just falling asleep is woken when it sleeps. Gives whether it had to be woken.
   */
  async #untilAwake(vmId: VmId): Promise<boolean> {
    const { store, flights } = this.#world;
    let woke = false;
    for (let turn = 0; turn < MOST_TURNS; turn++) {
      const vm = await store.vms.get(vmId);
      if (!vm) throw notFound('vm', vmId);
      if (isAwake(vm)) return woke;
      const refused = refusal(vm);
      if (refused) throw refused;
      try {
        if (vm.state === 'snapshotted') {
          await flyRestore(this.#world, vm, {});
          woke = true;
        } else if (vm.state === 'stopped') {
          await flyStart(this.#world, vm);
          woke = true;
          await waitFor(this.#world, vmId, { until: 'ready', timeoutMs: BOOT_MS });
        } else await waitFor(this.#world, vmId, { until: 'running', timeoutMs: BOOT_MS });
      } catch (error) {
        if (!(error instanceof Failure)) throw error;
        // It was on its way down: what it has come to is looked at anew.
        const ended = error.code === 'wrong_state' && vm.operation !== null;
        if (error.code !== 'busy' && !ended) throw error;
      }
      await flights.landed(vmId);
    }
    throw new Failure('busy', `VM ${vmId} had one operation after another; ask again when they are done.`, {
      details: { id: vmId, retry_after_seconds: 5 },
    });
  }

  #mustNotBackOff({ id }: Vm): void {
    const failed = this.#failed.get(id);
    if (!failed || this.#attempts.has(id)) return;
    const leftMs = failed.until - this.#world.clock.steady();
    if (leftMs <= 0) return;
    throw new Failure(
      'unavailable',
      `VM ${id} could not be woken, and is tried again in ${Math.ceil(leftMs / 1000)} s at the earliest: ${failed.cause.message}`,
      { details: { id, reason: failed.cause.code, retry_after_seconds: Math.ceil(leftMs / 1000) } },
    );
  }

  #enter({ id }: Vm): void {
    const here = this.#waiting.get(id) ?? 0;
    const full = here >= MOST_WAITING.vm ? 'this VM' : this.#waitingInAll >= MOST_WAITING.host && 'VMs here';
    if (full)
      throw new Failure('unavailable', `Too many wait for ${full} to wake; ask again in a moment.`, {
        details: { id, retry_after_seconds: 1 },
      });
    this.#waiting.set(id, here + 1);
    this.#waitingInAll++;
  }

  #leave(id: VmId): void {
    const left = (this.#waiting.get(id) ?? 1) - 1;
    if (left > 0) this.#waiting.set(id, left);
    else this.#waiting.delete(id);
    this.#waitingInAll--;
  }
}

/** It runs, and nothing is under way that ends that. */
export function isAwake({ state, operation }: Vm): boolean {
  return state === 'running' && (operation === null || operation.verb === 'fork');
}

/** Why no touch wakes a VM; undefined for one that sleeps, was stopped by policy, or is on its way up or down. */
function refusal({ id, state, stoppedBy, stateReason }: Vm): Failure | undefined {
  const why =
    state === 'stopped' && stoppedBy !== 'policy'
      ? 'is stopped, and only a start by its owner brings it up'
      : state === 'stopping' && stoppedBy !== 'policy'
        ? 'is being stopped'
        : state === 'error'
          ? `is in error${stateReason ? `: ${stateReason.message}` : ''}`
          : undefined;
  return why === undefined
    ? undefined
    : new Failure('wrong_state', `VM ${id} ${why}.`, { details: { id, state } });
}
