import { copyFile, mkdir, readdir, readlink, symlink } from 'node:fs/promises';
import { join } from 'node:path';
import { newId } from '../base/ids.ts';
import { deadline } from '../base/deadline.ts';
import { errorFields } from '../base/logger.ts';
import { refresh, setClock } from '../guest/identity.ts';
import { exists, remove } from '../host/files.ts';
import { Failure } from '../model/failure.ts';
import type { Image, Layer, Operation } from '../model/records.ts';
import type { Snapshot } from '../model/snapshot.ts';
import type { Vm } from '../model/vm.ts';
import type { LoadOptions, Machine, MachineSpec, SavedMachine } from '../vmm/driver.ts';
import { mustFitHere } from './compatible.ts';
import {
  diskOf,
  dropFolder,
  endVmm,
  imageOf,
  kernelNames,
  networkStep,
  SEED_FILE,
  seedStep,
  specOf,
  sshStep,
} from './host-steps.ts';
import { identityStep, noteHooks } from './identity-step.ts';
import { layerFolder, releaseLayers } from './layers.ts';
import { whyItEnded } from './stop-vm.ts';
import { runSteps, undoSteps, type Stage, type Step } from './steps.ts';
import type { World } from './world.ts';
import { ownerOf } from './owner.ts';
import { depsOf } from './carry-out.ts';
import { vmFolder } from './settings.ts';

const MIB = 1024 * 1024;
/** Disks over more than this many frozen ones are made to stand on their image alone. */
export const LONGEST_CHAIN = 8;
const CLOCK_MS = 10_000;
const REFRESH_MS = 120_000;

/** The files of a snapshot on this host. */
export interface LocalSnapshot {
  readonly disk: Layer;
  readonly saved: SavedMachine;
}

/** Where a snapshot's files are on this host. Throws `unavailable` when they are not here. */
export async function localFiles(
  { store }: Pick<World, 'store'>,
  snapshot: Snapshot,
): Promise<LocalSnapshot> {
  const [disk, memory, state] = await Promise.all(
    [snapshot.diskLayerId, snapshot.memoryLayerId, snapshot.stateLayerId].map(async (id) =>
      id === null ? null : store.layers.get(id),
    ),
  );
  if (!disk || !state)
    throw new Failure('unavailable', `The files of snapshot ${snapshot.id} are not on this host.`, {
      details: { snapshot: snapshot.id },
    });
  return { disk, saved: machineSavedIn(snapshot, state.path, memory?.path ?? null) };
}

/** The machine in a snapshot, with its files where they are now. */
export function machineSavedIn(
  { savedOn, vcpuCount, memMib }: Snapshot,
  statePath: string,
  memoryPath: string | null,
): SavedMachine {
  const { driver, version, machineType, accel } = savedOn;
  return { driver, version, machineType, accel, vcpuCount, memMib, statePath, memoryPath };
}

/**
 * Wakes a sleeping VM from a snapshot: files, network, machine, ways in. When a step fails all are taken back and it sleeps as before:
 * the guest wrote only to a private map of the memory and to a disk of its own over the saved one.
 */
export async function wake(
  world: World,
  operation: Operation,
  vm: Vm,
  snapshot: Snapshot,
  signal: AbortSignal,
): Promise<void> {
  mustFitHere(world.driver, snapshot);
  await carryOutWake(world, operation, vm, snapshot, await wakeSteps(world, vm, snapshot), signal);
}

/** Runs the steps of a wake, and brings the guest up to date. */
export async function carryOutWake(
  world: World,
  operation: Operation,
  vm: Vm,
  snapshot: Snapshot,
  steps: readonly Stage[],
  signal: AbortSignal,
): Promise<void> {
  await runSteps(depsOf(world), operation, steps, signal);
  world.fleet.touch(vm.id);
  if (snapshot.guest.agent && !wasSavedElsewhere(vm, snapshot)) void refreshGuest(world, vm);
}

/**
 * What is not needed for the guest to answer: its clock, its random state and its hooks, while it is in use already. Each is tried
 * whatever became of the one before. Commands for it wait for its clock.
 */
async function refreshGuest(world: World, vm: Vm): Promise<void> {
  const { fleet, clock, log } = world;
  const agent = fleet.get(vm.id)?.agent;
  if (!agent) return;
  const clockSet = deadline("setting a woken guest's clock", CLOCK_MS, (signal) =>
    setClock({ agent, clock }, signal),
  ).catch((error: unknown) =>
    log.warn({ vm: vm.id, ...errorFields(error) }, "a woken guest's clock could not be set"),
  );
  fleet.holdCommands(vm.id, clockSet);
  await clockSet;
  try {
    const { hooks } = await deadline('refreshing the guest', REFRESH_MS, (signal) =>
      refresh({ agent, clock }, signal),
    );
    await noteHooks(world, vm, hooks);
  } catch (error) {
    log.warn({ vm: vm.id, ...errorFields(error) }, 'a woken guest could not be brought up to date');
  }
}

