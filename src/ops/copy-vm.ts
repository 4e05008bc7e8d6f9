import { newId, type SnapshotId } from '../base/ids.ts';
import { deadline } from '../base/deadline.ts';
import { errorFields } from '../base/logger.ts';
import { giveIdentity, joinNetwork, newMachineId } from '../guest/identity.ts';
import { mergeIdle, refuseWithSnapshot } from '../model/create-request.ts';
import { Failure, invalid, notFound } from '../model/failure.ts';
import type { Image } from '../model/records.ts';
import type { Snapshot } from '../model/snapshot.ts';
import type { Vm } from '../model/vm.ts';
import { mustFitHere } from './compatible.ts';
import { addressesAsked, claim, type Wanted } from './create-vm.ts';
import { mustBeWithinReach } from './elsewhere.ts';
import type { Caller, CreateVm, Wait } from './hatch.ts';
import { attach, diskOf, endVmm, hostnameOf, ownerOf, seedStep, sshStep } from './host-steps.ts';
import { findSnapshot } from './snapshots.ts';
import { carryOutBoot } from './start-vm.ts';
import type { Step } from './steps.ts';
import { waitFor } from './vms.ts';
import { noteHooks } from './wake-vm.ts';
import { diskFromSnapshot, folderFromSnapshot, loadedSpec, localFiles } from './wake-vm.ts';
import type { World } from './world.ts';

const ENDED = 'The guest ended before it could be told who it is.';

/** Makes a VM that starts as a copy of a snapshot, under an identity of its own. */
export async function copyFrom(
  world: World,
  caller: Caller,
  request: CreateVm,
  snapshotIdOrName: string,
  wait?: Wait,
): Promise<Vm> {
  const snapshot = await findSnapshot(world, caller, snapshotIdOrName).catch((error: unknown) => {
    if (!(error instanceof Failure) || error.code !== 'not_found') throw error;
    throw invalid(
      'snapshot_id',
      `There is no snapshot "${snapshotIdOrName}"; \`GET /snapshots\` lists them.`,
    );
  });
  refuseWithSnapshot(request);
  return copySnapshot(world, caller, snapshot, request, wait);
}

/** Makes a VM from a snapshot that was found. Throws `no_guest_agent` for a guest that cannot be told who it is now. */
export async function copySnapshot(
  world: World,
  caller: Caller,
  snapshot: Snapshot,
  request: CreateVm,
  wait?: Wait,
): Promise<Vm> {
  mustBeWithinReach(world, snapshot);
  mustFitHere(world.driver, snapshot);
  if (!snapshot.guest.agent)
    throw new Failure(
      'no_guest_agent',
      `The agent in snapshot ${snapshot.id} had not answered when it was saved: a copy could not be given an identity of its own. Restore it instead, or install qemu-guest-agent in the guest and save it again.`,
      { details: { snapshot: snapshot.id } },
    );
  await world.archive.bring(snapshot, new AbortController().signal);
  await world.store.snapshots.update(snapshot.id, { usedAt: world.clock.now() });
  const wanted = await wantedCopy(world, caller, snapshot, request);
  const id = newId('vm');
  await world.flights.fly(
    id,
    'create',
    () => claim(world, caller, wanted, id),
    (operation, signal) => carryOutBoot(world, operation, signal),
  );
  return waitFor(world, id, wait);
}

async function wantedCopy(
  world: World,
  caller: Caller,
  snapshot: Snapshot,
  request: CreateVm,
): Promise<Wanted> {
  const { store, settings } = world;
  const source = await store.vms.get(snapshot.vmId);
  if (!source) throw notFound('vm', snapshot.vmId);
  const { diskMib = null, enableNetwork = snapshot.guest.mac !== null } = request;
  if (enableNetwork !== (snapshot.guest.mac !== null))
    throw invalid(
      'enable_network',
      `"enable_network" must be ${String(!enableNetwork)}: the saved machine has ${enableNetwork ? 'no' : 'a'} network card.`,
    );
  const least = snapshot.diskMib ?? source.diskMib ?? 0;
  if (diskMib !== null && diskMib < least)
    throw invalid('disk_mib', `"disk_mib" must be at least ${least}: the saved disk is that large.`, {
      minimum: least,
    });
  return {
    accountId: caller.accountId,
    hostId: settings.hostId,
    name: request.name ?? null,
    imageId: snapshot.imageId,
    templateId: source.templateId,
    vcpuCount: snapshot.vcpuCount,
    memMib: snapshot.memMib,
    diskMib: diskMib ?? snapshot.diskMib,
    bootArgs: source.bootArgs,
    sshAuthorizedKeys: source.sshAuthorizedKeys,
    idle: request.idle === undefined ? source.idle : mergeIdle(source.idle, request.idle),
    autostart: false,
    labels: { ...source.labels, ...request.labels },
    userData: await store.vms.userData(source.id),
    parentSnapshotId: snapshot.id,
    instanceId: snapshot.guest.instanceId,
    network: enableNetwork
      ? addressesAsked(settings.plan, {
          guestIp: request.guestIp ?? null,
          guestMac: request.guestMac ?? null,
        })
      : null,
  };
}

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
  steps.push(loadStep(world, vm, image, snapshot), identityStep(world, vm));
  if (network !== null) steps.push(sshStep(world, vm, network));
  return steps;
}

function loadStep(world: World, vm: Vm, image: Image, snapshot: Snapshot): Step {
  const { store, driver, fleet } = world;
  return {
    name: 'vmm',
    async run(signal) {
      const { saved } = await localFiles(world, snapshot);
      const now = (await store.vms.get(vm.id)) ?? vm;
      const spec = loadedSpec(world, now, image, await diskOf(world, now), snapshot);
      const machine = await driver.load(spec, saved, { mapping: 'private', resume: true }, signal);
      await store.vms.update(vm.id, ownerOf(vm), {
        process: machine.process,
        vmm: driver.name,
        accel: driver.accel,
        readyAt: null,
        memoryLayerId: snapshot.memoryLayerId,
      });
      fleet.add(now, machine, { ready: false });
    },
    undo: () => endVmm(world, vm),
  };
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
