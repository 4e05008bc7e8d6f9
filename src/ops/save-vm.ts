import { constants, copyFile, readlink, rename, symlink } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { isErrno } from '../base/errno.ts';
import { deadline } from '../base/deadline.ts';
import { errorFields } from '../base/logger.ts';
import { exists, freeBytes, makeFolder, remove, takeBack } from '../host/files.ts';
import { Failure } from '../model/failure.ts';
import type { Layer, Operation } from '../model/records.ts';
import type { NewSnapshot, Snapshot } from '../model/snapshot.ts';
import type { Vm } from '../model/vm.ts';
import type { Live } from './fleet.ts';
import { diskOf, endVmm, imageOf, kernelNames, specOf, wholeDiskOf } from './host-steps.ts';
import { kernelSha256 } from './image-kernel.ts';
import { layerFile, layerFolder, releaseLayers } from './layers.ts';
import { toArgs, type SavedFacts, type SnapshotPlan } from './snapshot-plan.ts';
import { mustStandOnItsOwn } from './stands-on.ts';
import type { Step } from './steps.ts';
import type { World } from './world.ts';
import { ownerOf } from './owner.ts';
import { vmFolder } from './settings.ts';

const MIB = 1024 * 1024;
/** How long after a paused machine did not go on its end may show. */
const ENDED_MS = 1000;
/** Left free on the host's disk after a guest's memory was written to it. */
const SPARE_BYTES = 64 * MIB;

/** Keeps what an operation knows of its snapshot up to date, in its row too. */
export interface PlanKeeper {
  plan: SnapshotPlan;
  readonly operation: Operation;
  /** Called in the moment the machine is saved; throws when it is to run on all the same. */
  readonly seal: () => void;
}

/** Remembers how a machine was saved, for whoever carries the operation on. */
async function noteSaved({ store }: World, keeper: PlanKeeper, saved: SnapshotPlan['saved']): Promise<void> {
  const plan = { ...keeper.plan, saved };
  await store.operations.setArgs(keeper.operation.id, toArgs(plan));
  keeper.plan = plan;
}

/**
 * The steps in which the guest stands still and its machine is saved. Taken back, it runs on as if nothing had been: nothing it
 * has is touched before it is saved whole.
 */
export function saveSteps(world: World, vm: Vm, keeper: PlanKeeper): readonly Step[] {
  const { fleet, settings, driver } = world;
  const { memoryId, stateId } = keeper.plan;
  const folders = [memoryId, stateId].map((id) => layerFolder(settings, id));
  const running = (): Live => {
    const live = fleet.get(vm.id);
    if (!live || live.exit) throw new Failure('vmm_failed', 'The guest ended before it could be saved.');
    return live;
  };
  return [
    {
      name: 'room',
      async run() {
        for (const folder of folders) await makeFolder(folder);
        const ownFile = driver.capabilities.ramFile && running().machine.ramFile !== null;
        await mustHaveRoom(settings.layersFolder, ownFile ? 0 : vm.memMib * MIB);
      },
      async undo() {
        for (const folder of folders) await remove(folder);
      },
    },
    {
      name: 'pause',
      async run() {
        const { machine } = running();
        // A guest whose channel does not outlast a pause is not to be in the middle of a word.
        if (!driver.capabilities.resumeKeepsAgent) fleet.hush(vm.id);
        await machine.pause();
      },
      async undo() {
        const live = fleet.get(vm.id);
        if (!live || live.exit) return;
        try {
          await live.machine.resume();
        } catch (error) {
          // One that has just ended has nothing to go on with, and its VM is told so by its end.
          const ended = deadline('the end of the hypervisor', ENDED_MS, () => live.machine.exited);
          await ended.catch(() => Promise.reject(error as Error));
        }
      },
    },
    {
      name: 'save',
      async run() {
        const { machine } = running();
        const { version, machineType, accel, memoryPath } = await machine.save({
          statePath: layerFile(settings, { id: stateId, kind: 'state', format: 'raw' }),
          memoryPath: layerFile(settings, { id: memoryId, kind: 'memory', format: 'raw' }),
        });
        keeper.seal();
        await noteSaved(world, keeper, { version, machineType, accel, memoryPath });
      },
      async undo() {
        for (const folder of folders) await remove(folder);
      },
    },
  ];
}

/** Throws `no_space` when there is no room for so much and some more. */
export async function mustHaveRoom(folder: string, bytes: number): Promise<void> {
  const free = await freeBytes(folder);
  if (free >= bytes + SPARE_BYTES) return;
  const mib = (count: number): number => Math.ceil(count / MIB);
  throw new Failure(
    'no_space',
    `The snapshot needs ${mib(bytes + SPARE_BYTES)} MiB on the host's disk, and ${mib(free)} MiB are free. Remove snapshots, VMs or images you do not need, or give it more room.`,
    { details: { needed_mib: mib(bytes + SPARE_BYTES), free_mib: mib(free) } },
  );
}

