import { constants, copyFile, link, rename } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { isErrno } from '../base/errno.ts';
import { newId, type LayerId } from '../base/ids.ts';
import { errorFields } from '../base/logger.ts';
import { exists, makeFolder, reflink, remove, takeBack } from '../host/files.ts';
import { Failure } from '../model/failure.ts';
import type { Layer } from '../model/records.ts';
import type { Vm } from '../model/vm.ts';
import type { Machine, SavedMachine } from '../vmm/driver.ts';
import { diskOf, imageOf, kernelNames, SEED_FILE, specOf, wholeDiskOf } from './host-steps.ts';
import { layerFile, layerFolder } from './layers.ts';
import { ownerOf } from './owner.ts';
import {
  besideState,
  copyKernel,
  copyLink,
  dropSnapshot,
  moveIfThere,
  mustHaveRoom,
  rowsOf,
} from './save-vm.ts';
import { inScratch, tapApart } from './scratch.ts';
import { vmFolder } from './settings.ts';
import type { SavedFacts, SnapshotPlan } from './snapshot-plan.ts';
import { mustStandOnItsOwn } from './stands-on.ts';
import type { Step } from './steps.ts';
import { LONGEST_CHAIN } from './files-from-snapshot.ts';
import type { World } from './world.ts';

const MIB = 1024 * 1024;
const ADOPT_MS = 10_000;

type LivePlan = SnapshotPlan & { readonly diskId: LayerId };

/**
 * Whether a VM can be saved while its hypervisor goes on: its agent must outlast the pause. One whose disk has become a long chain
 * goes to sleep for it, as its disk is made short again when it wakes.
 */
export async function canSaveLive({ store, driver }: World, vm: Vm): Promise<boolean> {
  if (!driver.capabilities.resumeKeepsAgent || vm.layerId === null) return false;
  return !driver.capabilities.qcow2 || (await store.layers.chain(vm.layerId)).length < LONGEST_CHAIN;
}

/**
 * The steps that save a VM whose guest goes on in the same process: it stands still while its state is written, and its disk becomes
 * the saved one, under an overlay that the guest goes on with; where there are no overlays, while it is copied. All is taken back until
 * there is a snapshot, but for the overlay: a guest that writes to it keeps it.
 */
export function liveSteps(world: World, vm: Vm, plan: LivePlan): readonly Step[] {
  const { settings, store, driver } = world;
  const { memoryId, stateId, diskId } = plan;
  const folders = [memoryId, stateId].map((id) => layerFolder(settings, id));
  let saved: SavedFacts | undefined;
  return [
    {
      name: 'room',
      async run() {
        for (const folder of folders) await makeFolder(folder);
        await mustHaveRoom(settings.layersFolder, vm.memMib * MIB);
        const own = vmFolder(settings, vm.id);
        for (const name of kernelNames)
          await copyKernel(join(own, name), join(layerFolder(settings, stateId), name));
      },
      async undo() {
        for (const folder of folders) await remove(folder);
      },
    },
    {
      name: 'disk',
      run: (signal) => layOutDisk(world, vm, diskId, signal),
      undo: () => settleDisk(world, vm, plan),
    },
    {
      name: 'save',
      run: async (signal) => void (saved = await saveAndGoOn(world, vm, plan, signal)),
      undo: () => letGoOn(world, vm),
    },
    {
      name: 'memory',
      async run(signal) {
        if (saved && saved.memoryPath === null) saved = await mapMemory(world, vm, plan, saved, signal);
      },
      undo: async () => undefined,
    },
    {
      name: 'seal',
      async run() {
        if (!saved) throw new Error(`${plan.snapshotId} was not saved`);
        await seal(world, vm, plan, saved);
        if (driver.capabilities.qcow2) await forgetOldName(world, vm);
        const kept = keptDisk(world, await diskOf(world, vm), diskId);
        await takeBack(kept.path);
        await mustStandOnItsOwn(world, kept, kept.path);
      },
      async undo() {
        const snapshot = await store.snapshots.get(plan.snapshotId);
        if (snapshot) await dropSnapshot(world, snapshot);
      },
    },
  ];
}

function running({ fleet }: World, vm: Vm): Machine {
  const live = fleet.get(vm.id);
  if (!live || live.exit) throw new Failure('vmm_failed', 'The guest ended before it could be saved.');
  return live.machine;
}

/** The name of an overlay in its VM's folder: while the hypervisor lives it may open what it has open by its name again. */
function overlayName(diskId: LayerId): string {
  return `disk-${diskId}.qcow2`;
}

/** Where the disk is kept that the snapshot names: of the guest's own, or a copy. */
function keptDisk({ settings, driver }: World, disk: Layer, diskId: LayerId): Layer {
  const kept = driver.capabilities.qcow2 ? disk : { ...disk, id: diskId };
  return { ...kept, path: layerFile(settings, kept) };
}