/** Takes back a wake that a crash cut off. */
export async function undoWake(
  world: World,
  operation: Operation,
  vm: Vm,
  snapshot: Snapshot,
): Promise<void> {
  await undoSteps(depsOf(world), operation, await wakeSteps(world, vm, snapshot));
}

async function wakeSteps(world: World, vm: Vm, snapshot: Snapshot): Promise<readonly Stage[]> {
  return [
    ...(await placeSteps(world, vm, snapshot, loadStep(world, vm, await imageOf(world, vm), snapshot))),
    awakeStep(world, vm, snapshot),
  ];
}

/** The steps that give a sleeping VM all it runs in: its files, its place in the network, its machine (`load`), its ways in. */
export async function placeSteps(
  world: World,
  vm: Vm,
  snapshot: Snapshot,
  load: Step,
): Promise<readonly Stage[]> {
  const { network } = vm;
  const stranger = wasSavedElsewhere(vm, snapshot);
  const image = await imageOf(world, vm);
  const files = [diskFromSnapshot(world, vm, image, snapshot), seedIfGone(world, vm, image)];
  const folder = folderFromSnapshot(world, vm, snapshot, false);
  const rename = stranger ? [identityStep(world, vm)] : [];
  if (network === null) return [folder, files, load, ...rename];
  const place = networkStep(world, vm, network, { apart: stranger });
  return [folder, [...files, place], load, ...rename, sshStep(world, vm, network)];
}

/** Whether the saved machine takes itself for another than this VM: it was saved in another installation, and is told like a copy. */
export function wasSavedElsewhere(
  { network }: Pick<Vm, 'network'>,
  { guest }: Pick<Snapshot, 'guest'>,
): boolean {
  return network !== null && guest.mac !== null && guest.mac !== network.mac;
}

/** The seed volume the machine was saved with; a VM whose files were brought from elsewhere has none. */
function seedIfGone(world: World, vm: Vm, image: Image): Step {
  const seed = seedStep(world, vm, image);
  return {
    ...seed,
    run: async (signal) => {
      if (!(await exists(join(vmFolder(world.settings, vm.id), SEED_FILE)))) await seed.run(signal);
    },
  };
}

/** The folder of a VM that comes from a snapshot, with the kernel it booted. `fresh`: it had none before. */
export function folderFromSnapshot(
  { store, settings }: Pick<World, 'store' | 'settings'>,
  vm: Vm,
  { stateLayerId }: Snapshot,
  fresh: boolean,
): Step {
  const folder = vmFolder(settings, vm.id);
  return {
    name: 'folder',
    async run() {
      await mkdir(folder, { recursive: true, mode: 0o700 });
      if (stateLayerId === null) return;
      const names = await readdir(layerFolder(settings, stateLayerId));
      for (const name of kernelNames) {
        const saved = join(layerFolder(settings, stateLayerId), name);
        if (!names.includes(name) || (await exists(join(folder, name)))) continue;
        await remove(join(folder, name));
        // A link leads to the image; brought from elsewhere it is a file, which goes with the layer.
        const target = await readlink(saved).catch(() => undefined);
        if (target === undefined) await copyFile(saved, join(folder, name));
        else await symlink(target, join(folder, name));
      }
    },
    undo: async () => (fresh ? dropFolder({ store, settings }, vm) : undefined),
  };
}

/** A disk of the VM's own over the saved one. Taken back, the VM stands on the saved one again. */
export function diskFromSnapshot(
  { store, files, driver, settings }: Pick<World, 'store' | 'files' | 'driver' | 'settings'>,
  vm: Vm,
  image: Image,
  snapshot: Snapshot,
): Step {
  const folder = vmFolder(settings, vm.id);
  const grown = vm.diskMib !== null && vm.diskMib > (snapshot.diskMib ?? 0) ? vm.diskMib * MIB : null;
  return {
    name: 'disk',
    async run(signal) {
      const { disk } = await localFiles({ store }, snapshot);
      const chain = await store.layers.chain(disk.id);
      const flat = chain.length >= LONGEST_CHAIN;
      // What was brought from elsewhere stands on no image, and the one of that name may be another by now.
      const whole = chain.find((layer) => layer.parentId === null && layer.imageId === null);
      const made = await files.makeDiskOn(
        {
          folder,
          layerPath: disk.path,
          layerFormat: disk.format,
          sizeBytes: grown,
          qcow2: driver.capabilities.qcow2,
          flattenOnto: !flat
            ? null
            : whole
              ? { path: whole.path, format: whole.format }
              : { path: image.rootfsPath, format: image.rootfsFormat },
        },
        signal,
      );
      const top = await store.layers.create({
        id: newId('layer'),
        hostId: settings.hostId,
        kind: 'disk',
        path: join(folder, made.path),
        format: made.format,
        // A raw disk is whole.
        parentId: made.format === 'raw' ? null : flat ? (whole?.id ?? null) : disk.id,
        imageAccountId: image.accountId,
        imageId: image.id,
        frozen: false,
      });
      const before = (await store.vms.get(vm.id))?.layerId ?? null;
      await store.vms.update(vm.id, ownerOf(vm), { layerId: top.id });
      // One of its own was left by a wake that could not be taken back; its file was just replaced.
      if (before !== null && (await store.layers.get(before))?.frozen === false)
        await releaseLayers({ store, settings }, [before]);
    },
    async undo() {
      const now = await store.vms.get(vm.id);
      const top = now?.layerId ? await store.layers.get(now.layerId) : null;
      if (top && !top.frozen) {
        await store.vms.update(vm.id, ownerOf(vm), {
          layerId: vm.id === snapshot.vmId ? snapshot.diskLayerId : null,
        });
        await releaseLayers({ store, settings }, [top.id]);
      }
      for (const name of ['disk.qcow2', 'disk.raw']) await remove(join(folder, name));
    },
  };
}