/**
 * The steps from a saved machine to a snapshot: there is no way back from them and none is needed. Whatever a crash leaves, each does
 * what is left of it.
 */
export function sealSteps(world: World, vm: Vm, keeper: PlanKeeper): readonly Omit<Step, 'undo'>[] {
  return [
    { name: 'end', run: (signal) => endSaved(world, vm, keeper, signal) },
    { name: 'freeze', run: () => freeze(world, vm, keeper.plan) },
    { name: 'seal', run: () => seal(world, vm, keeper.plan) },
  ];
}

/** Ends the saved machine and takes its memory file, before what is worthless without it is cleared. */
async function endSaved(world: World, vm: Vm, keeper: PlanKeeper, signal: AbortSignal): Promise<void> {
  const { settings, fleet, driver, log } = world;
  await fleet.get(vm.id)?.machine.kill();
  for (const found of await driver.observe()) {
    if (found.vmId === vm.id) await driver.reap(found.process);
  }
  const { stateId, memoryId } = keeper.plan;
  const statePath = layerFile(settings, { id: stateId, kind: 'state', format: 'raw' });
  if (keeper.plan.saved?.memoryPath === null) {
    const memoryPath = await giveMemoryAFile(world, vm, keeper.plan, signal).catch((error: unknown) => {
      signal.throwIfAborted();
      // It loads as it is, only not as fast, and no two can share it.
      log.warn({ vm: vm.id, ...errorFields(error) }, 'the saved memory stays in the state');
      return null;
    });
    // Noted before the state with the memory in it is replaced: until then that is the only copy of the memory that counts.
    if (memoryPath !== null) await noteSaved(world, keeper, { ...keeper.plan.saved, memoryPath });
  }
  const memory = keeper.plan.saved?.memoryPath ?? null;
  if (memory !== null) {
    if (await exists(besideState(statePath))) await rename(besideState(statePath), statePath);
    await moveIfThere(memory, layerFile(settings, { id: memoryId, kind: 'memory', format: 'raw' }));
  }
  await endVmm(world, vm);
}

/** The state of a machine whose memory has been given a file, until it takes the place of the one that holds the memory too. */
export function besideState(statePath: string): string {
  return `${statePath}.new`;
}

/**
 * A guest that ran on a private map has its memory only in the saved state: loaded once more, standing still, into a file of its
 * own, it is saved beside that as one that can be mapped again. Gives the memory's file, or null where this hypervisor has none; what
 * was saved stays as it is.
 */
async function giveMemoryAFile(
  world: World,
  vm: Vm,
  { stateId, saved }: SnapshotPlan,
  signal: AbortSignal,
): Promise<string | null> {
  const { driver, settings } = world;
  if (saved === null || !driver.capabilities.ramFile) return null;
  const statePath = layerFile(settings, { id: stateId, kind: 'state', format: 'raw' });
  const image = await imageOf(world, vm);
  const spec = specOf(world, vm, image, await wholeDiskOf(world, vm));
  const machine = await driver.load(
    spec,
    { ...saved, driver: driver.name, vcpuCount: vm.vcpuCount, memMib: vm.memMib, statePath },
    { mapping: 'private', resume: false },
    signal,
  );
  try {
    if (machine.ramFile === null) return null;
    const again = await machine.save({ statePath: besideState(statePath), memoryPath: machine.ramFile });
    return again.memoryPath;
  } finally {
    await machine.kill();
    await machine.release();
  }
}

/** Moves a file, unless that was done already. */
export async function moveIfThere(from: string, to: string): Promise<void> {
  if (from === to) return;
  try {
    await rename(from, to);
  } catch (error) {
    if (!isErrno(error, 'ENOENT')) throw error;
    if (!(await exists(to))) throw error;
  }
}

/** Moves the disk to where it stays as it is, with the links that say what it and the machine stand on. */
async function freeze(world: World, vm: Vm, { stateId }: SnapshotPlan): Promise<void> {
  const { settings } = world;
  const disk = await diskOf(world, vm);
  const target = layerFile(settings, disk);
  const own = vmFolder(settings, vm.id);
  await makeFolder(dirname(target));
  await copyLink(join(own, 'base'), join(dirname(target), 'base'));
  for (const name of kernelNames)
    await copyKernel(join(own, name), join(layerFolder(settings, stateId), name));
  if (disk.frozen) return;
  await moveIfThere(disk.path, target);
  // It was the hypervisor's, which may be a user of its own.
  await takeBack(target);
  await mustStandOnItsOwn(world, disk, target);
}

/** A link to the image's kernel is kept as a link; a VM that came from elsewhere has it as a file of its own. */
export async function copyKernel(from: string, to: string): Promise<void> {
  await copyLink(from, to);
  try {
    if (!(await exists(to)) && (await exists(from))) await copyFile(from, to, constants.COPYFILE_FICLONE);
  } catch (error) {
    await remove(to);
    throw error;
  }
}

