import { Failure, notFound } from '../model/failure.ts';
import type { Operation } from '../model/records.ts';
import type { Snapshot } from '../model/snapshot.ts';
import { refuse } from '../model/states.ts';
import type { Vm } from '../model/vm.ts';
import { remove } from '../host/files.ts';
import { Wanted } from './activity.ts';
import { mustBeHere } from './elsewhere.ts';
import { dropIdle } from './idle-snapshots.ts';
import { layerFolder } from './layers.ts';
import { canSaveLive, liveSteps, settleDisk } from './save-live.ts';
import { saveSteps, sealSteps, type PlanKeeper } from './save-vm.ts';
import { newPlan, planOf, toArgs, type SnapshotPlan } from './snapshot-plan.ts';
import { snapshotNameTaken, waitStored } from './snapshots.ts';
import { leaveSshPort } from './ssh-ports.ts';
import { Closing, Overtaken, runForward, runSteps, Stuck } from './steps.ts';
import { translate } from './translate.ts';
import { findVmForUse } from './vms.ts';
import { undoWake, wake } from './wake-vm.ts';
import type { World } from './world.ts';
import { noteSlept, type IdleSleep } from './note-sleep.ts';
import { diskOf } from './host-steps.ts';
import { ownerOf } from './owner.ts';
import { vmFolder } from './settings.ts';
import { depsOf, mustGet } from './carry-out.ts';
import type { Caller, SnapshotRequest } from './hatch.ts';

const SAVED = 'The VM was saved, and runs on.';

/**
 * Saves a running VM. It sleeps afterwards, its addresses kept, or goes on at once with `keepRunning`. When it cannot be saved it
 * runs on; when it was saved and cannot go on, it sleeps, and the error says so.
 */
export async function snapshotVm(
  world: World,
  caller: Caller,
  idOrName: string,
  { name, keepRunning, storedWithinMs }: SnapshotRequest,
): Promise<Snapshot> {
  const id = caller.newId?.('snap');
  const again = id && (await world.store.snapshots.get(id));
  const vm = await findVmForUse(world, caller, idOrName);
  const asked = { name: name ?? null, kind: 'manual', keepRunning, decided: null, id } as const;
  const found = again ?? (await take(world, vm, asked));
  return storedWithinMs === undefined ? found : waitStored(world, found, storedWithinMs);
}

/**
 * Puts a running VM to sleep because nobody uses it: an idle snapshot without a name, which takes the place of the last idle one.
 * Fails as `snapshotVm` does, and as `falling` says; without that nobody ends it.
 */
export async function sleepVm(
  world: World,
  vm: Pick<Vm, 'id'>,
  { falling, decided = {} }: Partial<IdleSleep> = {},
): Promise<Snapshot> {
  const now = await world.store.vms.get(vm.id);
  if (!now) throw notFound('vm', vm.id);
  return take(world, now, { name: null, kind: 'idle', keepRunning: false, decided }, falling);
}

type Asked = Pick<SnapshotPlan, 'name' | 'kind' | 'keepRunning' | 'decided'> & {
  /** Chosen before; undefined: a fresh one. */
  readonly id?: Snapshot['id'] | undefined;
};

async function take(world: World, vm: Vm, asked: Asked, falling?: IdleSleep['falling']): Promise<Snapshot> {
  const { store, flights } = world;
  let snapshotId: Snapshot['id'] | undefined;
  await flights.fly(
    vm.id,
    'snapshot',
    async () => {
      const begun = await beginSave(world, vm, 'snapshot', asked);
      snapshotId = planOf(begun).snapshotId;
      return begun;
    },
    (operation, signal) => carryOutSnapshot(world, operation, signal, falling),
  );
  const made = snapshotId === undefined ? undefined : await store.snapshots.get(snapshotId);
  // Who joined a snapshot that was under way is given that one.
  const found = made ?? (await store.snapshots.ofVm(vm.id))[0];
  if (!found) throw new Failure('not_found', 'The snapshot was deleted in the moment it was made.');
  return found;
}

