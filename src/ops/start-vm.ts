import { restOf } from '../model/history.ts';
import { Failure } from '../model/failure.ts';
import { refuse } from '../model/states.ts';
import type { Vm } from '../model/vm.ts';
import { carryOutBoot, isUnmadeCopy, UNMADE_COPY } from './boot-vm.ts';
import { mustBeHere } from './elsewhere.ts';
import type { Caller, Wait } from './hatch.ts';
import { withRoom } from './room-for.ts';
import { noteWoken } from './note-sleep.ts';
import { BY_API, restoreVm } from './restore-vm.ts';
import { findVm, waitFor } from './vms.ts';
import type { World } from './world.ts';
import { ownerOf } from './owner.ts';

/** Starts a stopped VM, or one in error, on its own disk and with its own addresses. Running: nothing is done. */
export async function startVm(world: World, caller: Caller, idOrName: string, wait?: Wait): Promise<Vm> {
  const vm = await findVm(world, caller, idOrName);
  if (vm.state !== 'snapshotted') mustBeHere(world, vm);
  else return restoreVm(world, caller, idOrName, {}, wait);
  if (vm.state !== 'running' || vm.operation !== null) {
    const from = world.clock.now();
    const began = await flyStart(world, vm);
    const ms = world.clock.now() - from;
    // One that nobody used was stopped, too: it is woken by this.
    if (began && restOf(vm) === 'stop') await noteWoken(world, vm, BY_API, { waiters: 1, ms });
  }
  return waitFor(world, vm.id, wait);
}

/**
 * Starts a VM as one operation on it, or joins the one under way; gives whether it did not join. Resolves when it is done; rejects with a
 * Failure.
 */
export async function flyStart(world: World, vm: Vm): Promise<boolean> {
  const { store, flights } = world;
  let began = false;
  await withRoom(world, (ask) =>
    flights.fly(
      vm.id,
      'start',
      async (cutOff) => {
        const now = (await store.vms.get(vm.id)) ?? vm;
        mustBeHere(world, now);
        const refused = refuse(now, 'start');
        if (refused) throw refused;
        if (isUnmadeCopy(now))
          throw new Failure('wrong_state', `VM ${now.id} is a copy that could not be made: ${UNMADE_COPY}`, {
            details: { state: now.state, allowed: ['delete'] },
          });
        const vms = [{ vmId: now.id, memMib: now.memMib }];
        await ask({ verb: 'start', accountId: now.accountId, vms, about: now.id }, cutOff);
        began = true;
        return store.operations.begin({ id: vm.id, owner: ownerOf(now) }, 'start', {
          fresh: now.layerId === null,
        });
      },
      (operation, signal) => carryOutBoot(world, operation, signal),
    ),
  );
  return began;
}