/** Makes a link again that leads to the same; no failure when there is none. */
export async function copyLink(from: string, to: string): Promise<void> {
  let target: string;
  try {
    target = await readlink(from);
  } catch (error) {
    if (isErrno(error, 'ENOENT') || isErrno(error, 'EINVAL')) return;
    throw error;
  }
  await remove(to);
  await symlink(target, to);
}

/** From here on there is a snapshot, and its VM sleeps: one transaction. */
async function seal(world: World, vm: Vm, plan: SnapshotPlan): Promise<void> {
  const { store, settings } = world;
  if (await store.snapshots.get(plan.snapshotId)) return;
  if (plan.saved === null) throw new Error(`${plan.snapshotId} was not saved`);
  const disk = await diskOf(world, vm);
  const { snapshot, layers } = await rowsOf(world, vm, plan, plan.saved, disk);
  world.flights.landing(vm.id);
  await store.snapshots.create(snapshot, {
    layers,
    freeze: { id: disk.id, path: layerFile(settings, disk) },
    vm: {
      owner: ownerOf(vm),
      from: ['running'],
      patch: {
        state: 'snapshotted',
        snapshotId: plan.snapshotId,
        stateReason: null,
        readyAt: null,
        process: null,
      },
    },
    limit: null,
  });
}

/** The rows of a snapshot, and of what was saved; `disk`: the one it keeps. */
export async function rowsOf(
  world: World,
  vm: Vm,
  plan: SnapshotPlan,
  saved: SavedFacts,
  disk: Pick<Layer, 'id' | 'path' | 'format'>,
): Promise<{ readonly snapshot: NewSnapshot; readonly layers: readonly Omit<Layer, 'createdAt'>[] }> {
  const { settings, driver } = world;
  const { memoryId, stateId } = plan;
  const image = await imageOf(world, vm);
  const spec = specOf(world, vm, image, disk);
  const owner = ownerOf(vm);
  const parent = await parentOf(world, vm);
  const layer = (kind: 'memory' | 'state', id: typeof stateId) =>
    ({
      id,
      hostId: owner.hostId,
      kind,
      path: layerFile(settings, { id, kind, format: 'raw' }),
      format: 'raw',
      parentId: null,
      imageAccountId: null,
      imageId: null,
      frozen: true,
    }) as const;
  const inFile = saved.memoryPath !== null;
  if (!inFile) await remove(layerFolder(settings, memoryId));
  return {
    snapshot: {
      id: plan.snapshotId,
      accountId: vm.accountId,
      vmId: vm.id,
      name: plan.name,
      kind: plan.kind,
      hostId: owner.hostId,
      imageId: vm.imageId,
      vcpuCount: vm.vcpuCount,
      memMib: vm.memMib,
      diskMib: vm.diskMib,
      savedOn: {
        driver: driver.name,
        version: saved.version,
        machineType: saved.machineType,
        accel: saved.accel,
        cpu: driver.cpu,
        kernelSha256: await kernelOfVm(world, vm, spec.kernel, parent),
        imageSha256: image.sha256,
      },
      guest: {
        hostname: vm.name ?? vm.id,
        mac: vm.network?.mac ?? null,
        diskFormat: disk.format,
        bootArgs: spec.bootArgs,
        hasInitrd: spec.initrd !== null,
        instanceId: vm.instanceId,
        agent: plan.agent,
      },
      parentId: parent?.id ?? vm.parentSnapshotId,
      diskLayerId: disk.id,
      memoryLayerId: inFile ? memoryId : null,
      stateLayerId: stateId,
      logicalBytes: vm.memMib * MIB + Math.max(image.sizeBytes, (vm.diskMib ?? 0) * MIB),
    },
    layers: [...(inFile ? [layer('memory', memoryId)] : []), layer('state', stateId)],
  };
}

/** The snapshot a VM comes from: its latest, else the one it is a copy of. */
async function parentOf({ store }: World, vm: Vm): Promise<Snapshot | null> {
  const [latest] = await store.snapshots.ofVm(vm.id);
  return latest ?? (vm.parentSnapshotId && (await store.snapshots.get(vm.parentSnapshotId)));
}

/** SHA-256 of the kernel a VM boots. One that came from the store is a file on its own, and what is known of it is in its snapshot. */
async function kernelOfVm(
  { settings, driver }: World,
  vm: Vm,
  kernel: string,
  parent: Snapshot | null,
): Promise<string | null> {
  const known = parent?.savedOn.driver === driver.name ? parent.savedOn.kernelSha256 : null;
  return (await kernelSha256(join(vmFolder(settings, vm.id), kernel))) ?? known;
}

/** Removes a snapshot's row, and the files of it that nobody else uses. false: it is being copied at the moment. */
export async function dropSnapshot(
  world: Pick<World, 'store' | 'settings' | 'archive'>,
  { id, diskLayerId, memoryLayerId, stateLayerId }: Snapshot,
): Promise<boolean> {
  if (!(await world.store.snapshots.remove(id))) return false;
  await world.archive.forget(id);
  await releaseLayers(world, [diskLayerId, memoryLayerId, stateLayerId]);
  return true;
}
