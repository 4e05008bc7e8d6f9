import type { Kysely } from 'kysely';
import type { Migration } from 'kysely/migration';

/** Answers to requests that were sent with an Idempotency-Key. */
export function idempotency(): Migration {
  return {
    async up(db: Kysely<unknown>) {
      await db.schema
        .createTable('idempotency_keys')
        .addColumn('account_id', 'text', (column) => column.notNull().references('accounts.id'))
        .addColumn('key', 'text', (column) => column.notNull())
        .addColumn('fingerprint', 'text', (column) => column.notNull())
        .addColumn('secret', 'text', (column) => column.notNull())
        .addColumn('worker', 'text')
        .addColumn('status', 'integer')
        .addColumn('body', 'text')
        .addColumn('location', 'text')
        .addColumn('created_at', 'bigint', (column) => column.notNull())
        .addPrimaryKeyConstraint('idempotency_keys_pkey', ['account_id', 'key'])
        .execute();
      await db.schema
        .createIndex('idempotency_keys_by_time')
        .on('idempotency_keys')
        .columns(['created_at'])
        .execute();
    },
  };
}