/** The spec of a machine that is loaded: the devices the saved one had. */
export function loadedSpec(
  world: Pick<World, 'settings' | 'driver'>,
  vm: Vm,
  image: Image,
  disk: Pick<Layer, 'path' | 'format'>,
  snapshot: Snapshot,
): MachineSpec {
  const { guest, savedOn } = snapshot;
  const spec = specOf(world, vm, image, disk);
  return {
    ...spec,
    bootArgs: guest.bootArgs,
    initrd: guest.hasInitrd ? 'initrd' : null,
    network: spec.network && guest.mac !== null ? { ...spec.network, mac: guest.mac } : spec.network,
    machineType: savedOn.machineType,
  };
}

/**
 * Loads a VM's machine from a snapshot, unless told otherwise on a private map of the saved memory, and going on: writes its process
 * down and watches it. Throws as `Driver.load` does.
 */
export async function loadMachine(
  world: World,
  vm: Vm,
  image: Image,
  snapshot: Snapshot,
  signal: AbortSignal,
  options: LoadOptions = { mapping: 'private', resume: true },
): Promise<Machine> {
  const { store, driver, fleet } = world;
  const { saved } = await localFiles(world, snapshot);
  const now = (await store.vms.get(vm.id)) ?? vm;
  const spec = loadedSpec(world, now, image, await diskOf(world, now), snapshot);
  const machine = await driver.load(spec, saved, options, signal);
  await store.vms.update(vm.id, ownerOf(vm), {
    process: machine.process,
    vmm: driver.name,
    accel: driver.accel,
    readyAt: null,
    memoryLayerId: snapshot.memoryLayerId,
  });
  fleet.add(now, machine, { ready: false });
  return machine;
}

function loadStep(world: World, vm: Vm, image: Image, snapshot: Snapshot): Step {
  return {
    name: 'vmm',
    async run(signal) {
      const machine = await loadMachine(world, vm, image, snapshot, signal);
      await waitForAgent(world, vm, machine, snapshot, signal);
    },
    undo: () => endVmm(world, vm),
  };
}

/** Waits until a guest that goes on answers, if it has an agent. Throws `vmm_failed` when it ended instead; one that is silent goes on. */
export async function waitForAgent(
  { fleet, log, patience }: World,
  vm: Vm,
  machine: Machine,
  snapshot: Snapshot,
  signal: AbortSignal,
): Promise<void> {
  if (!snapshot.guest.agent) return;
  try {
    const agent = fleet.get(vm.id)?.agent;
    await deadline(
      "the guest's first word",
      patience.wordMs,
      (within) => Promise.race([agent?.ping(within), machine.exited]),
      signal,
    );
  } catch (error) {
    signal.throwIfAborted();
    log.warn({ vm: vm.id, ...errorFields(error) }, 'a woken guest does not answer yet');
  }
  const exit = fleet.get(vm.id)?.exit;
  if (exit) throw new Failure('vmm_failed', `The guest ended right after it was woken. ${whyItEnded(exit)}`);
}

/** How the row of a VM changes when it wakes. */
export const AWAKE = { state: 'running', stateReason: null, stoppedBy: null, snapshotId: null } as const;

/** Notes that a VM goes on from a snapshot, and tells those who wait for it. */
export async function noteAwake({ store, fleet }: World, vm: Vm, snapshot: Snapshot): Promise<void> {
  await store.events.add({
    accountId: vm.accountId,
    vmId: vm.id,
    kind: 'vm.restored',
    message: 'The guest goes on from its snapshot.',
    data: { snapshot: snapshot.id },
  });
  fleet.touch(vm.id);
}

function awakeStep(world: World, vm: Vm, snapshot: Snapshot): Step {
  const { store } = world;
  return {
    name: 'running',
    async run() {
      const moved = await store.vms.move(vm.id, ownerOf(vm), ['snapshotted'], AWAKE);
      if (!moved) throw new Failure('wrong_state', 'The VM was taken away while it woke.');
      await noteAwake(world, vm, snapshot);
    },
    async undo() {
      await store.vms.move(vm.id, ownerOf(vm), ['running'], {
        state: 'snapshotted',
        snapshotId: snapshot.id,
      });
    },
  };
}