/** A second name for the disk where it is to stay, and an overlay over that which nobody writes to yet; or a folder for the copy. */
async function layOutDisk(world: World, vm: Vm, diskId: LayerId, signal: AbortSignal): Promise<void> {
  const { settings, driver, files } = world;
  const disk = await diskOf(world, vm);
  const kept = keptDisk(world, disk, diskId);
  const folder = vmFolder(settings, vm.id);
  await makeFolder(dirname(kept.path));
  await copyLink(join(folder, 'base'), join(dirname(kept.path), 'base'));
  if (!driver.capabilities.qcow2) return;
  try {
    await link(disk.path, kept.path);
  } catch (error) {
    if (!isErrno(error, 'EEXIST')) throw error;
  }
  const overlay = { folder, path: overlayName(diskId), layerPath: kept.path, layerFormat: disk.format };
  await files.makeOverlay(overlay, signal);
}

/** All that the guest stands still for. */
async function saveAndGoOn(
  world: World,
  vm: Vm,
  { memoryId, stateId, diskId }: LivePlan,
  signal: AbortSignal,
): Promise<SavedFacts> {
  const { settings, driver, files } = world;
  const machine = running(world, vm);
  const disk = await diskOf(world, vm);
  const to = {
    statePath: layerFile(settings, { id: stateId, kind: 'state', format: 'raw' }),
    memoryPath: layerFile(settings, { id: memoryId, kind: 'memory', format: 'raw' }),
  };
  const { version, machineType, accel, memoryPath } = await saveMachine(world, machine, to, async () => {
    if (driver.capabilities.qcow2) await machine.switchDisk(overlayName(diskId));
    else await files.copyDisk({ path: disk.path, to: keptDisk(world, disk, diskId).path }, signal);
    await machine.resume();
  });
  return { version, machineType, accel, memoryPath };
}

/**
 * Saves a machine that goes on; `still` is done while it stands still, and lets it. Its memory file is cloned then, where the file system
 * shares blocks; else the hypervisor saves it in the way that has it stand still the shortest (`Machine.saveRunning`).
 */
async function saveMachine(
  { driver }: World,
  machine: Machine,
  to: { readonly statePath: string; readonly memoryPath: string },
  still: () => Promise<void>,
): Promise<SavedMachine> {
  const { ramFile } = machine;
  const clones = ramFile !== null && (await reflink(ramFile, to.memoryPath));
  await remove(to.memoryPath);
  if (driver.capabilities.savesRunning && !clones) return machine.saveRunning(to, still);
  await machine.pause();
  const saved = await machine.save(to);
  if (ramFile !== null) await copyFile(ramFile, to.memoryPath, constants.COPYFILE_FICLONE);
  await still();
  return ramFile === null ? saved : { ...saved, memoryPath: to.memoryPath };
}

async function letGoOn({ fleet }: World, vm: Vm): Promise<void> {
  const live = fleet.get(vm.id);
  if (live && !live.exit) await live.machine.resume();
}

/**
 * Makes the VM stand on the disk its guest writes to, and removes what it does not need of what was laid out. A guest that has ended
 * may stand on the overlay either way: it shows what the disk below shows, and nobody writes to that any more.
 */
export async function settleDisk(world: World, vm: Vm, { diskId }: LivePlan): Promise<void> {
  const { store, settings, driver } = world;
  const now = (await store.vms.get(vm.id)) ?? vm;
  if (now.layerId === null || now.layerId === diskId) return;
  const disk = await diskOf(world, now);
  const kept = keptDisk(world, disk, diskId);
  const name = overlayName(diskId);
  const overlay = join(vmFolder(settings, vm.id), name);
  const there = driver.capabilities.qcow2 && (await exists(overlay));
  if (!there || !(await mayWriteTo(world, now, name))) {
    await remove(overlay);
    if (!disk.frozen) await remove(dirname(kept.path));
    return;
  }
  const top = overlayLayer(world, now, disk, diskId);
  if ((await store.layers.get(diskId)) === null) await store.layers.create(top);
  await store.vms.update(vm.id, ownerOf(now), { layerId: diskId });
  await store.layers.put(disk.id, { path: kept.path, frozen: true });
  await remove(disk.path);
  await takeBack(kept.path);
}

/** Whether the guest writes to a file of its folder, or has ended. */
async function mayWriteTo(world: World, vm: Vm, name: string): Promise<boolean> {
  const { fleet, driver } = world;
  const live = fleet.get(vm.id);
  if (live && !live.exit) return (await live.machine.diskFile()) === name;
  if (vm.process === null) return true;
  const spec = specOf(world, vm, await imageOf(world, vm), await diskOf(world, vm));
  const machine = await driver.adopt(spec, vm.process, AbortSignal.timeout(ADOPT_MS));
  if (!machine) return true;
  try {
    return (await machine.diskFile()) === name;
  } finally {
    await machine.release();
  }
}

