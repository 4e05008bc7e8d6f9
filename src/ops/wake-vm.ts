import { join } from 'node:path';
import { deadline, raceAbort } from '../base/deadline.ts';
import { errorFields } from '../base/logger.ts';
import { exists } from '../host/files.ts';
import { Failure } from '../model/failure.ts';
import type { Image, Operation } from '../model/records.ts';
import type { Snapshot } from '../model/snapshot.ts';
import type { Vm } from '../model/vm.ts';
import type { LoadOptions, MachineSpec } from '../vmm/driver.ts';
import { mustFitHere } from './compatible.ts';
import {
  endVmm,
  imageOf,
  networkStep,
  SEED_FILE,
  seedStep,
  specOf,
  sshStep,
  wholeDiskOf,
  type MachineDisk,
} from './host-steps.ts';
import { diskFromSnapshot, folderFromSnapshot } from './files-from-snapshot.ts';
import { identityStep } from './identity-step.ts';
import { localFiles } from './local-snapshot.ts';
import { catchUp, refreshGuest } from './refresh-guest.ts';
import { tapApart } from './scratch.ts';
import { whyItEnded } from './stop-vm.ts';
import { runSteps, undoSteps, type Stage, type Step } from './steps.ts';
import type { World } from './world.ts';
import { ownerOf } from './owner.ts';
import { depsOf } from './carry-out.ts';
import { vmFolder } from './settings.ts';

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
  if (wasSavedElsewhere(vm, snapshot)) return;
  void (snapshot.guest.agent ? refreshGuest(world, vm) : catchUp(world, vm));
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
    ...(await placeSteps(world, vm, snapshot)),
    resumeStep(world, vm, (signal) => waitForAgent(world, vm, snapshot, signal)),
    ...introductions(world, vm, snapshot),
    awakeStep(world, vm, snapshot),
  ];
}

/**
 * The steps that give a sleeping VM all it runs in: its files and a tap, then its place in the network and its SSH port while its machine is
 * loaded, which stands still yet. `mapping` as for `loadMachine`.
 */
export async function placeSteps(
  world: World,
  vm: Vm,
  snapshot: Snapshot,
  mapping: LoadOptions['mapping'] = 'private',
): Promise<readonly Stage[]> {
  const { network } = vm;
  const image = await imageOf(world, vm);
  const seed = join(vmFolder(world.settings, vm.id), SEED_FILE);
  // The seed volume the machine was saved with; a VM whose files were brought from elsewhere has none.
  const seedIfGone = (await exists(seed)) ? [] : [seedStep(world, vm, image)];
  const files = [diskFromSnapshot(world, vm, image, snapshot), ...seedIfGone];
  const folder = folderFromSnapshot(world, vm, snapshot, false);
  if (network === null) return [folder, files, loadStep(world, vm, image, snapshot, mapping)];
  const launching = Promise.withResolvers<void>();
  const load = loadStep(world, vm, image, snapshot, mapping, launching.resolve);
  const stranger = wasSavedElsewhere(vm, snapshot);
  const place = networkStep(world, vm, network, stranger ? { apart: true } : { join: true });
  // The hypervisor takes longer, so it is started first.
  const placeMeanwhile: Step = {
    ...place,
    run: (signal) => raceAbort(launching.promise, signal).then(() => place.run(signal)),
  };
  // Taken back in reverse: the hypervisor before its tap.
  return [
    folder,
    [...files, tapStep(world, vm)],
    [placeMeanwhile, load, sshStep(world, vm, network, { asleep: true })],
  ];
}

/** What is left when a machine goes on that was saved in another installation: it is told who it is before it joins. */
export function introductions(world: World, vm: Vm, snapshot: Snapshot): readonly Step[] {
  return wasSavedElsewhere(vm, snapshot) ? [identityStep(world, vm)] : [];
}

/** A tap that leads nowhere yet: all the hypervisor needs of the network to be started. */
export function tapStep(world: World, vm: Vm): Step {
  return { name: 'tap', run: () => tapApart(world, vm), undo: () => world.net.detach(vm.id) };
}

