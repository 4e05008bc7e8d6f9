import { sql, type Kysely } from 'kysely';
import type { Migration } from 'kysely/migration';

/** What a host has under way is looked for each minute, among all that was ever done. */
export function unfinished(): Migration {
  return {
    async up(db: Kysely<unknown>) {
      await db.schema
        .createIndex('operations_unfinished_of_host')
        .on('operations')
        .columns(['host_id', 'seq'])
        .where(sql.ref('finished_at'), 'is', null)
        .execute();
    },
  };
}