/** Claims a VM to save it, after all that can be refused without touching it was looked at. */
export async function beginSave(
  world: World,
  vm: Vm,
  verb: 'snapshot' | 'fork',
  asked: Asked,
): Promise<Operation> {
  const { store, driver, settings } = world;
  const now = (await store.vms.get(vm.id)) ?? vm;
  mustBeHere(world, now);
  const refused = refuse(now, verb);
  if (refused) throw refused;
  // A sleeping VM may be forked, but there is nothing to save of it.
  if (now.state === 'snapshotted')
    throw new Failure('busy', 'The VM fell asleep in this moment; ask again.', {
      details: { operation: 'snapshotting' },
    });
  if (!driver.capabilities.snapshot)
    throw new Failure('unavailable', `${driver.name} cannot save machines on this host.`);
  if (asked.name !== null && (await store.snapshots.find(now.accountId, asked.name)))
    throw snapshotNameTaken(asked.name);
  if (asked.kind === 'manual') await checkCount(world, now, settings.maxSnapshotsPerVm);
  const live = asked.keepRunning && (await canSaveLive(world, now));
  const { id, ...rest } = asked;
  const plan = newPlan({ ...rest, live, agent: now.readyAt !== null }, id);
  return store.operations.begin({ id: now.id, owner: ownerOf(now) }, verb, toArgs(plan));
}

async function checkCount({ store }: World, vm: Vm, limit: number | null): Promise<void> {
  if (limit === null) return;
  const count = (await store.snapshots.ofVm(vm.id)).filter(({ kind }) => kind === 'manual').length;
  if (count < limit) return;
  throw new Failure(
    'quota_exceeded',
    `VM ${vm.id} has ${count} of at most ${limit} snapshots; delete one you do not need.`,
    { details: { quota: 'snapshots_per_vm', used: count, limit } },
  );
}

/**
 * Carries a snapshot to its end, also one that a crash cut off after the machine was saved. Before that it can only be taken back
 * (`recoverSnapshot`); one of a VM that is `falling` asleep is, when somebody uses that.
 */
export async function carryOutSnapshot(
  world: World,
  operation: Operation,
  signal: AbortSignal,
  falling?: IdleSleep['falling'],
): Promise<void> {
  const keeper: PlanKeeper = { plan: planOf(operation), operation, seal: () => falling?.seal() };
  await save(world, keeper, signal, falling?.signal);
  const vm = await mustGet(world, operation);
  const { snapshotId, keepRunning, diskId } = keeper.plan;
  const snapshot = await world.store.snapshots.get(snapshotId);
  if (snapshot && diskId !== null) await note(world, vm, 'vm.snapshotted', SAVED, snapshot);
  else if (snapshot && keepRunning && vm.state === 'snapshotted')
    await goOn(world, operation, vm, snapshot, signal);
  else if (snapshot && !keepRunning) await fallAsleep(world, keeper, vm, snapshot, signal);
  if (snapshot && snapshot.kind !== 'fork') world.archive.enqueue(snapshotId);
  if (snapshot?.kind === 'idle') await dropIdle(world, vm.id);
}

/** Saves the machine and makes the snapshot, or what of it is left to do. The VM sleeps then. */
async function save(
  world: World,
  keeper: PlanKeeper,
  signal: AbortSignal,
  wanted?: AbortSignal,
): Promise<void> {
  const { operation } = keeper;
  const vm = await mustGet(world, operation);
  if (await world.store.snapshots.get(keeper.plan.snapshotId)) return;
  const { diskId } = keeper.plan;
  if (keeper.plan.saved === null) {
    const steps =
      diskId === null ? saveSteps(world, vm, keeper) : liveSteps(world, vm, { ...keeper.plan, diskId });
    try {
      const until = wanted ? AbortSignal.any([signal, wanted]) : signal;
      await runSteps(depsOf(world), operation, steps, until);
    } catch (error) {
      if (error instanceof Closing) throw error;
      if (error instanceof Wanted) {
        await note(
          world,
          vm,
          'vm.sleep_cancelled',
          'Somebody came before the VM was asleep: it stays awake.',
        );
        throw error;
      }
      const { code, message, details } = translate(error);
      const became = whatBecameOf(world, vm, error);
      await note(world, vm, 'vm.snapshot_failed', `The VM could not be saved${became}: ${message}`);
      throw new Failure(code, `The VM could not be saved${became}: ${message}`, {
        details: { ...details, id: vm.id },
        cause: error,
      });
    }
  }
  if (diskId === null) await sealSaved(world, vm, keeper, signal);
  world.fleet.touch(vm.id);
}

