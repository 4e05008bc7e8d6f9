import { sql, type Kysely } from 'kysely';
import type { Migration } from 'kysely/migration';
import { counted } from './001-first.ts';

/** What lies in the home of blobs: whose it is, which snapshots name it, and who needs it at the moment. */
export function ledger(engine: 'sqlite' | 'postgres'): Migration {
  return {
    async up(db: Kysely<unknown>) {
      await db.schema
        .createTable('account_secrets')
        .addColumn('account_id', 'text', (column) => column.primaryKey().references('accounts.id'))
        .addColumn('secret', 'text', (column) => column.notNull())
        .execute();
      await blobs(db);
      await leases(db, engine);
    },
  };
}

async function blobs(db: Kysely<unknown>): Promise<void> {
  await db.schema
    .createTable('blobs')
    .addColumn('id', 'text', (column) => column.primaryKey())
    .addColumn('kind', 'text', (column) => column.notNull())
    .addColumn('account_id', 'text', (column) => column.notNull().references('accounts.id'))
    .addColumn('bytes', 'bigint', (column) => column.notNull())
    .addColumn('state', 'text', (column) => column.notNull())
    .addColumn('state_at', 'bigint', (column) => column.notNull())
    .addColumn('verified_at', 'bigint')
    .addColumn('gone_at', 'bigint')
    .execute();
  await db.schema.createIndex('blobs_by_state').on('blobs').columns(['state', 'state_at']).execute();
  await db.schema.createIndex('blobs_by_account').on('blobs').columns(['account_id', 'state']).execute();
  // Tombstones are kept for ever, and most of them are of no interest any more.
  await db.schema
    .createIndex('blobs_to_remove')
    .on('blobs')
    .columns(['state_at'])
    .where(sql.ref('state'), '=', sql.lit('deleted'))
    .where(sql.ref('gone_at'), 'is', null)
    .execute();
  await db.schema
    .createTable('snapshot_blobs')
    .addColumn('snapshot_id', 'text', (column) => column.notNull().references('snapshots.id'))
    .addColumn('blob_id', 'text', (column) => column.notNull().references('blobs.id'))
    .addColumn('used_bytes', 'bigint', (column) => column.notNull())
    .addPrimaryKeyConstraint('snapshot_blobs_key', ['snapshot_id', 'blob_id'])
    .execute();
  await db.schema.createIndex('snapshot_blobs_by_blob').on('snapshot_blobs').columns(['blob_id']).execute();
}

async function leases(db: Kysely<unknown>, engine: 'sqlite' | 'postgres'): Promise<void> {
  // No foreign key to the snapshot: who reads it may go on after it was removed.
  await counted(db, engine, 'leases')
    .addColumn('id', 'text', (column) => column.notNull())
    .addColumn('kind', 'text', (column) => column.notNull())
    .addColumn('snapshot_id', 'text', (column) => column.notNull())
    .addColumn('vm_id', 'text', (column) => column.notNull())
    .addColumn('host_id', 'text', (column) => column.notNull())
    .addColumn('epoch', 'integer')
    .addColumn('lease_until', 'bigint', (column) => column.notNull())
    .addUniqueConstraint('leases_id', ['id'])
    .execute();
  await db.schema.createIndex('leases_by_end').on('leases').columns(['lease_until']).execute();
  await db.schema.createIndex('leases_by_snapshot').on('leases').columns(['snapshot_id']).execute();
  await db.schema
    .createIndex('leases_upload')
    .unique()
    .on('leases')
    .columns(['vm_id'])
    .where(sql.ref('kind'), '=', sql.lit('upload'))
    .execute();
  await db.schema
    .createIndex('leases_rewrite')
    .unique()
    .on('leases')
    .columns(['snapshot_id'])
    .where(sql.ref('kind'), '=', sql.lit('rewrite'))
    .execute();
  await db.schema
    .createTable('lease_blobs')
    .addColumn('lease_id', 'text', (column) => column.notNull().references('leases.id').onDelete('cascade'))
    .addColumn('blob_id', 'text', (column) => column.notNull().references('blobs.id'))
    .addColumn('reused', 'integer', (column) => column.notNull())
    .addColumn('arrived', 'integer', (column) => column.notNull())
    .addPrimaryKeyConstraint('lease_blobs_key', ['lease_id', 'blob_id'])
    .execute();
  await db.schema.createIndex('lease_blobs_by_blob').on('lease_blobs').columns(['blob_id']).execute();
}
