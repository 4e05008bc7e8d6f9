import type { Transaction } from 'kysely';
import type { SnapshotId } from '../../base/ids.ts';
import type { Tables } from './tables.ts';

/**
 * Holds a snapshot's row until the transaction ends; false when there is none. Who copies it and who removes it both hold it first,
 * and look at the other in a statement of its own: one statement would not see what was written while it waited.
 */
export async function lockSnapshot(trx: Transaction<Tables>, id: SnapshotId): Promise<boolean> {
  const { numUpdatedRows } = await trx
    .updateTable('snapshots')
    .set((row) => ({ used_at: row.ref('used_at') }))
    .where('id', '=', id)
    .executeTakeFirst();
  return numUpdatedRows > 0n;
}
