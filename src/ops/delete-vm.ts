import type { Caller } from './hatch.ts';
import { remove } from '../host/files.ts';
import { Failure } from '../model/failure.ts';
import type { Operation } from '../model/records.ts';
import type { Vm } from '../model/vm.ts';
import { Busy } from '../store/store.ts';
import { claimHere } from './elsewhere.ts';
import { dropDisk, endVmm } from './host-steps.ts';
import { dropSnapshot } from './save-vm.ts';
import { Overtaken, runForward } from './steps.ts';
import { translate } from './translate.ts';
import { findVm } from './vms.ts';
import type { World } from './world.ts';
import { ownerOf } from './owner.ts';
import { depsOf } from './carry-out.ts';
import { vmFolder } from './settings.ts';

/** Deletes a VM from any state, cancelling what is under way on it. What cannot be removed now is tried again until it is. */
export async function deleteVm(world: World, caller: Caller, idOrName: string): Promise<void> {
  const { store, flights } = world;
  const vm = await findVm(world, caller, idOrName);
  await flights.cancel(vm.id, 'delete', new Overtaken());
  await flights.fly(
    vm.id,
    'delete',
    async () => {
      const now = await claimHere(world, (await store.vms.get(vm.id)) ?? vm);
      const begin = (): Promise<Operation> =>
        store.operations.begin({ id: vm.id, owner: ownerOf(now) }, 'delete', {});
      try {
        return await begin();
      } catch (error) {
        if (!(error instanceof Busy) || error.operation.verb === 'delete') throw error;
        // One that failed and waits to be tried again: nobody carries it out, and what it would do the deletion does.
        const { code, message } = translate(new Overtaken());
        await store.operations.finish(error.operation.id, 'failed', { code, message });
        return begin();
      }
    },
    (operation, signal) => carryOutDelete(world, operation, signal),
  );
}

/** Carries a deletion to its end, as often as it takes: every step is done or was already. */
export async function carryOutDelete(world: World, operation: Operation, signal: AbortSignal): Promise<void> {
  const { store, ports, net, settings, fleet, activity } = world;
  const vm = await store.vms.get(operation.vmId);
  if (!vm) return;
  const steps = [
    { name: 'vmm', run: () => endVmm(world, vm) },
    { name: 'ssh-port', run: () => ports.close(vm.id) },
    { name: 'network', run: () => net.detach(vm.id) },
    { name: 'snapshots', run: () => dropSnapshots(world, vm) },
    { name: 'disk', run: () => dropDisk(world, vm) },
    { name: 'folder', run: () => remove(vmFolder(settings, vm.id)) },
    {
      name: 'row',
      run: async () => {
        await store.events.add({
          accountId: vm.accountId,
          vmId: vm.id,
          kind: 'vm.deleted',
          message: 'The VM was deleted.',
          data: { name: vm.name },
        });
        await store.vms.remove(vm.id, ownerOf(vm));
        activity.forget(vm.id);
        fleet.touch(vm.id);
      },
    },
  ];
  await runForward(depsOf(world), operation, steps, signal);
}

/** Removes a VM's snapshots with every file nobody else uses. One that is being copied at the moment is tried again later. */
async function dropSnapshots(world: World, vm: Vm): Promise<void> {
  await world.store.vms.update(vm.id, ownerOf(vm), { snapshotId: null });
  for (const snapshot of await world.store.snapshots.ofVm(vm.id)) {
    if (!(await dropSnapshot(world, snapshot)))
      throw new Failure(
        'busy',
        `Snapshot ${snapshot.id} is being copied; the VM is deleted when that is done.`,
      );
  }
}
