import { randomUUID } from 'node:crypto';
import { sql, type Kysely, type Selectable, type Transaction } from 'kysely';
import type { SnapshotId } from '../../base/ids.ts';
import type { BlobId, Lease, LeaseId, Ledger, NewBlob } from '../ledger.ts';
import { condemnUnneeded, endLease, holdBlobs, inPieces, toBlob } from './blob-rows.ts';
import { toText } from './columns.ts';
import { transact, type Engine } from './engine.ts';
import { lockVm } from './operations.ts';
import { lockSnapshot } from './snapshot-lock.ts';
import type { LeaseBlobsTable, LeasesTable, Tables } from './tables.ts';

type Leases = Pick<
  Ledger,
  'beginUpload' | 'beginReading' | 'beginRewriting' | 'renew' | 'add' | 'arrived' | 'reuse' | 'release'
>;

/** Who needs blobs for a while: uploads, readers, those who rewrite. */
export function leases(engine: Engine): Leases {
  const { db } = engine;
  return {
    beginUpload: (snapshotId, owner, leaseMs) =>
      transact(engine, async (trx) => {
        const snapshot = await holdSnapshot(trx, snapshotId);
        if (!snapshot || snapshot.host_id !== owner.hostId || snapshot.state === 'durable') return null;
        if (!(await lockVm(trx, snapshot.vm_id, owner))) return null;
        const other = await trx
          .selectFrom('leases')
          .selectAll()
          .where('vm_id', '=', snapshot.vm_id)
          .where('kind', '=', 'upload')
          .executeTakeFirst();
        let inherited: readonly Selectable<LeaseBlobsTable>[] = [];
        if (other?.snapshot_id === snapshotId && other.epoch === owner.epoch) {
          await prolong(engine, trx, other.id, leaseMs);
          return toLease(trx, other);
        } else if (other?.snapshot_id === snapshotId) {
          await endLease(engine, trx, other.id);
        } else if (other) {
          const overtaken = await trx
            .selectFrom('snapshots')
            .select(['kind', 'seq'])
            .where('id', '=', other.snapshot_id)
            .executeTakeFirst();
          if (overtaken?.kind !== 'idle' || overtaken.seq > snapshot.seq)
            return { behind: other.snapshot_id };
          inherited = await giveUp(engine, trx, other);
        }
        await trx
          .updateTable('snapshots')
          .set({ state: 'uploading', problem: null })
          .where('id', '=', snapshotId)
          .execute();
        return newLease(engine, trx, { kind: 'upload', snapshot, owner, leaseMs }, inherited);
      }),
    beginReading: (snapshotId, hostId, leaseMs) =>
      transact(engine, (trx) => leaseStored(engine, trx, 'read', snapshotId, hostId, leaseMs)),
    beginRewriting: (snapshotId, hostId, leaseMs) =>
      transact(engine, (trx) => leaseStored(engine, trx, 'rewrite', snapshotId, hostId, leaseMs)),
    renew: (id, leaseMs) => prolong(engine, db, id, leaseMs),
    add: (id, blobs) =>
      transact(engine, async (trx) => ((await holdLease(trx, id)) ? addBlobs(engine, trx, id, blobs) : null)),
    async arrived(id, blobId) {
      const { numUpdatedRows } = await db
        .updateTable('lease_blobs')
        .set({ arrived: 1 })
        .where('lease_id', '=', id)
        .where('blob_id', '=', blobId)
        .executeTakeFirst();
      return numUpdatedRows > 0n;
    },
    reuse: (id, blobIds) =>
      transact(engine, async (trx) => {
        if (!(await holdLease(trx, id))) return null;
        const there = await holdBlobs(engine, trx, blobIds, 'share');
        const own = new Set((await blobsOf(trx, id)).map((row) => row.blob_id));
        const good = there.filter(({ state, id: blob }) =>
          own.has(blob) ? state !== 'bad' : state === 'live',
        );
        await insertLeaseBlobs(
          trx,
          good
            .filter((row) => !own.has(row.id))
            .map((row) => ({ lease_id: id, blob_id: row.id, reused: 1, arrived: 1 })),
        );
        return good.map((row) => row.id);
      }),
    release: (id, problem = null) =>
      transact(engine, async (trx) => {
        const lease = await trx.selectFrom('leases').selectAll().where('id', '=', id).executeTakeFirst();
        if (!lease) return;
        await lockSnapshot(trx, lease.snapshot_id);
        if (await holdLease(trx, id)) await endUnfinished(engine, trx, lease, problem);
      }),
  };
}

