import type { SnapshotId } from '../base/ids.ts';
import { notFound } from '../model/failure.ts';
import type { Image } from '../model/records.ts';
import type { Vm } from '../model/vm.ts';
import { endVmm, networkStep, seedStep, sshStep } from './host-steps.ts';
import { identityStep } from './identity-step.ts';
import type { Stage, Step } from './steps.ts';
import { diskFromSnapshot, folderFromSnapshot, loadMachine } from './wake-vm.ts';
import type { World } from './world.ts';

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
): Promise<readonly Stage[]> {
  const { store } = world;
  const found = await store.snapshots.get(parent);
  if (!found) throw notFound('snapshot', parent);
  // Its files were here when the copy was asked for; from the copy's row on they stay.
  const snapshot = await world.archive.bring(found, signal);
  const { network } = vm;
  const folder = folderFromSnapshot(world, vm, snapshot, true);
  const files = [diskFromSnapshot(world, vm, image, snapshot), seedStep(world, vm, image)];
  const load: Step = {
    name: 'vmm',
    run: async (within) => void (await loadMachine(world, vm, image, snapshot, within)),
    undo: () => endVmm(world, vm),
  };
  const identity = identityStep(world, vm);
  if (network === null) return [folder, files, load, identity];
  const apart = networkStep(world, vm, network, { apart: true });
  return [folder, [...files, apart], load, identity, sshStep(world, vm, network)];
}