function overlayLayer({ settings }: World, vm: Vm, disk: Layer, id: LayerId): Omit<Layer, 'createdAt'> {
  return {
    id,
    hostId: settings.hostId,
    kind: 'disk',
    path: join(vmFolder(settings, vm.id), overlayName(id)),
    format: 'qcow2',
    parentId: disk.id,
    imageAccountId: disk.imageAccountId,
    imageId: disk.imageId,
    frozen: false,
  };
}

/** From here on there is a snapshot, and its VM stands on the disk it writes to: one transaction. */
async function seal(world: World, vm: Vm, plan: LivePlan, saved: SavedFacts): Promise<void> {
  const { store, driver } = world;
  if (await store.snapshots.get(plan.snapshotId)) return;
  const disk = await diskOf(world, vm);
  const kept = keptDisk(world, disk, plan.diskId);
  const { snapshot, layers } = await rowsOf(world, vm, plan, saved, kept);
  const made = driver.capabilities.qcow2
    ? overlayLayer(world, vm, disk, plan.diskId)
    : { ...kept, parentId: null, frozen: true };
  await store.snapshots.create(snapshot, {
    layers: [...layers, made],
    freeze: { id: kept.id, path: kept.path },
    vm: {
      owner: ownerOf(vm),
      from: ['running'],
      patch: driver.capabilities.qcow2 ? { layerId: plan.diskId } : {},
    },
    limit: null,
  });
}

/** The kept disk's name in the VM's folder. */
async function forgetOldName({ settings }: World, vm: Vm): Promise<void> {
  if (vm.layerId === null) return;
  for (const name of ['disk.qcow2', 'disk.raw', overlayName(vm.layerId)])
    await remove(join(vmFolder(settings, vm.id), name));
}

/**
 * A guest's memory that lies in its saved state, as a file that can be mapped: loaded once more, standing still, under an id no VM has
 * and on a tap that leads nowhere, and saved from there. Where that fails it stays in the state: it loads as it is, only not as fast.
 */
async function mapMemory(
  world: World,
  vm: Vm,
  plan: LivePlan,
  saved: SavedFacts,
  signal: AbortSignal,
): Promise<SavedFacts> {
  const { settings, driver, flights, log } = world;
  const { capabilities } = driver;
  if (!capabilities.ramFile || !capabilities.privateMapping || !capabilities.qcow2) return saved;
  const statePath = layerFile(settings, { id: plan.stateId, kind: 'state', format: 'raw' });
  const memoryPath = layerFile(settings, { id: plan.memoryId, kind: 'memory', format: 'raw' });
  const scratch = newId('vm');
  try {
    return await flights.aside(scratch, plan.snapshotId, (closing) =>
      loadedAside(
        world,
        { ...vm, id: scratch },
        vm,
        plan,
        saved,
        AbortSignal.any([signal, closing]),
        async (machine) => {
          if (machine.ramFile === null) return saved;
          const again = await machine.save({ statePath: besideState(statePath), memoryPath });
          if (again.memoryPath === null) return saved;
          await machine.kill();
          await moveIfThere(again.memoryPath, memoryPath);
          await rename(besideState(statePath), statePath);
          return { ...saved, memoryPath };
        },
      ),
    );
  } catch (error) {
    signal.throwIfAborted();
    log.warn({ vm: vm.id, ...errorFields(error) }, 'the saved memory stays in the state');
    await remove(besideState(statePath));
    return saved;
  }
}

/** Loads what was saved of a VM in a folder of its own, standing still, and leaves nothing of it. */
async function loadedAside<T>(
  world: World,
  aside: Vm,
  vm: Vm,
  { stateId, diskId }: LivePlan,
  saved: SavedFacts,
  signal: AbortSignal,
  work: (machine: Machine) => Promise<T>,
): Promise<T> {
  const { driver, files, settings } = world;
  const own = vmFolder(settings, vm.id);
  return inScratch(world, aside, 'what memory was loaded in', async (folder) => {
    for (const name of kernelNames) await copyKernel(join(own, name), join(folder, name));
    await link(join(own, SEED_FILE), join(folder, SEED_FILE));
    const { over = [] } = await wholeDiskOf(world, vm);
    const { path, format } = keptDisk(world, await diskOf(world, vm), diskId);
    const disk = { path: join(folder, 'disk.qcow2'), format: 'qcow2', over: [path, ...over] } as const;
    await files.makeOverlay({ folder, path: 'disk.qcow2', layerPath: path, layerFormat: format }, signal);
    await tapApart(world, aside);
    const machine = await driver.load(
      specOf(world, aside, await imageOf(world, vm), disk),
      {
        ...saved,
        driver: driver.name,
        vcpuCount: vm.vcpuCount,
        memMib: vm.memMib,
        statePath: layerFile(settings, { id: stateId, kind: 'state', format: 'raw' }),
      },
      { mapping: 'private', resume: false },
      signal,
    );
    try {
      return await work(machine);
    } finally {
      await machine.kill();
      await machine.release();
    }
  });
}
