import { Failure, invalid } from '../model/failure.ts';
import type { Vm } from '../model/vm.ts';
import { mustBeHere } from './elsewhere.ts';
import type { Caller } from './hatch.ts';
import { ownerOf } from './owner.ts';
import { findVmForUse } from './vms.ts';
import type { World } from './world.ts';

/** The longest time somebody may say a VM is busy for at once; then it is said again. */
export const MOST_LEASED_SECONDS = 3600;

/**
 * Somebody says that a running VM is busy for so many seconds from now; 0 ends that, and it counts as used now. Written to its row, so that
 * it outlives the daemon. Gives until when, in milliseconds since 1970. Throws `wrong_state` for one that does not run: a lease wakes nothing.
 */
export async function leaseVm(
  world: Pick<World, 'store' | 'activity' | 'flights' | 'settings' | 'clock'>,
  caller: Caller,
  idOrName: string,
  seconds: number,
): Promise<{ readonly vm: Vm; readonly until: number | null }> {
  const { store, activity, clock } = world;
  if (!Number.isInteger(seconds) || seconds < 0 || seconds > MOST_LEASED_SECONDS)
    throw invalid('seconds', `"seconds" must be 0 to ${MOST_LEASED_SECONDS}; ask again before it is over.`, {
      minimum: 0,
      maximum: MOST_LEASED_SECONDS,
    });
  const vm = await findVmForUse(world, caller, idOrName);
  mustBeHere(world, vm);
  if (vm.state !== 'running')
    throw new Failure(
      'wrong_state',
      `The VM is ${vm.state}; only a running one is kept awake. Start it first.`,
      {
        details: { state: vm.state, allowed: ['running'] },
      },
    );
  activity.lease(vm.id, seconds * 1000);
  const until = seconds === 0 ? null : clock.now() + seconds * 1000;
  await store.vms.noteUse(vm.id, ownerOf(vm), { leasedUntil: until });
  return { vm, until };
}