/** Whether the saved machine takes itself for another than this VM: it was saved in another installation, and is told like a copy. */
export function wasSavedElsewhere(
  { network }: Pick<Vm, 'network'>,
  { guest }: Pick<Snapshot, 'guest'>,
): boolean {
  return network !== null && guest.mac !== null && guest.mac !== network.mac;
}

/** The spec of a machine that is loaded: the devices the saved one had. */
export function loadedSpec(
  world: Pick<World, 'settings' | 'driver'>,
  vm: Vm,
  image: Image,
  disk: MachineDisk,
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
 * Loads a VM's machine from a snapshot, standing still unless its agent would not outlast that: writes its process down and watches it.
 * Throws as `Driver.load` does.
 */
async function loadMachine(
  world: World,
  vm: Vm,
  image: Image,
  snapshot: Snapshot,
  signal: AbortSignal,
  { mapping, launching }: Pick<LoadOptions, 'mapping' | 'launching'>,
): Promise<void> {
  const { store, driver, fleet, files, settings } = world;
  const { saved } = await localFiles(world, snapshot);
  const now = (await store.vms.get(vm.id)) ?? vm;
  const spec = loadedSpec(world, now, image, await wholeDiskOf(world, now), snapshot);
  const [disk] = spec.disks;
  const flushed = disk && files.flushDisk({ folder: vmFolder(settings, vm.id), path: disk.path });
  flushed?.catch(() => undefined);
  const resume = !driver.capabilities.resumeKeepsAgent;
  const machine = await driver.load(spec, saved, { mapping, resume, launching }, signal);
  await store.vms.update(vm.id, ownerOf(vm), {
    process: machine.process,
    vmm: driver.name,
    accel: driver.accel,
    readyAt: null,
    memoryLayerId: snapshot.memoryLayerId,
  });
  fleet.add(now, machine, { ready: 'later' });
  await flushed;
}

/** The machine, unless told otherwise on a private map of the saved memory; it goes on with `resumeStep`. */
export function loadStep(
  world: World,
  vm: Vm,
  image: Image,
  snapshot: Snapshot,
  mapping: LoadOptions['mapping'] = 'private',
  launching?: () => void,
): Step {
  return {
    name: 'vmm',
    run: (signal) =>
      loadMachine(world, vm, image, snapshot, signal, { mapping, launching }).finally(launching),
    undo: () => endVmm(world, vm),
  };
}

/** The loaded machine goes on; then `answered` is waited for. */
export function resumeStep(
  { fleet }: World,
  vm: Vm,
  answered: (signal: AbortSignal) => Promise<void> = async () => undefined,
): Step {
  return {
    name: 'resume',
    async run(signal) {
      const live = fleet.get(vm.id);
      if (!live || live.exit) throw new Failure('vmm_failed', 'The guest ended before it was woken.');
      await live.machine.resume();
      await answered(signal);
    },
    // What it did since goes with its hypervisor.
    undo: async () => undefined,
  };
}

/** Waits until a guest that goes on answers, if it has an agent. Throws `vmm_failed` when it ended instead; one that is silent goes on. */
export async function waitForAgent(
  { fleet, log, patience }: World,
  vm: Vm,
  snapshot: Snapshot,
  signal: AbortSignal,
): Promise<void> {
  const live = fleet.get(vm.id);
  if (!snapshot.guest.agent || !live) return fleet.listen(vm);
  try {
    await deadline(
      "the guest's first word",
      patience.wordMs,
      (within) => Promise.race([live.agent.ping(within), live.machine.exited]),
      signal,
    );
    fleet.answered(vm);
  } catch (error) {
    signal.throwIfAborted();
    fleet.listen(vm);
    log.warn({ vm: vm.id, ...errorFields(error) }, 'a woken guest does not answer yet');
  }
  const { exit } = live;
  if (exit) throw new Failure('vmm_failed', `The guest ended right after it was woken. ${whyItEnded(exit)}`);
}

/** How the row of a VM changes when it wakes. */
export const AWAKE = { state: 'running', stateReason: null, stoppedBy: null, snapshotId: null } as const;

/** Notes that a VM goes on from a snapshot, and tells those who wait for it. */
export async function noteAwake(
  { store, fleet, activity }: World,
  vm: Vm,
  snapshot: Snapshot,
): Promise<void> {
  activity.awake(vm.id);
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
