import { sql } from 'kysely';
import type { SnapshotId } from '../../base/ids.ts';
import type { BlobId, Ledger } from '../ledger.ts';
import { inPieces, toBlob } from './blob-rows.ts';
import type { Engine } from './engine.ts';

/** That every snapshot which names a row of `blobs` is durable: one that is not cannot be made anew of other packs. */
const allDurable = sql<boolean>`not exists (
  select 1 from snapshot_blobs as naming inner join snapshots on snapshots.id = naming.snapshot_id
  where naming.blob_id = blobs.id and snapshots.state <> 'durable')`;

/** That no upload builds on a row of `blobs`. Only to spare work: who merges it all the same takes nothing from the upload. */
const notBuiltOn = sql<boolean>`not exists (
  select 1 from lease_blobs inner join leases on leases.id = lease_blobs.lease_id
  where lease_blobs.blob_id = blobs.id and leases.kind = 'upload')`;

const named = sql<number>`(select count(*) from snapshot_blobs as naming where naming.blob_id = blobs.id)`;

/** Packs that are worth to be written anew. */
export function packs(engine: Engine): Pick<Ledger, 'sparse' | 'small'> {
  const { db, now } = engine;
  const ago = (ms: number) => sql<number>`${now} - ${sql.lit(ms)}`;
  return {
    async sparse({ ageMs, limit }) {
      const rows = await db
        .selectFrom('blobs')
        .innerJoin('snapshot_blobs', 'snapshot_blobs.blob_id', 'blobs.id')
        .selectAll('blobs')
        .select((eb) => [
          eb.fn.max<number>('snapshot_blobs.used_bytes').as('least'),
          sql<number>`cast(sum(snapshot_blobs.used_bytes) as bigint)`.as('most'),
        ])
        .where('blobs.state', '=', 'live')
        .where('blobs.kind', '=', 'pack')
        .where('blobs.state_at', '<=', ago(ageMs))
        .where(allDurable)
        .groupBy('blobs.id')
        .having(sql<boolean>`max(snapshot_blobs.used_bytes) * 2 < blobs.bytes`)
        .orderBy(sql`max(snapshot_blobs.used_bytes) * 1.0 / blobs.bytes`)
        .limit(limit)
        .execute();
      const snapshots = await namedBy(
        engine,
        rows.map((row) => row.id),
      );
      return rows.map((row) => ({
        ...toBlob(row),
        least: row.least,
        most: row.most,
        snapshots: snapshots.get(row.id) ?? [],
      }));
    },
    async small({ ageMs, classes, atLeast, namedAtMost, limit }) {
      const largest = classes.at(-1);
      if (largest === undefined) return [];
      const when = classes.map((bound, index) => sql`when bytes < ${sql.lit(bound)} then ${sql.lit(index)}`);
      const rows = await db
        .with('found', (with_) =>
          with_
            .selectFrom('blobs')
            .selectAll()
            .select(sql<number>`case ${sql.join(when, sql` `)} end`.as('class'))
            .where('state', '=', 'live')
            .where('kind', '=', 'pack')
            .where('bytes', '<', largest)
            .where('state_at', '<=', ago(ageMs))
            .where(named, '>', 0)
            .where(named, '<=', namedAtMost)
            .where(allDurable)
            .where(notBuiltOn),
        )
        .with('counted', (with_) =>
          with_
            .selectFrom('found')
            .selectAll()
            .select(sql<number>`count(*) over (partition by account_id, class)`.as('alike')),
        )
        .selectFrom('counted')
        .selectAll()
        .where('alike', '>=', atLeast)
        .orderBy('alike', 'desc')
        .orderBy('account_id')
        .orderBy('class')
        .orderBy('state_at')
        .orderBy('id')
        .limit(limit)
        .execute();
      const snapshots = await namedBy(
        engine,
        rows.map((row) => row.id),
      );
      return rows.map((row) => ({ ...toBlob(row), snapshots: snapshots.get(row.id) ?? [] }));
    },
  };
}

/** Which snapshots name each of these blobs. */
async function namedBy(
  { db }: Engine,
  ids: readonly BlobId[],
): Promise<ReadonlyMap<BlobId, readonly SnapshotId[]>> {
  const found = new Map<BlobId, SnapshotId[]>(ids.map((id) => [id, []]));
  for (const piece of inPieces(ids)) {
    const rows = await db
      .selectFrom('snapshot_blobs')
      .select(['blob_id', 'snapshot_id'])
      .where('blob_id', 'in', piece)
      .orderBy('snapshot_id')
      .execute();
    for (const row of rows) found.get(row.blob_id)?.push(row.snapshot_id);
  }
  return found;
}
