import { deadline, DeadlineExceeded } from '../base/deadline.ts';
import { newId, type VmId } from '../base/ids.ts';
import { AgentGone } from '../guest/agent.ts';
import { Failure, invalid } from '../model/failure.ts';
import type { Operation } from '../model/records.ts';
import type { Snapshot } from '../model/snapshot.ts';
import { refuse } from '../model/states.ts';
import type { Vm } from '../model/vm.ts';
import { mustBeAllowed } from './claim-vm.ts';
import { copySnapshot } from './copy-vm.ts';
import { mustBeHereOrAsleep } from './elsewhere.ts';
import { dropSnapshot } from './save-vm.ts';
import { withRoom } from './room-for.ts';
import { planOf } from './snapshot-plan.ts';
import { beginSave, carryOutSnapshot } from './snapshot-vm.ts';
import { findVmForUse, waitFor } from './vms.ts';
import type { World } from './world.ts';
import type { Caller, Wait, ForkRequest } from './hatch.ts';

/**
 * Makes copies of a VM: of a running one as it is in this moment, of a sleeping one as it was saved. Each is somebody of its own. All
 * that can be refused is refused before the source stands still.
 */
export async function forkVm(
  world: World,
  caller: Caller,
  idOrName: string,
  request: ForkRequest,
  wait?: Wait,
): Promise<readonly Vm[]> {
  const { newId: make = newId } = caller;
  const ids = Array.from({ length: request.count }, () => make('vm'));
  const again = caller.newId && (await madeBefore(world, ids, wait));
  if (again) return again;
  const source = await findVmForUse(world, caller, idOrName);
  mustBeHereOrAsleep(world, source);
  const refused = refuse(source, 'fork');
  if (refused) throw refused;
  const names = namesOf(request);
  await mustBeAllowed(world, source, names);
  if (source.state !== 'snapshotted') await mustAnswer(world, source);
  const wanted = ids.map((id, index) => ({ id, name: names[index] }));
  return withRoom(world, async (ask) => {
    // For all of them at once: half of a fork helps nobody.
    const vms = wanted.map(({ id }) => ({ vmId: id, memMib: source.memMib }));
    await ask({ verb: 'fork', accountId: source.accountId, vms, about: source.id });
    if (source.state === 'snapshotted') {
      return copies(world, caller, await sleepsAs(world, source), wanted, wait);
    }
    return forkRunning(world, source, request, (snapshot) => copies(world, caller, snapshot, wanted, wait));
  });
}

async function sleepsAs({ store }: World, { id, snapshotId }: Vm): Promise<Snapshot> {
  const snapshot = snapshotId === null ? null : await store.snapshots.get(snapshotId);
  if (!snapshot) throw new Failure('wrong_state', `VM ${id} sleeps as no snapshot.`);
  return snapshot;
}

/** The copies of a fork that is asked for again; undefined: there are none. Throws when a crash left some of them. */
async function madeBefore(
  world: World,
  ids: readonly VmId[],
  wait: Wait | undefined,
): Promise<readonly Vm[] | undefined> {
  const there = (await Promise.all(ids.map((id) => world.store.vms.get(id)))).filter((vm) => vm !== null);
  if (there.length === 0) return undefined;
  if (there.length === ids.length) return Promise.all(ids.map((id) => waitFor(world, id, wait)));
  const made = there.map(({ id }) => id);
  throw new Failure(
    'wrong_state',
    `The server ended while these copies were made: ${made.length} of ${ids.length} are there, ${made.join(', ')}. Keep or delete them, and fork again under another Idempotency-Key.`,
    { details: { made } },
  );
}

/** Saves the source and makes its copies, as one operation on it. Forks of one VM come one after the other: each wants its own. */
async function forkRunning(
  world: World,
  source: Vm,
  { keepRunning }: ForkRequest,
  copyAll: (snapshot: Snapshot) => Promise<readonly Vm[]>,
): Promise<readonly Vm[]> {
  const { flights } = world;
  for (;;) {
    let made: readonly Vm[] | undefined;
    await flights.landed(source.id);
    // Whoever was before may have put it to sleep.
    const now = await world.store.vms.get(source.id);
    if (now?.state === 'snapshotted') return copyAll(await sleepsAs(world, now));
    await flights.fly(
      source.id,
      'fork',
      () => beginSave(world, source, 'fork', { name: null, kind: 'fork', keepRunning, decided: null }),
      async (operation, signal) => {
        made = [];
        await carryOutSnapshot(world, operation, signal);
        const snapshot = await world.store.snapshots.get(planOf(operation).snapshotId);
        if (!snapshot) throw new Failure('wrong_state', 'The VM was taken away while it was saved.');
        try {
          made = await copyAll(snapshot);
        } finally {
          await dropIfAwake(world, snapshot);
        }
      },
    );
    if (made) return made;
  }
}

/** Carries on a fork that a crash cut off: its copies were taken back and nobody waits for them; the source goes on as it would have. */
export async function settleFork(world: World, operation: Operation, signal: AbortSignal): Promise<void> {
  await carryOutSnapshot(world, operation, signal);
  const snapshot = await world.store.snapshots.get(planOf(operation).snapshotId);
  if (snapshot) await dropIfAwake(world, snapshot);
}

/** What the copies and their source share is held by them; the snapshot itself was made for the fork alone. */
async function dropIfAwake(world: World, snapshot: Snapshot): Promise<void> {
  const source = await world.store.vms.get(snapshot.vmId);
  if (source?.snapshotId !== snapshot.id) await dropSnapshot(world, snapshot);
}

function namesOf({ count, name }: ForkRequest): readonly (string | undefined)[] {
  if (name === undefined || count === 1) return Array.from({ length: count }, () => name);
  return Array.from({ length: count }, (_, index) => {
    const one = `${name}-${index + 1}`;
    if (one.length > 63)
      throw invalid(
        'name',
        `"name" is too long to number ${count} copies by: "${one}" has over 63 characters.`,
      );
    return one;
  });
}

async function mustAnswer({ fleet, patience }: World, vm: Vm): Promise<void> {
  try {
    await deadline("the guest agent's answer", patience.agentMs, async (signal) => {
      const live = fleet.get(vm.id);
      if (!live) throw new AgentGone('the guest has ended');
      await live.agent.ping(signal);
    });
  } catch (error) {
    if (!(error instanceof DeadlineExceeded) && !(error instanceof AgentGone)) throw error;
    throw new Failure(
      'no_guest_agent',
      `The agent of VM ${vm.id} does not answer: a copy could not be given an identity of its own. Is qemu-guest-agent installed and running in it?`,
      { details: { id: vm.id }, cause: error },
    );
  }
}

async function copies(
  world: World,
  caller: Caller,
  snapshot: Snapshot,
  wanted: readonly { readonly id: VmId; readonly name: string | undefined }[],
  wait: Wait | undefined,
): Promise<readonly Vm[]> {
  const made = await Promise.allSettled(
    wanted.map(({ id, name }) =>
      copySnapshot(world, caller, snapshot, name === undefined ? {} : { name }, { id, wait }),
    ),
  );
  const vms = made.flatMap((one) => (one.status === 'fulfilled' ? [one.value] : []));
  const failed = made.find((one) => one.status === 'rejected');
  if (!failed) return vms;
  const cause: unknown = failed.reason;
  if (!(cause instanceof Failure)) throw cause;
  throw new Failure(
    cause.code,
    `Of ${made.length} copies ${made.length - vms.length} could not be made: ${cause.message}`,
    { details: { ...cause.details, made: vms.map(({ id }) => id) }, cause },
  );
}
