import { deadline, DeadlineExceeded } from '../base/deadline.ts';
import { SingleFlight } from '../base/single-flight.ts';
import { Failure, notFound } from '../model/failure.ts';
import type { Snapshot } from '../model/snapshot.ts';
import { Taken } from '../store/store.ts';
import type { Caller, Hatch } from './hatch.ts';
import { proveSnapshot } from './verify-snapshot.ts';
import { dropSnapshot } from './save-vm.ts';
import { findVm } from './vms.ts';
import type { World } from './world.ts';

/** A snapshot of the caller's account by id or name. Throws `not_found`, also for another account's. */
export async function findSnapshot(
  { store }: Pick<World, 'store'>,
  caller: Caller,
  idOrName: string,
): Promise<Snapshot> {
  const found = await store.snapshots.find(caller.accountId, idOrName);
  if (!found) throw notFound('snapshot', idOrName);
  return found;
}

/** The snapshot once it is durable. Throws `timeout` when that takes longer: it goes on being stored. */
export async function waitStored(
  { archive, store }: Pick<World, 'archive' | 'store'>,
  { id }: Snapshot,
  timeoutMs: number,
): Promise<Snapshot> {
  try {
    return await deadline('storing the snapshot', timeoutMs, (signal) => archive.stored(id, signal));
  } catch (error) {
    if (!(error instanceof DeadlineExceeded)) throw error;
    const problem = (await store.snapshots.get(id))?.problem ?? null;
    throw new Failure(
      'timeout',
      `Snapshot ${id} was not stored within ${timeoutMs / 1000} s${problem === null ? '' : ` (${problem})`}; it is whole on its host, and goes on being stored.`,
      { details: { id }, cause: error },
    );
  }
}

/** What the API asks about snapshots that are there. */
export function snapshots(
  world: World,
): Pick<Hatch['snapshots'], 'get' | 'transfer' | 'list' | 'patch' | 'verify' | 'delete'> {
  const { store } = world;
  const proofs = new SingleFlight<Snapshot>();
  return {
    async get(caller, idOrName, storedWithinMs) {
      const found = await findSnapshot(world, caller, idOrName);
      return storedWithinMs === undefined ? found : waitStored(world, found, storedWithinMs);
    },
    transfer: (id) => world.archive.transfer(id),
    async list(caller, { vm, everyone }, page) {
      const vmId = vm === undefined ? undefined : (await findVm(world, caller, vm)).id;
      return store.snapshots.list(
        { accountId: everyone === true ? undefined : caller.accountId, vmId },
        page,
      );
    },
    async verify(caller, idOrName) {
      const snapshot = await findSnapshot(world, caller, idOrName);
      return proofs.run(snapshot.id, () => proveSnapshot(world, snapshot));
    },
    async patch(caller, idOrName, { name }) {
      const snapshot = await findSnapshot(world, caller, idOrName);
      try {
        const changed = await store.snapshots.update(snapshot.id, name === undefined ? {} : { name });
        if (!changed) throw notFound('snapshot', idOrName);
        return changed;
      } catch (error) {
        if (!(error instanceof Taken)) throw error;
        throw snapshotNameTaken(name ?? '', error);
      }
    },
    async delete(caller, idOrName) {
      const snapshot = await findSnapshot(world, caller, idOrName);
      const vm = await store.vms.get(snapshot.vmId);
      if (vm?.state === 'snapshotted' && vm.snapshotId === snapshot.id)
        throw new Failure(
          'in_use',
          `VM ${vm.id} sleeps as snapshot ${snapshot.id}, its only way back: start the VM, or delete it with its snapshots.`,
          { details: { snapshot: snapshot.id, vms: [vm.id] } },
        );
      const busyElsewhere = vm?.operation !== null && vm?.hostId !== world.settings.hostId;
      if (vm && (world.flights.has(vm.id) || busyElsewhere))
        throw new Failure(
          'busy',
          `VM ${vm.id}, whose snapshot this is, has an operation under way; ask again when it is done.`,
          {
            details: { vm: vm.id },
          },
        );
      if (!(await dropSnapshot(world, snapshot)))
        throw new Failure('busy', `Snapshot ${snapshot.id} is being copied; ask again when that is done.`, {
          details: { snapshot: snapshot.id },
        });
      await store.events.add({
        accountId: snapshot.accountId,
        vmId: snapshot.vmId,
        kind: 'snapshot.deleted',
        message: `Snapshot ${snapshot.name ?? snapshot.id} was deleted.`,
        data: { snapshot: snapshot.id },
      });
    },
  };
}

/** A 409 for a name that another snapshot of the account has. */
export function snapshotNameTaken(name: string, cause?: unknown): Failure {
  return new Failure(
    'already_exists',
    `"name" cannot be "${name}": another snapshot of this account has it.`,
    { details: { field: 'name', value: name }, cause },
  );
}
