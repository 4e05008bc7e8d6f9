import { Hushed } from '../base/hushed.ts';
import type { VmId } from '../base/ids.ts';
import { errorFields } from '../base/logger.ts';
import type { Failure } from '../model/failure.ts';
import type { Visitor } from './hatch.ts';
import type { World } from './world.ts';

/** A VM's refusals are told no more often than this, in milliseconds: whoever knocks all the time is not to fill the events. */
const QUIET_MS = 60_000;

/** Who was turned away from VMs that do not run. */
export class Refusals {
  readonly #world: Pick<World, 'store' | 'clock' | 'log'>;
  readonly #told = new Hushed<VmId>(QUIET_MS);

  constructor(world: Pick<World, 'store' | 'clock' | 'log'>) {
    this.#world = world;
  }

  /**
   * Notes that a visitor was turned away, as an event `vm.wake_refused`, with how many were since the last one. At most one a minute
   * for each VM; never throws.
   */
  async note(vmId: VmId, visitor: Visitor, why: Failure): Promise<void> {
    const { store, clock, log } = this.#world;
    const times = this.#told.times(vmId, clock.steady());
    if (times === 0) return;
    try {
      const vm = await store.vms.get(vmId);
      if (!vm) {
        this.#told.forget(vmId);
        return;
      }
      const from = visitor.from === null ? '' : ` from ${visitor.from}`;
      const others = times > 1 ? ` It is the latest of ${times}.` : '';
      await store.events.add({
        accountId: vm.accountId,
        vmId,
        kind: 'vm.wake_refused',
        message: `Not woken by ${visitor.by}${from}: ${why.message}${others}`,
        data: { ...visitor, code: why.code, times },
      });
    } catch (error) {
      log.warn({ vm: vmId, ...errorFields(error) }, 'could not note who was turned away');
    }
  }
}
