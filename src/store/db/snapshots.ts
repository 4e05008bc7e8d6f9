import type { Kysely, Selectable, Transaction, Updateable } from 'kysely';
import { parseId, type SnapshotId } from '../../base/ids.ts';
import { Failure } from '../../model/failure.ts';
import type { NewSnapshot, Snapshot, SnapshotPatch } from '../../model/snapshot.ts';
import type { Snapshots } from '../store.ts';
import { dropReferences } from './blob-rows.ts';
import { fromJson, fromJsonOrNull, toJson, toJsonOrNull, toText } from './columns.ts';
import { orTaken, transact, type Engine } from './engine.ts';
import { insertLayer } from './layers.ts';
import { pageStart } from './page.ts';
import { lockSnapshot } from './snapshot-lock.ts';
import type { SnapshotsTable, Tables } from './tables.ts';
import { changeVm } from './vms.ts';

/** Of a snapshot whose files no host has. */
const NOWHERE = { host_id: null, disk_layer_id: null, memory_layer_id: null, state_layer_id: null } as const;

/** The snapshots' table behind its interface. */
export function snapshots(engine: Engine): Snapshots {
  const { db, clock } = engine;
  return {
    create: (snapshot, { layers, freeze, vm, limit }) =>
      orTaken({ snapshots_name: 'name' }, () =>
        transact(engine, async (trx) => {
          const there = await getSnapshot(trx, snapshot.id);
          if (there) return there;
          if (limit !== null && snapshot.kind === 'manual') await checkCount(trx, snapshot, limit);
          for (const layer of layers) await insertLayer(trx, clock, layer);
          await trx
            .updateTable('layers')
            .set({ path: freeze.path, frozen: 1 })
            .where('id', '=', freeze.id)
            .execute();
          await trx
            .insertInto('snapshots')
            .values((eb) => ({
              ...newColumns(snapshot, clock.now()),
              image_account_id: eb
                .selectFrom('vms')
                .select('vms.image_account_id')
                .where('vms.id', '=', snapshot.vmId),
            }))
            .execute();
          if (!(await changeVm(engine, trx, snapshot.vmId, vm.owner, vm.from, vm.patch)))
            throw new Failure('wrong_state', 'The VM was taken away while it was saved.');
          const made = await getSnapshot(trx, snapshot.id);
          if (!made) throw new Error(`the row of ${snapshot.id} is not there right after it was made`);
          return made;
        }),
      ),
    get: (id) => getSnapshot(db, id),
    async find(accountId, idOrName) {
      const id = parseId('snap', idOrName);
      const row = await db
        .selectFrom('snapshots')
        .selectAll()
        .where('account_id', '=', accountId)
        .where((eb) => (id ? eb('id', '=', id) : eb('name', '=', idOrName)))
        .executeTakeFirst();
      return row ? toSnapshot(row) : null;
    },
    async list({ accountId, vmId }, page) {
      let query = db.selectFrom('snapshots').selectAll();
      if (accountId !== undefined) query = query.where('account_id', '=', accountId);
      const visible = query;
      const start = await pageStart(page, async (after) => {
        const id = parseId('snap', after);
        return id && visible.where('id', '=', id).executeTakeFirst();
      });
      if (vmId !== undefined) query = query.where('vm_id', '=', vmId);
      const rows = await query.where('seq', '<', start).orderBy('seq', 'desc').limit(page.limit).execute();
      return rows.map(toSnapshot);
    },
    async ofVm(vmId) {
      const rows = await db
        .selectFrom('snapshots')
        .selectAll()
        .where('vm_id', '=', vmId)
        .orderBy('seq', 'desc')
        .execute();
      return rows.map(toSnapshot);
    },
    async ofHost(hostId) {
      const rows = await db
        .selectFrom('snapshots')
        .selectAll()
        .where('host_id', '=', hostId)
        .orderBy('used_at')
        .orderBy('seq')
        .execute();
      return rows.map(toSnapshot);
    },
    update: (id, patch) =>
      orTaken({ snapshots_name: 'name' }, async () => {
        const columns = patchColumns(patch);
        if (Object.keys(columns).length > 0)
          await db.updateTable('snapshots').set(columns).where('id', '=', id).execute();
        return getSnapshot(db, id);
      }),
    remove: (id) =>
      transact(engine, async (trx) => {
        if (!(await lockSnapshot(trx, id))) return true;
        const user = await beingCopied(trx, id);
        if (user) return false;
        await dropReferences(engine, trx, id);
        await trx.deleteFrom('snapshots').where('id', '=', id).execute();
        return true;
      }),
    goOnIn: (id, vm) =>
      transact(engine, async (trx) => {
        if (!(await lockSnapshot(trx, id)) || (await beingCopied(trx, id))) return false;
        const snapshot = await getSnapshot(trx, id);
        if (!snapshot || (await sharesMemory(trx, snapshot))) return false;
        if (!(await changeVm(engine, trx, snapshot.vmId, vm.owner, ['snapshotted'], vm.patch))) return false;
        if (snapshot.state === 'durable') {
          await trx.updateTable('snapshots').set(NOWHERE).where('id', '=', id).execute();
        } else {
          await dropReferences(engine, trx, id);
          await trx.deleteFrom('snapshots').where('id', '=', id).execute();
        }
        return true;
      }),
    dropLocal: (id, hostId) =>
      transact(engine, async (trx) => {
        if (!(await lockSnapshot(trx, id)) || (await beingCopied(trx, id))) return false;
        const { numUpdatedRows } = await trx
          .updateTable('snapshots')
          .set(NOWHERE)
          .where('id', '=', id)
          .where('state', '=', 'durable')
          .where('host_id', '=', hostId)
          .executeTakeFirst();
        return numUpdatedRows > 0n;
      }),
  };
}

