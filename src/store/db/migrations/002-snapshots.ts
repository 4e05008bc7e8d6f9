import type { Kysely } from 'kysely';
import type { Migration } from 'kysely/migration';
import { counted } from './001-first.ts';

/** Snapshots, and what of a VM depends on one. */
export function snapshots(engine: 'sqlite' | 'postgres'): Migration {
  return {
    async up(db: Kysely<unknown>) {
      await counted(db, engine, 'snapshots')
        .addColumn('id', 'text', (column) => column.notNull())
        .addColumn('account_id', 'text', (column) => column.notNull().references('accounts.id'))
        .addColumn('vm_id', 'text', (column) => column.notNull().references('vms.id'))
        .addColumn('name', 'text')
        .addColumn('kind', 'text', (column) => column.notNull())
        .addColumn('state', 'text', (column) => column.notNull())
        .addColumn('host_id', 'text', (column) => column.references('hosts.id'))
        .addColumn('image_account_id', 'text', (column) => column.notNull())
        .addColumn('image_id', 'text', (column) => column.notNull())
        .addColumn('vcpu_count', 'integer', (column) => column.notNull())
        .addColumn('mem_mib', 'integer', (column) => column.notNull())
        .addColumn('disk_mib', 'integer')
        .addColumn('saved_on', 'text', (column) => column.notNull())
        .addColumn('guest', 'text', (column) => column.notNull())
        .addColumn('parent_id', 'text')
        .addColumn('disk_layer_id', 'text')
        .addColumn('memory_layer_id', 'text')
        .addColumn('state_layer_id', 'text')
        .addColumn('logical_bytes', 'bigint', (column) => column.notNull())
        .addColumn('stored_bytes', 'bigint')
        .addColumn('manifest', 'text')
        .addColumn('verified_at', 'bigint')
        .addColumn('used_at', 'bigint', (column) => column.notNull())
        .addColumn('problem', 'text')
        .addColumn('created_at', 'bigint', (column) => column.notNull())
        .addUniqueConstraint('snapshots_id', ['id'])
        .addUniqueConstraint('snapshots_name', ['account_id', 'name'])
        .addForeignKeyConstraint('snapshots_image', ['image_account_id', 'image_id'], 'images', [
          'account_id',
          'id',
        ])
        .addForeignKeyConstraint('snapshots_disk', ['disk_layer_id'], 'layers', ['id'])
        .addForeignKeyConstraint('snapshots_memory', ['memory_layer_id'], 'layers', ['id'])
        .addForeignKeyConstraint('snapshots_saved_state', ['state_layer_id'], 'layers', ['id'])
        .execute();
      const indexes = {
        snapshots_list: ['account_id', 'seq'],
        snapshots_by_vm: ['vm_id', 'seq'],
        snapshots_by_host: ['host_id', 'used_at'],
        snapshots_by_image: ['image_account_id', 'image_id'],
        snapshots_by_disk: ['disk_layer_id'],
        snapshots_by_memory: ['memory_layer_id'],
        snapshots_by_saved_state: ['state_layer_id'],
      };
      for (const [name, columns] of Object.entries(indexes)) {
        await db.schema.createIndex(name).on('snapshots').columns(columns).execute();
      }
      // One statement each: SQLite adds one column at a time.
      await db.schema.alterTable('vms').addColumn('snapshot_id', 'text').execute();
      await db.schema.alterTable('vms').addColumn('instance_id', 'text').execute();
      await db.schema
        .alterTable('vms')
        .addColumn('memory_layer_id', 'text', (column) => column.references('layers.id'))
        .execute();
      await db.schema.createIndex('vms_by_memory').on('vms').columns(['memory_layer_id']).execute();
      await db.schema
        .createIndex('vms_by_parent_snapshot')
        .on('vms')
        .columns(['parent_snapshot_id'])
        .execute();
    },
  };
}
