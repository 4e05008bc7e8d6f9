import { KeyedLock } from '../base/keyed-lock.ts';
import type { VmId } from '../base/ids.ts';
import { errorFields } from '../base/logger.ts';
import { ownerOf } from './owner.ts';
import type { World } from './world.ts';

/** How long after it could not be told that a guest stands still it is told again, in milliseconds. */
const TELL_AGAIN_MS = 1000;
/** The code of `state_reason` of a VM whose guest stands still. */
export const NO_SPACE = 'no_space';
const FULL =
  'The host’s disk is full: the guest stands still until what it wrote finds room, and goes on by itself then. Nothing of it is lost.';
const FREED = 'There is room on the host’s disk again: the guest goes on.';

/**
 * Gives what is to be called when a guest begins to stand still for want of room on the host's disk (true), and when it has gone on
 * (false): its VM says so as `state_reason`, and events tell of both, `vm.disk_full` and `vm.disk_freed`. Where the database has no room
 * either it is told as soon as it has. Never throws.
 */
export function tellOfSpace({
  store,
  fleet,
  clock,
  log,
  settings,
}: Pick<World, 'store' | 'fleet' | 'clock' | 'log' | 'settings'>): (vmId: VmId, lacking: boolean) => void {
  const lock = new KeyedLock();
  const latest = new Map<VmId, symbol>();

  const note = async (vmId: VmId, lacking: boolean): Promise<void> => {
    const vm = await store.vms.get(vmId);
    if (vm?.hostId !== settings.hostId) return;
    const told = vm.stateReason?.code === NO_SPACE;
    if (lacking && !told)
      await store.vms.move(
        vmId,
        ownerOf(vm),
        ['running'],
        { stateReason: { code: NO_SPACE, message: FULL, at: clock.now() } },
        { event: { kind: 'vm.disk_full', message: FULL, data: {} } },
      );
    if (!lacking && told)
      await store.vms.move(
        vmId,
        ownerOf(vm),
        ['running'],
        { stateReason: null },
        { event: { kind: 'vm.disk_freed', message: FREED, data: {} } },
      );
  };

  const tell = async (vmId: VmId, lacking: boolean, mine: symbol): Promise<void> => {
    while (latest.get(vmId) === mine) {
      try {
        await note(vmId, lacking);
        return;
      } catch (error) {
        log.warn({ vm: vmId, lacking, ...errorFields(error) }, 'could not note whether a guest has room');
        await clock.sleep(TELL_AGAIN_MS, fleet.get(vmId)?.ended);
      }
    }
  };

  return (vmId, lacking) => {
    if (lacking) log.warn({ vm: vmId }, 'a guest stands still: the disk is full');
    else log.info({ vm: vmId }, 'a guest that stood still has room again');
    const mine = Symbol(vmId);
    latest.set(vmId, mine);
    lock
      .run(vmId, () => tell(vmId, lacking, mine))
      // Aborted: the guest has ended, or is not ours any more.
      .catch(() => undefined)
      .finally(() => {
        if (latest.get(vmId) === mine) latest.delete(vmId);
      });
  };
}
