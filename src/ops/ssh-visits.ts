import type { VmId } from '../base/ids.ts';
import { Failure, notFound } from '../model/failure.ts';
import type { Use } from './use.ts';
import type { Visitor } from './hatch.ts';
import type { Refusals } from './refusals.ts';
import { isAwake, type Waker } from './waker.ts';
import type { World } from './world.ts';

/** Who comes to a VM's SSH port. */
export interface SshVisit {
  readonly from: string | null;
  /** Whether it has shown that it speaks SSH; whoever has not wakes nothing. */
  readonly shown: boolean;
}

/** Visits of VMs by their SSH ports. */
export class SshVisits {
  readonly #world: Pick<World, 'store' | 'settings' | 'activity'>;
  readonly #waker: Pick<Waker, 'wake'>;
  readonly #refusals: Pick<Refusals, 'note'>;

  constructor(
    world: Pick<World, 'store' | 'settings' | 'activity'>,
    waker: Pick<Waker, 'wake'>,
    refusals: Pick<Refusals, 'note'>,
  ) {
    this.#world = world;
    this.#waker = waker;
    this.#refusals = refusals;
  }

  /** Begins a use of a VM by a visitor who has shown itself; before `arrive`, as `ActivityTracker` says. */
  begin(vmId: VmId): Use {
    return this.#world.activity.begin(vmId, 'ssh');
  }

  /**
   * Gives where a VM is reached, woken first if it does not run; undefined: it does not run, and the visitor has yet to show itself.
   * Throws a Failure for a VM that is not to be woken now, or could not be, and the signal's reason.
   */
  async arrive(
    vmId: VmId,
    { from, shown }: SshVisit,
    signal: AbortSignal,
  ): Promise<{ readonly ip: string } | undefined> {
    const visitor: Visitor = { by: 'ssh', from };
    try {
      const { store, activity } = this.#world;
      const vm = await store.vms.get(vmId);
      if (!vm) activity.forget(vmId);
      if (!vm?.network) throw notFound('vm', vmId);
      if (vm.hostId !== this.#world.settings.hostId)
        throw new Failure('wrong_state', `VM ${vmId} is on host "${vm.hostId ?? ''}": ask there.`);
      if (!isAwake(vm)) {
        if (!shown) return undefined;
        signal.throwIfAborted();
        await this.#waker.wake(vmId, visitor, signal);
      }
      return { ip: vm.network.ip };
    } catch (error) {
      if (error instanceof Failure && !signal.aborted) await this.#refusals.note(vmId, visitor, error);
      throw error;
    }
  }
}
