import { parseId } from '../base/ids.ts';
import { Failure, notFound } from '../model/failure.ts';
import type { Operation } from '../model/records.ts';
import type { Snapshot } from '../model/snapshot.ts';
import { refuse } from '../model/states.ts';
import type { Vm } from '../model/vm.ts';
import { mustFitHere, mustHaveAgent } from './compatible.ts';
import { claimHere, mustBeHereOrAsleep, mustBeWithinReach } from './elsewhere.ts';
import { releaseLayers } from './layers.ts';
import { keepSshPort } from './ssh-ports.ts';
import { withRoom } from './room-for.ts';
import { Closing, Overtaken, Stuck } from './steps.ts';
import { translate } from './translate.ts';
import { findVm, waitFor } from './vms.ts';
import { afterWake, wakeAlone } from './wake-in-place.ts';
import { wasSavedElsewhere, undoWake } from './wake-vm.ts';
import type { World } from './world.ts';
import { ownerOf } from './owner.ts';
import { mustGet } from './carry-out.ts';
import { noteWoken } from './note-sleep.ts';
import type { Caller, Visitor, Wait, RestoreRequest } from './hatch.ts';

/**
 * Wakes a sleeping VM, also one that slept on another host, or puts it back to an earlier snapshot of its own; a stopped one too, whose disk is lost. When it cannot wake
 * it sleeps as before, with the reason.
 */
export async function restoreVm(
  world: World,
  caller: Caller,
  idOrName: string,
  request: RestoreRequest,
  wait?: Wait,
): Promise<Vm> {
  const vm = await findVm(world, caller, idOrName);
  mustBeHereOrAsleep(world, vm);
  if (request.snapshot !== undefined || vm.state !== 'running' || vm.operation !== null) {
    const from = world.clock.now();
    const began = await flyRestore(world, vm, request);
    const ms = world.clock.now() - from;
    if (began && vm.state === 'snapshotted') await noteWoken(world, vm, BY_API, { waiters: 1, ms });
  }
  return waitFor(world, vm.id, wait);
}

/** Who asks over the API; whom that is, its own log says. */
export const BY_API: Visitor = { by: 'api', from: null };

/**
 * Restores a VM as one operation on it, or joins the one under way; gives whether it did not join. Resolves when it is done; rejects with
 * a Failure.
 */
export async function flyRestore(world: World, vm: Vm, request: RestoreRequest): Promise<boolean> {
  const { store, flights } = world;
  let began = false;
  await withRoom(world, (ask) =>
    flights.fly(
      vm.id,
      'restore',
      async (cutOff) => {
        const now = (await store.vms.get(vm.id)) ?? vm;
        const snapshot = await chosen(world, now, request);
        const vms = [{ vmId: now.id, memMib: snapshot.memMib }];
        await ask({ verb: 'restore', accountId: now.accountId, vms, about: now.id }, cutOff);
        const own = await claimHere(world, now);
        began = true;
        return store.operations.begin({ id: own.id, owner: ownerOf(own) }, 'restore', {
          snapshot: snapshot.id,
        });
      },
      (operation, signal) => carryOutRestore(world, operation, signal),
    ),
  );
  return began;
}

/** The snapshot a VM is to go back to, when it may. */
async function chosen(world: World, vm: Vm, { snapshot: asked, discard }: RestoreRequest): Promise<Snapshot> {
  const { store, driver } = world;
  const refused = refuse(vm, 'restore');
  if (refused) throw refused;
  if (vm.state === 'stopped' && asked === undefined)
    throw new Failure(
      'wrong_state',
      `VM ${vm.id} is stopped and sleeps as no snapshot: name the one to go back to as "snapshot_id", or start it.`,
      { details: { state: vm.state } },
    );
  if (vm.state === 'stopped' && discard !== true)
    throw new Failure(
      'wrong_state',
      `VM ${vm.id} is stopped, and its disk would be lost: say "discard": true if it may, or start it.`,
      { details: { state: vm.state, field: 'discard' } },
    );
  const id = asked ?? vm.snapshotId;
  const found = id === null ? null : await store.snapshots.find(vm.accountId, id);
  if (found?.vmId !== vm.id) throw notFound('snapshot', id ?? '');
  mustBeWithinReach(world, found);
  mustFitHere(driver, found);
  if (wasSavedElsewhere(vm, found)) mustHaveAgent(found);
  return found;
}

/** Carries a restore to its end, or takes it back. */
export async function carryOutRestore(
  world: World,
  operation: Operation,
  signal: AbortSignal,
): Promise<void> {
  const { store, clock, fleet } = world;
  const vm = await mustGet(world, operation);
  // It woke in its memory, and only the end of that was not written down.
  if (vm.state === 'running') return;
  const snapshot = await snapshotOf(world, operation);
  try {
    // Before anything is let go of: a snapshot that cannot be had costs the VM nothing.
    const here = await world.archive.bring(snapshot, signal);
    const sleeping = await choose(world, vm, here);
    await wakeAlone(world, operation, sleeping, here, signal);
    await afterWake(world, here);
  } catch (error) {
    if (error instanceof Closing || error instanceof Overtaken) throw error;
    const { code, message, details } = translate(error);
    const stateReason = { code, message: `It could not wake: ${message}`, at: clock.now() };
    const asleep = await store.vms.move(vm.id, ownerOf(vm), ['snapshotted'], { stateReason });
    // One that came here just now, or was stopped before, had no port here yet.
    if (asleep) await keepSshPort(world, asleep);
    await store.events.add({
      accountId: vm.accountId,
      vmId: vm.id,
      kind: 'vm.restore_failed',
      message: stateReason.message,
      data: { snapshot: snapshot.id, code },
    });
    fleet.touch(vm.id);
    if (error instanceof Stuck) throw error;
    throw new Failure(code, message, {
      details: { ...details, id: vm.id, snapshot_id: snapshot.id },
      cause: error,
    });
  }
}

/** Takes back a restore that a crash cut off: the VM sleeps as before. */
export async function recoverRestore(world: World, operation: Operation): Promise<void> {
  const vm = await mustGet(world, operation);
  if (vm.state === 'snapshotted') await undoWake(world, operation, vm, await snapshotOf(world, operation));
}

async function snapshotOf({ store }: World, { args }: Operation): Promise<Snapshot> {
  const id = parseId('snap', String(args['snapshot']));
  const found = id && (await store.snapshots.get(id));
  if (!found) throw notFound('snapshot', String(args['snapshot']));
  return found;
}

/** The VM sleeps as the snapshot from now on, whatever it was before; a disk of its own that nobody saved is lost. */
async function choose(world: World, vm: Vm, snapshot: Snapshot): Promise<Vm> {
  if (vm.state === 'snapshotted' && vm.snapshotId === snapshot.id) return vm;
  const chosen = await world.store.vms.move(vm.id, ownerOf(vm), ['snapshotted', 'stopped'], {
    state: 'snapshotted',
    snapshotId: snapshot.id,
    // Where its files are on another host, it stands on nothing until they are brought here.
    layerId: snapshot.hostId === world.settings.hostId ? snapshot.diskLayerId : null,
    stoppedBy: null,
    stateReason: null,
  });
  if (!chosen) throw new Failure('wrong_state', 'The VM is no longer in a state it can be restored from.');
  await releaseLayers(world, [vm.layerId]);
  return chosen;
}
