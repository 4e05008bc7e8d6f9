import { sql, type Selectable } from 'kysely';
import type { Ledger } from '../ledger.ts';
import { condemnUnneeded, holdBlobs, inPieces, seemUnneeded, toBlob, unneeded } from './blob-rows.ts';
import { toText } from './columns.ts';
import { transact, type Engine } from './engine.ts';
import { endUnfinished } from './ledger-leases.ts';
import { lockSnapshot } from './snapshot-lock.ts';
import type { LeasesTable } from './tables.ts';

type Collection = Pick<Ledger, 'collect' | 'gone' | 'namedBy' | 'unverified' | 'verified' | 'spoiled'>;

const RAN_OUT = 'Its upload stopped: nothing was heard of it for too long. It is begun again.';

/** Taking away what nobody needs, and looking after what is kept. */
export function collection(engine: Engine): Collection {
  const { db, now } = engine;
  const ago = (ms: number) => sql<number>`${now} - ${sql.lit(ms)}`;
  return {
    async collect({ graceMs, limit }) {
      await reap(engine, limit);
      for (const ids of inPieces(await seemUnneeded(db, limit)))
        await transact(engine, (trx) => condemnUnneeded(engine, trx, ids));
      await doom(engine, graceMs, limit);
      const rows = await db
        .selectFrom('blobs')
        .selectAll()
        .where('state', '=', 'deleted')
        .where('gone_at', 'is', null)
        .orderBy('state_at')
        .limit(limit)
        .execute();
      return rows.map(toBlob);
    },
    async gone(id) {
      await db
        .updateTable('blobs')
        .set({ gone_at: now })
        .where('id', '=', id)
        .where('state', '=', 'deleted')
        .execute();
    },
    async unverified({ ageMs, limit }) {
      const since = sql<number>`coalesce(verified_at, state_at)`;
      const rows = await db
        .selectFrom('blobs')
        .selectAll()
        .where('state', '=', 'live')
        .where(since, '<=', ago(ageMs))
        .orderBy(since)
        .limit(limit)
        .execute();
      return rows.map(toBlob);
    },
    async namedBy(id) {
      const rows = await db
        .selectFrom('snapshot_blobs')
        .select('snapshot_id')
        .where('blob_id', '=', id)
        .orderBy('snapshot_id')
        .execute();
      return rows.map((row) => row.snapshot_id);
    },
    verified: (id) =>
      transact(engine, async (trx) => {
        const [held] = await holdBlobs(engine, trx, [id], 'update');
        if (held?.state !== 'live' && held?.state !== 'bad') return [];
        await trx
          .updateTable('blobs')
          .set({ verified_at: now, ...(held.state === 'bad' ? { state: 'live', state_at: now } : {}) })
          .where('id', '=', id)
          .execute();
        if (held.state === 'live') return [];
        const healed = await trx
          .updateTable('snapshots')
          .set({ state: 'durable', problem: null })
          .where('state', '=', 'damaged')
          .where('id', 'in', (eb) =>
            eb.selectFrom('snapshot_blobs').select('snapshot_id').where('blob_id', '=', id),
          )
          .where(
            sql<boolean>`not exists (
              select 1 from snapshot_blobs inner join blobs on blobs.id = snapshot_blobs.blob_id
              where snapshot_blobs.snapshot_id = snapshots.id and blobs.state = 'bad')`,
          )
          .returning('id')
          .execute();
        return healed.map((row) => row.id);
      }),
    spoiled: (id, problem) =>
      transact(engine, async (trx) => {
        const [held] = await holdBlobs(engine, trx, [id], 'update');
        if (held?.state !== 'live' && held?.state !== 'bad') return [];
        if (held.state === 'live')
          await trx.updateTable('blobs').set({ state: 'bad', state_at: now }).where('id', '=', id).execute();
        const hurt = await trx
          .updateTable('snapshots')
          .set({ state: 'damaged', problem: toText(problem) })
          .where('state', '=', 'durable')
          .where('id', 'in', (eb) =>
            eb.selectFrom('snapshot_blobs').select('snapshot_id').where('blob_id', '=', id),
          )
          .returning('id')
          .execute();
        return hurt.map((row) => row.id);
      }),
  };
}

/** Ends leases that ran out: whoever held one finds out at its next step. */
async function reap(engine: Engine, limit: number): Promise<void> {
  const over = await engine.db
    .selectFrom('leases')
    .selectAll()
    .where('lease_until', '<=', engine.now)
    .orderBy('lease_until')
    .limit(limit)
    .execute();
  for (const lease of over) await reapOne(engine, lease);
}

async function reapOne(engine: Engine, lease: Selectable<LeasesTable>): Promise<void> {
  await transact(engine, async (trx) => {
    await lockSnapshot(trx, lease.snapshot_id);
    const { numUpdatedRows } = await trx
      .updateTable('leases')
      .set((row) => ({ lease_until: row.ref('lease_until') }))
      .where('id', '=', lease.id)
      .where('lease_until', '<=', engine.now)
      .executeTakeFirst();
    if (numUpdatedRows > 0n) await endUnfinished(engine, trx, lease, RAN_OUT);
  });
}

/** Deletes, as far as the rows go, what was condemned long enough ago. From here on there is no way back. */
async function doom(engine: Engine, graceMs: number, limit: number): Promise<void> {
  const before = sql<number>`${engine.now} - ${sql.lit(graceMs)}`;
  const due = await engine.db
    .selectFrom('blobs')
    .select('id')
    .where('state', '=', 'condemned')
    .where('state_at', '<=', before)
    .orderBy('state_at')
    .limit(limit)
    .execute();
  for (const piece of inPieces(due.map((row) => row.id))) {
    await transact(engine, async (trx) => {
      await holdBlobs(engine, trx, piece, 'update');
      await trx
        .updateTable('blobs')
        .set({ state: 'deleted', state_at: engine.now })
        .where('id', 'in', piece)
        .where('state', '=', 'condemned')
        .where('state_at', '<=', before)
        .where(unneeded)
        .execute();
    });
  }
}
