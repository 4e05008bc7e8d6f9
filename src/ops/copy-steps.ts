import type { SnapshotId } from '../base/ids.ts';
import { deadline } from '../base/deadline.ts';
import { errorFields } from '../base/logger.ts';
import { giveIdentity, joinNetwork, newMachineId } from '../guest/identity.ts';
import { Failure, notFound } from '../model/failure.ts';
import type { Image } from '../model/records.ts';
import type { Vm } from '../model/vm.ts';
import { attach, endVmm, hostnameOf, seedStep, sshStep } from './host-steps.ts';
import type { Step } from './steps.ts';
import { noteHooks } from './wake-vm.ts';
import { diskFromSnapshot, folderFromSnapshot, loadMachine } from './wake-vm.ts';
import type { World } from './world.ts';

const ENDED = 'The guest ended before it could be told who it is.';

/**
 * The steps that make a copy: as those of a boot, but its machine is loaded, and its tap joins the bridge only when the guest no
 * longer takes itself for the one it was.
 */
export async function copySteps(
  world: World,
  vm: Vm,
  image: Image,
  parent: SnapshotId,
  signal: AbortSignal,
): Promise<readonly Step[]> {
  const { store, net } = world;
  const found = await store.snapshots.get(parent);
  if (!found) throw notFound('snapshot', parent);
  // Its files were here when the copy was asked for; from the copy's row on they stay.
  const snapshot = await world.archive.bring(found, signal);
  const { network } = vm;
  const steps: Step[] = [
    folderFromSnapshot(world, vm, snapshot, true),
    diskFromSnapshot(world, vm, image, snapshot),
    seedStep(world, vm, image),
  ];
  if (network !== null)
    steps.push({
      name: 'network',
      async run() {
        await attach(world, vm, network);
        await net.setJoined(vm.id, false);
      },
      undo: () => net.detach(vm.id),
    });
  steps.push(
    {
      name: 'vmm',
      run: async (within) => void (await loadMachine(world, vm, image, snapshot, within)),
      undo: () => endVmm(world, vm),
    },
    identityStep(world, vm),
  );
  if (network !== null) steps.push(sshStep(world, vm, network));
  return steps;
}

function identityStep(world: World, vm: Vm): Step {
  const { fleet, net, clock, log, patience } = world;
  return {
    name: 'identity',
    async run(signal) {
      const live = fleet.get(vm.id);
      if (!live) throw new Failure('vmm_failed', ENDED);
      const { agent } = live;
      const ended = live.machine.exited.then(() => Promise.reject(new Failure('vmm_failed', ENDED)));
      ended.catch(() => undefined);
      const identity = { hostname: hostnameOf(vm), mac: vm.network?.mac ?? null, machineId: newMachineId() };
      const given = await deadline(
        'giving the copy its identity',
        patience.identityMs,
        (within) => Promise.race([giveIdentity({ agent, clock }, identity, within), ended]),
        signal,
      );
      await noteHooks(world, vm, given.hooks);
      if (vm.network === null) return;
      await net.setJoined(vm.id, true);
      try {
        await deadline(
          'joining the network',
          patience.identityMs,
          (within) => joinNetwork({ agent }, within),
          signal,
        );
      } catch (error) {
        signal.throwIfAborted();
        log.warn(
          { vm: vm.id, ...errorFields(error) },
          'the guest could not be told that it is on the network',
        );
      }
    },
    // The guest that was told goes with its hypervisor.
    undo: async () => undefined,
  };
}
