import { sql, type Kysely, type Selectable, type Transaction } from 'kysely';
import type { SnapshotId } from '../../base/ids.ts';
import type { BlobId, LeaseId, StoredBlob } from '../ledger.ts';
import type { Engine } from './engine.ts';
import type { BlobsTable, Tables } from './tables.ts';

/** Blobs nobody may need, as long as nobody names them. */
const COLLECTABLE = ['uploading', 'live', 'bad'] as const;
/** Parameters of one statement: both engines have a limit. */
const PIECE = 500;

/**
 * Holds blobs' rows until the transaction ends, in the order of their ids, and gives them. `share`: to build on them; `update`:
 * to take them away. Whoever did the one first, the other waits for, and then looks in a statement of its own: one statement
 * would not see what was written while it waited. On SQLite a transaction is alone.
 */
export async function holdBlobs(
  { name }: Pick<Engine, 'name'>,
  trx: Transaction<Tables>,
  ids: readonly BlobId[],
  strength: 'share' | 'update',
): Promise<readonly Selectable<BlobsTable>[]> {
  const rows: Selectable<BlobsTable>[] = [];
  for (const piece of inPieces([...ids].sort())) {
    const query = trx.selectFrom('blobs').selectAll().where('id', 'in', piece).orderBy('id');
    const held = name === 'sqlite' ? query : strength === 'share' ? query.forShare() : query.forUpdate();
    rows.push(...(await held.execute()));
  }
  return rows;
}

/** Condemns those of the blobs that no snapshot and no lease names; holds their rows first. */
export async function condemnUnneeded(
  engine: Engine,
  trx: Transaction<Tables>,
  ids: readonly BlobId[],
): Promise<void> {
  await holdBlobs(engine, trx, ids, 'update');
  for (const piece of inPieces(ids)) {
    await trx
      .updateTable('blobs')
      .set({ state: 'condemned', state_at: engine.now })
      .where('id', 'in', piece)
      .where('state', 'in', COLLECTABLE)
      .where(unneeded)
      .execute();
  }
}

/** Blobs that nobody seems to need, the longest in their state first. */
export async function seemUnneeded(db: Kysely<Tables>, limit: number): Promise<readonly BlobId[]> {
  const rows = await db
    .selectFrom('blobs')
    .select('id')
    .where('state', 'in', COLLECTABLE)
    .where(unneeded)
    .orderBy('state_at')
    .limit(limit)
    .execute();
  return rows.map((row) => row.id);
}

/** That a row of `blobs` is named by no snapshot and no lease. */
export const unneeded = sql<boolean>`(
  not exists (select 1 from snapshot_blobs where snapshot_blobs.blob_id = blobs.id)
  and not exists (select 1 from lease_blobs where lease_blobs.blob_id = blobs.id))`;

/** Ends a lease, and condemns what of it was on its way. */
export async function endLease(engine: Engine, trx: Transaction<Tables>, id: LeaseId): Promise<void> {
  const under = await trx
    .selectFrom('lease_blobs')
    .innerJoin('blobs', 'blobs.id', 'lease_blobs.blob_id')
    .select('blobs.id')
    .where('lease_blobs.lease_id', '=', id)
    .where('blobs.state', '=', 'uploading')
    .execute();
  await trx.deleteFrom('leases').where('id', '=', id).execute();
  await condemnUnneeded(
    engine,
    trx,
    under.map((row) => row.id),
  );
}

/** Forgets what a snapshot is made of, and ends what would make it durable; who reads it at the moment goes on. */
export async function dropReferences(
  engine: Engine,
  trx: Transaction<Tables>,
  snapshotId: SnapshotId,
): Promise<void> {
  await trx.deleteFrom('snapshot_blobs').where('snapshot_id', '=', snapshotId).execute();
  const making = await trx
    .selectFrom('leases')
    .select('id')
    .where('snapshot_id', '=', snapshotId)
    .where('kind', '!=', 'read')
    .execute();
  for (const { id } of making) await endLease(engine, trx, id);
}

/** Splits what goes into a statement. */
export function* inPieces<T>(all: readonly T[]): Generator<readonly T[]> {
  for (let at = 0; at < all.length; at += PIECE) yield all.slice(at, at + PIECE);
}

/** The row as the ledger shows it. */
export function toBlob(row: Omit<Selectable<BlobsTable>, 'gone_at'>): StoredBlob {
  return {
    id: row.id,
    kind: row.kind,
    accountId: row.account_id,
    bytes: row.bytes,
    state: row.state,
    stateAt: row.state_at,
    verifiedAt: row.verified_at,
  };
}