/** The snapshot of an id; null: there is none. */
export async function getSnapshot(db: Kysely<Tables>, id: SnapshotId): Promise<Snapshot | null> {
  const row = await db.selectFrom('snapshots').selectAll().where('id', '=', id).executeTakeFirst();
  return row ? toSnapshot(row) : null;
}

/** Whether a copy of it is being made, or a VM that is to wake from it has an operation under way. */
async function beingCopied(trx: Transaction<Tables>, id: SnapshotId): Promise<boolean> {
  const user = await trx
    .selectFrom('vms')
    .innerJoin('operations', (join) =>
      join.onRef('operations.vm_id', '=', 'vms.id').on('operations.finished_at', 'is', null),
    )
    .select('vms.id')
    .where('vms.parent_snapshot_id', '=', id)
    .where('operations.verb', '=', 'create')
    .executeTakeFirst();
  return user !== undefined;
}

/** Whether another VM or snapshot stands on its memory. */
async function sharesMemory(
  trx: Transaction<Tables>,
  { id, vmId, memoryLayerId }: Snapshot,
): Promise<boolean> {
  const vm = await trx
    .selectFrom('vms')
    .select('id')
    .where('memory_layer_id', '=', memoryLayerId)
    .where('id', '!=', vmId)
    .executeTakeFirst();
  const snapshot = await trx
    .selectFrom('snapshots')
    .select('id')
    .where('memory_layer_id', '=', memoryLayerId)
    .where('id', '!=', id)
    .executeTakeFirst();
  return vm !== undefined || snapshot !== undefined;
}

/** Idle ones are not counted: the next replaces the last. */
async function checkCount(trx: Transaction<Tables>, { vmId }: NewSnapshot, limit: number): Promise<void> {
  const { count } = await trx
    .selectFrom('snapshots')
    .select((eb) => eb.fn.countAll<number>().as('count'))
    .where('vm_id', '=', vmId)
    .where('kind', '=', 'manual')
    .executeTakeFirstOrThrow();
  if (Number(count) < limit) return;
  throw new Failure(
    'quota_exceeded',
    `VM ${vmId} has ${count} of at most ${limit} snapshots; delete one you do not need.`,
    { details: { quota: 'snapshots_per_vm', used: Number(count), limit } },
  );
}

function newColumns(snapshot: NewSnapshot, now: number) {
  return {
    id: snapshot.id,
    account_id: snapshot.accountId,
    vm_id: snapshot.vmId,
    name: snapshot.name,
    kind: snapshot.kind,
    state: 'local',
    host_id: snapshot.hostId,
    image_id: snapshot.imageId,
    vcpu_count: snapshot.vcpuCount,
    mem_mib: snapshot.memMib,
    disk_mib: snapshot.diskMib,
    saved_on: toJson(snapshot.savedOn),
    guest: toJson(snapshot.guest),
    parent_id: snapshot.parentId,
    disk_layer_id: snapshot.diskLayerId,
    memory_layer_id: snapshot.memoryLayerId,
    state_layer_id: snapshot.stateLayerId,
    logical_bytes: snapshot.logicalBytes,
    stored_bytes: null,
    manifest: null,
    verified_at: null,
    used_at: now,
    problem: null,
    created_at: now,
  } as const;
}

function patchColumns(patch: SnapshotPatch): Updateable<SnapshotsTable> {
  return {
    ...(patch.name === undefined ? {} : { name: patch.name }),
    ...(patch.state === undefined ? {} : { state: patch.state }),
    ...(patch.hostId === undefined ? {} : { host_id: patch.hostId }),
    ...(patch.diskLayerId === undefined ? {} : { disk_layer_id: patch.diskLayerId }),
    ...(patch.memoryLayerId === undefined ? {} : { memory_layer_id: patch.memoryLayerId }),
    ...(patch.stateLayerId === undefined ? {} : { state_layer_id: patch.stateLayerId }),
    ...(patch.storedBytes === undefined ? {} : { stored_bytes: patch.storedBytes }),
    ...(patch.manifest === undefined ? {} : { manifest: toJsonOrNull(patch.manifest) }),
    ...(patch.verifiedAt === undefined ? {} : { verified_at: patch.verifiedAt }),
    ...(patch.usedAt === undefined ? {} : { used_at: patch.usedAt }),
    ...(patch.problem === undefined
      ? {}
      : { problem: patch.problem === null ? null : toText(patch.problem) }),
  };
}

function toSnapshot(row: Selectable<SnapshotsTable>): Snapshot {
  return {
    id: row.id,
    accountId: row.account_id,
    vmId: row.vm_id,
    name: row.name,
    kind: row.kind,
    state: row.state,
    hostId: row.host_id,
    imageId: row.image_id,
    vcpuCount: row.vcpu_count,
    memMib: row.mem_mib,
    diskMib: row.disk_mib,
    savedOn: fromJson(row.saved_on),
    guest: fromJson(row.guest),
    parentId: row.parent_id,
    diskLayerId: row.disk_layer_id,
    memoryLayerId: row.memory_layer_id,
    stateLayerId: row.state_layer_id,
    logicalBytes: row.logical_bytes,
    storedBytes: row.stored_bytes,
    manifest: fromJsonOrNull(row.manifest),
    verifiedAt: row.verified_at,
    usedAt: row.used_at,
    problem: row.problem,
    createdAt: row.created_at,
  };
}