/** Makes a saved machine a snapshot. What was saved of a VM that is being deleted is nobody's, and goes. */
async function sealSaved(world: World, vm: Vm, keeper: PlanKeeper, signal: AbortSignal): Promise<void> {
  try {
    await runForward(depsOf(world), keeper.operation, sealSteps(world, vm, keeper), signal);
  } catch (error) {
    if (error instanceof Overtaken && !(await world.store.snapshots.get(keeper.plan.snapshotId)))
      await removeSaved(world, keeper.plan);
    throw error;
  }
}

/** Removes what was written of a machine that is no snapshot. */
async function removeSaved({ settings }: World, { memoryId, stateId }: SnapshotPlan): Promise<void> {
  for (const id of [memoryId, stateId]) await remove(layerFolder(settings, id));
}

/** How it is with a VM that could not be saved, as part of a sentence. */
function whatBecameOf({ fleet }: World, vm: Vm, error: unknown): string {
  if (error instanceof Overtaken) return '';
  const live = fleet.get(vm.id);
  if (!live || live.exit) return ', and its guest ended; start the VM again, its disk is as it was';
  return error instanceof Stuck ? '' : ', and runs on';
}

/** The saved VM goes on at once; when it cannot, it sleeps. */
async function goOn(
  world: World,
  operation: Operation,
  vm: Vm,
  snapshot: Snapshot,
  signal: AbortSignal,
): Promise<void> {
  try {
    await wake(world, operation, vm, snapshot, signal);
    await note(world, vm, 'vm.snapshotted', SAVED, snapshot);
  } catch (error) {
    if (error instanceof Closing) throw error;
    // Its place in the network was kept for it to go on in.
    await undoWake(world, operation, vm, snapshot);
    const { code, message, details } = translate(error);
    throw new Failure(
      code,
      `The VM was saved as ${snapshot.id}, and could not go on: ${message} It sleeps; start it again.`,
      { details: { ...details, id: vm.id, snapshot_id: snapshot.id }, cause: error },
    );
  }
}

async function fallAsleep(
  world: World,
  { operation, plan }: PlanKeeper,
  vm: Vm,
  snapshot: Snapshot,
  signal: AbortSignal,
): Promise<void> {
  const { settings, driver } = world;
  // What its next wake would else wait for.
  const prepare = async (): Promise<void> => {
    const { path, format } = await diskOf(world, vm);
    const layer = { layerPath: path, layerFormat: format, qcow2: driver.capabilities.qcow2 };
    await world.files.prepareDiskOn({ folder: vmFolder(settings, vm.id), ...layer }, signal);
  };
  const steps = [
    { name: 'ssh-port', run: () => leaveSshPort(world, vm) },
    {
      name: 'network',
      run: async () => {
        if (vm.network !== null) await world.net.detach(vm.id);
      },
    },
    { name: 'next-disk', run: prepare },
    {
      name: 'asleep',
      run: async () => {
        await note(world, vm, 'vm.snapshotted', 'The VM was saved, and sleeps.', snapshot);
        await noteSlept(world, vm, 'snapshot', plan.decided);
      },
    },
  ];
  await runForward(depsOf(world), operation, steps, signal);
}

async function note(
  { store, fleet }: World,
  vm: Vm,
  kind: string,
  message: string,
  snapshot?: Snapshot,
): Promise<void> {
  await store.events.add({
    accountId: vm.accountId,
    vmId: vm.id,
    kind,
    message,
    data: snapshot ? { snapshot: snapshot.id, name: snapshot.name, kind: snapshot.kind } : {},
  });
  fleet.touch(vm.id);
}

/** Whether a snapshot that a crash cut off can only go forward: its machine was saved, and may run no more. */
export function isSaved(operation: Operation): boolean {
  return planOf(operation).saved !== null;
}

/**
 * Takes back a snapshot that a crash cut off before the machine was saved: what it wrote goes, and the guest, which may stand still,
 * is let go on by whoever takes it up. One that was saved is let sleep for `settle` to carry on.
 */
export async function recoverSnapshot(world: World, operation: Operation): Promise<void> {
  const plan: SnapshotPlan = planOf(operation);
  const snapshot = await world.store.snapshots.get(plan.snapshotId);
  if (snapshot) {
    const vm = await mustGet(world, operation);
    if (vm.state === 'snapshotted') await undoWake(world, operation, vm, snapshot);
    return;
  }
  if (plan.saved !== null) return;
  const { diskId } = plan;
  if (diskId !== null) await settleDisk(world, await mustGet(world, operation), { ...plan, diskId });
  await removeSaved(world, plan);
}
