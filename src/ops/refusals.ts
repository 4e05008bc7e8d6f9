import type { VmId } from '../base/ids.ts';
import { errorFields } from '../base/logger.ts';
import type { Failure } from '../model/failure.ts';
import type { Visitor } from './hatch.ts';
import type { World } from './world.ts';

/** A VM's refusals are told no more often than this, in milliseconds: whoever knocks all the time is not to fill the events. */
const QUIET_MS = 60_000;

interface Told {
  readonly at: number;
  /** Refused since then. */
  untold: number;
}

/** Who was turned away from VMs that do not run. */
export class Refusals {
  readonly #world: Pick<World, 'store' | 'clock' | 'log'>;
  readonly #told = new Map<VmId, Told>();

  constructor(world: Pick<World, 'store' | 'clock' | 'log'>) {
    this.#world = world;
  }

  /**
   * Notes that a visitor was turned away, as an event `vm.wake_refused`, with how many were since the last one. At most one a minute
   * for each VM; never throws.
   */
  async note(vmId: VmId, visitor: Visitor, why: Failure): Promise<void> {
    const { store, clock, log } = this.#world;
    const before = this.#told.get(vmId);
    const now = clock.now();
    if (before && now - before.at < QUIET_MS) {
      before.untold++;
      return;
    }
    this.#told.set(vmId, { at: now, untold: 0 });
    const times = 1 + (before?.untold ?? 0);
    try {
      const vm = await store.vms.get(vmId);
      if (!vm) {
        this.#told.delete(vmId);
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