/** Ends a lease that came to nothing: an upload's snapshot is what it was before. */
export async function endUnfinished(
  engine: Engine,
  trx: Transaction<Tables>,
  lease: Pick<Selectable<LeasesTable>, 'id' | 'kind' | 'snapshot_id'>,
  problem: string | null,
): Promise<void> {
  await endLease(engine, trx, lease.id);
  if (lease.kind !== 'upload') return;
  await trx
    .updateTable('snapshots')
    .set({
      state: sql<'local'>`case when manifest is null then 'local' else 'damaged' end`,
      problem: problem === null ? null : toText(problem),
    })
    .where('id', '=', lease.snapshot_id)
    .where('state', '=', 'uploading')
    .execute();
}

/** Holds a lease's row until the transaction ends; false when it is over. */
export async function holdLease(trx: Transaction<Tables>, id: LeaseId): Promise<boolean> {
  const { numUpdatedRows } = await trx
    .updateTable('leases')
    .set((row) => ({ lease_until: row.ref('lease_until') }))
    .where('id', '=', id)
    .executeTakeFirst();
  return numUpdatedRows > 0n;
}

async function holdSnapshot(trx: Transaction<Tables>, id: SnapshotId) {
  if (!(await lockSnapshot(trx, id))) return undefined;
  return trx
    .selectFrom('snapshots')
    .select(['id', 'seq', 'vm_id', 'host_id', 'state', 'manifest'])
    .where('id', '=', id)
    .executeTakeFirst();
}

async function prolong({ now }: Engine, db: Kysely<Tables>, id: LeaseId, leaseMs: number): Promise<boolean> {
  const { numUpdatedRows } = await db
    .updateTable('leases')
    .set({ lease_until: sql<number>`${now} + ${sql.lit(leaseMs)}` })
    .where('id', '=', id)
    .executeTakeFirst();
  return numUpdatedRows > 0n;
}

/** Ends an upload for a later one's sake, and gives what of it can be used: what is whole in the home. */
async function giveUp(
  engine: Engine,
  trx: Transaction<Tables>,
  lease: Selectable<LeasesTable>,
): Promise<readonly Selectable<LeaseBlobsTable>[]> {
  const all = await blobsOf(trx, lease.id);
  const left = all.filter((row) => row.arrived === 0).map((row) => row.blob_id);
  // Deleted here, named again below: nobody else sees what is between.
  await trx.deleteFrom('leases').where('id', '=', lease.id).execute();
  await condemnUnneeded(engine, trx, left);
  await endUnfinished(engine, trx, lease, null);
  return all.filter((row) => row.arrived === 1);
}

/** A lease of all that a stored snapshot is made of. */
async function leaseStored(
  engine: Engine,
  trx: Transaction<Tables>,
  kind: 'read' | 'rewrite',
  snapshotId: SnapshotId,
  hostId: string,
  leaseMs: number,
): Promise<Lease | null> {
  const snapshot = await holdSnapshot(trx, snapshotId);
  if (!snapshot || snapshot.manifest === null) return null;
  if (kind === 'rewrite') {
    const other = await trx
      .selectFrom('leases')
      .select('id')
      .where('snapshot_id', '=', snapshotId)
      .where('kind', '!=', 'read')
      .executeTakeFirst();
    if (other || snapshot.state !== 'durable') return null;
  }
  // Who would remove these names waits for us at the snapshot: until then nothing they name can be condemned.
  const named = await trx
    .selectFrom('snapshot_blobs')
    .select('blob_id')
    .where('snapshot_id', '=', snapshotId)
    .execute();
  const rows = named.map(({ blob_id }) => ({ blob_id, reused: 1, arrived: 1 }) as const);
  return newLease(engine, trx, { kind, snapshot, owner: { hostId, epoch: null }, leaseMs }, rows);
}

