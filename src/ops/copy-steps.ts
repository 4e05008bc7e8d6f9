import type { SnapshotId } from '../base/ids.ts';
import { notFound } from '../model/failure.ts';
import type { Image } from '../model/records.ts';
import type { Vm } from '../model/vm.ts';
import { networkStep, seedStep, sshStep } from './host-steps.ts';
import { identityStep } from './identity-step.ts';
import type { Stage } from './steps.ts';
import { diskFromSnapshot, folderFromSnapshot } from './files-from-snapshot.ts';
import { resumeStep, loadStep, tapStep } from './wake-vm.ts';
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
  const load = loadStep(world, vm, image, snapshot);
  const resume = resumeStep(world, vm);
  const identity = identityStep(world, vm);
  if (network === null) return [folder, files, load, resume, identity];
  const place = networkStep(world, vm, network, { apart: true });
  const ssh = sshStep(world, vm, network);
  return [folder, [...files, tapStep(world, vm)], [place, load], resume, identity, ssh];
}
