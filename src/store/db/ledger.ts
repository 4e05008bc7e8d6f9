import { sql, type Kysely, type Transaction } from 'kysely';
import type { SnapshotId } from '../../base/ids.ts';
import type { Snapshot } from '../../model/snapshot.ts';
import { BadBlobs, type BlobId, type LeaseId, type Ledger, type Publication } from '../ledger.ts';
import type { Owner } from '../owner.ts';
import { endLease, holdBlobs, inPieces, toBlob } from './blob-rows.ts';
import { toJson } from './columns.ts';
import { transact, type Engine } from './engine.ts';
import { collection } from './ledger-collect.ts';
import { holdLease, leases } from './ledger-leases.ts';
import { packs } from './ledger-packs.ts';
import { lockVm } from './operations.ts';
import { lockSnapshot } from './snapshot-lock.ts';
import { getSnapshot } from './snapshots.ts';
import type { Tables } from './tables.ts';

/** The rows of what lies in the home of blobs, behind their interface. */
export function ledger(engine: Engine): Ledger {
  const { db } = engine;
  return {
    ...leases(engine),
    ...collection(engine),
    ...packs(engine),
    async secret(accountId, make) {
      const get = () =>
        db
          .selectFrom('account_secrets')
          .select('secret')
          .where('account_id', '=', accountId)
          .executeTakeFirst();
      const there = await get();
      if (there) return there.secret;
      await db
        .insertInto('account_secrets')
        .values({ account_id: accountId, secret: make() })
        .onConflict((conflict) => conflict.column('account_id').doNothing())
        .execute();
      const made = await get();
      if (!made) throw new Error(`the secret of ${accountId} is not there right after it was made`);
      return made.secret;
    },
    async changeSecret(accountId, from, to) {
      const { numUpdatedRows } = await db
        .updateTable('account_secrets')
        .set({ secret: to })
        .where('account_id', '=', accountId)
        .where('secret', '=', from)
        .executeTakeFirst();
      return numUpdatedRows > 0n;
    },
    publish: (id, owner, publication) =>
      transact(engine, (trx) => publish(engine, trx, id, owner, publication)),
    async get(id) {
      const row = await db.selectFrom('blobs').selectAll().where('id', '=', id).executeTakeFirst();
      return row ? toBlob(row) : null;
    },
    async ofSnapshot(snapshotId) {
      const rows = await db
        .selectFrom('snapshot_blobs')
        .innerJoin('blobs', 'blobs.id', 'snapshot_blobs.blob_id')
        .selectAll('blobs')
        .where('snapshot_blobs.snapshot_id', '=', snapshotId)
        .orderBy('blobs.id')
        .execute();
      return rows.map(toBlob);
    },
    async use(accountId) {
      const { count, sum } = await db
        .selectFrom('blobs')
        .select([
          sql<number>`count(*)`.as('count'),
          sql<number>`cast(coalesce(sum(bytes), 0) as bigint)`.as('sum'),
        ])
        .where('account_id', '=', accountId)
        .where('state', 'in', ['live', 'bad'])
        .executeTakeFirstOrThrow();
      return { blobs: count, bytes: sum };
    },
  };
}

async function publish(
  engine: Engine,
  trx: Transaction<Tables>,
  id: LeaseId,
  owner: Owner | null,
  { manifest, packs }: Publication,
): Promise<Snapshot | null> {
  const lease = await trx.selectFrom('leases').selectAll().where('id', '=', id).executeTakeFirst();
  if (!lease) return alreadyPublished(trx, manifest);
  if (lease.kind === 'read') throw new Error('a reader has nothing to publish');
  const snapshotId = lease.snapshot_id;
  if (!(await lockSnapshot(trx, snapshotId))) return null;
  if (lease.kind === 'upload') {
    const same = owner?.hostId === lease.host_id && owner.epoch === lease.epoch;
    if (!same || !(await lockVm(trx, lease.vm_id, owner))) return null;
  }
  if (!(await holdLease(trx, id))) return null;
  const fresh = await nameBlobs(engine, trx, { id, snapshotId }, { manifest, packs });
  await trx
    .updateTable('snapshots')
    .set({
      state: 'durable',
      manifest: toJson({ name: manifest.name, sha256: manifest.sha256 }),
      problem: null,
      ...(lease.kind === 'upload' ? { stored_bytes: fresh } : {}),
    })
    .where('id', '=', snapshotId)
    .execute();
  await endLease(engine, trx, id);
  return getSnapshot(trx, snapshotId);
}

/** Makes a snapshot name these blobs and no others, those that were on their way live; gives how many bytes are new. */
async function nameBlobs(
  engine: Engine,
  trx: Transaction<Tables>,
  { id, snapshotId }: { readonly id: LeaseId; readonly snapshotId: SnapshotId },
  { manifest, packs }: Publication,
): Promise<number> {
  const used = new Map<BlobId, number | undefined>([
    ...packs.map((pack) => [pack.id, pack.bytes] as const),
    [manifest.id, undefined],
  ]);
  const held = await holdBlobs(engine, trx, [...used.keys()], 'share');
  const leased = new Map(
    (
      await trx.selectFrom('lease_blobs').select(['blob_id', 'arrived']).where('lease_id', '=', id).execute()
    ).map((row) => [row.blob_id, row.arrived === 1]),
  );
  for (const blob of used.keys())
    if (leased.get(blob) !== true)
      throw new Error(`${blob} is to be published and ${leased.has(blob) ? 'never arrived' : 'is not held'}`);
  const bad = held.filter((row) => row.state === 'bad').map((row) => row.id);
  if (bad.length > 0) throw new BadBlobs(bad);
  await trx.deleteFrom('snapshot_blobs').where('snapshot_id', '=', snapshotId).execute();
  const rows = held.map((row) => ({
    snapshot_id: snapshotId,
    blob_id: row.id,
    used_bytes: used.get(row.id) ?? row.bytes,
  }));
  for (const piece of inPieces(rows)) await trx.insertInto('snapshot_blobs').values(piece).execute();
  const fresh = held.filter((row) => row.state === 'uploading');
  for (const piece of inPieces(fresh)) {
    await trx
      .updateTable('blobs')
      .set({ state: 'live', state_at: engine.now })
      .where(
        'id',
        'in',
        piece.map((row) => row.id),
      )
      .execute();
  }
  return fresh.reduce((sum, row) => sum + row.bytes, 0);
}

/** What the lease had made durable when its answer was lost; null: it was something else that ended it. */
async function alreadyPublished(
  trx: Kysely<Tables>,
  manifest: Publication['manifest'],
): Promise<Snapshot | null> {
  const row = await trx
    .selectFrom('snapshot_blobs')
    .select('snapshot_id')
    .where('blob_id', '=', manifest.id)
    .executeTakeFirst();
  const snapshot = row && (await getSnapshot(trx, row.snapshot_id));
  return snapshot?.manifest?.sha256 === manifest.sha256 ? snapshot : null;
}