async function newLease(
  { now }: Engine,
  trx: Transaction<Tables>,
  {
    kind,
    snapshot,
    owner,
    leaseMs,
  }: {
    readonly kind: LeasesTable['kind'];
    readonly snapshot: { readonly id: SnapshotId; readonly vm_id: LeasesTable['vm_id'] };
    readonly owner: { readonly hostId: string; readonly epoch: number | null };
    readonly leaseMs: number;
  },
  blobs: readonly Omit<Selectable<LeaseBlobsTable>, 'lease_id'>[],
): Promise<Lease> {
  const lease = await trx
    .insertInto('leases')
    .values({
      id: randomUUID() as LeaseId,
      kind,
      snapshot_id: snapshot.id,
      vm_id: snapshot.vm_id,
      host_id: owner.hostId,
      epoch: owner.epoch,
      lease_until: sql<number>`${now} + ${sql.lit(leaseMs)}`,
    })
    .returningAll()
    .executeTakeFirstOrThrow();
  await insertLeaseBlobs(
    trx,
    blobs.map((blob) => ({ ...blob, lease_id: lease.id })),
  );
  return toLease(trx, lease);
}

async function addBlobs(
  engine: Engine,
  trx: Transaction<Tables>,
  id: LeaseId,
  blobs: readonly NewBlob[],
): Promise<readonly BlobId[]> {
  const fresh = new Set<BlobId>();
  for (const piece of inPieces(blobs)) {
    const rows = await trx
      .insertInto('blobs')
      .values(
        piece.map((blob) => ({
          id: blob.id,
          kind: blob.kind,
          account_id: blob.accountId,
          bytes: blob.bytes,
          state: 'uploading' as const,
          state_at: engine.now,
          verified_at: null,
          gone_at: null,
        })),
      )
      .onConflict((conflict) => conflict.column('id').doNothing())
      .returning('id')
      .execute();
    for (const row of rows) fresh.add(row.id);
  }
  const known = blobs.filter((blob) => !fresh.has(blob.id));
  const held = new Map(
    (
      await holdBlobs(
        engine,
        trx,
        known.map((blob) => blob.id),
        'update',
      )
    ).map((row) => [row.id, row]),
  );
  const own = new Set((await blobsOf(trx, id)).map((row) => row.blob_id));
  const given = new Set(fresh);
  for (const blob of known) {
    const row = held.get(blob.id);
    const same = row?.kind === blob.kind && row.account_id === blob.accountId && row.bytes === blob.bytes;
    if (same && row.state === 'condemned') {
      await trx
        .updateTable('blobs')
        .set({ state: 'uploading', state_at: engine.now })
        .where('id', '=', blob.id)
        .execute();
      fresh.add(blob.id);
    }
    if (same && (row.state === 'condemned' || (row.state === 'uploading' && own.has(blob.id))))
      given.add(blob.id);
  }
  await insertLeaseBlobs(
    trx,
    [...fresh].map((blob) => ({ lease_id: id, blob_id: blob, reused: 0, arrived: 0 })),
  );
  return blobs.filter((blob) => given.has(blob.id)).map((blob) => blob.id);
}

async function blobsOf(
  trx: Transaction<Tables>,
  id: LeaseId,
): Promise<readonly Selectable<LeaseBlobsTable>[]> {
  return trx.selectFrom('lease_blobs').selectAll().where('lease_id', '=', id).execute();
}

async function insertLeaseBlobs(
  trx: Transaction<Tables>,
  rows: readonly Selectable<LeaseBlobsTable>[],
): Promise<void> {
  for (const piece of inPieces(rows)) await trx.insertInto('lease_blobs').values(piece).execute();
}

async function toLease(
  trx: Transaction<Tables>,
  { id, snapshot_id }: Pick<Selectable<LeasesTable>, 'id' | 'snapshot_id'>,
): Promise<Lease> {
  const rows = await trx
    .selectFrom('lease_blobs')
    .innerJoin('blobs', 'blobs.id', 'lease_blobs.blob_id')
    .selectAll('blobs')
    .select(['lease_blobs.reused', 'lease_blobs.arrived'])
    .where('lease_blobs.lease_id', '=', id)
    .orderBy('blobs.id')
    .execute();
  return {
    id,
    snapshotId: snapshot_id,
    blobs: rows.map((row) => ({ ...toBlob(row), reused: row.reused === 1, arrived: row.arrived === 1 })),
  };
}
