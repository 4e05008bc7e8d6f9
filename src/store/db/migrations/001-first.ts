import { sql, type CreateTableBuilder, type Kysely } from 'kysely';
import type { Migration } from 'kysely/migration';

type Table<Columns extends string> = CreateTableBuilder<string, Columns>;

/** Begins a table with the database's own count of its rows: `seq`. SQLite never gives a number twice (autoincrement). */
export function counted(db: Kysely<unknown>, engine: 'sqlite' | 'postgres', name: string): Table<'seq'> {
  const table = db.schema.createTable(name);
  return engine === 'sqlite'
    ? table.addColumn('seq', 'integer', (column) => column.primaryKey().autoIncrement())
    : table.addColumn('seq', 'bigint', (column) => column.primaryKey().generatedAlwaysAsIdentity());
}

/** The first schema. Text ids are unique beside `seq`; names of constraints are known to `violation.ts`. */
export function first(engine: 'sqlite' | 'postgres'): Migration {
  return {
    async up(db: Kysely<unknown>) {
      await hostsAndAccounts(db, engine);
      await imagesAndTemplates(db, engine);
      await layers(db, engine);
      await vms(db, engine);
      await operations(db, engine);
      await events(db, engine);
    },
  };
}

async function hostsAndAccounts(db: Kysely<unknown>, engine: 'sqlite' | 'postgres'): Promise<void> {
  await db.schema
    .createTable('hosts')
    .addColumn('id', 'text', (column) => column.primaryKey())
    .addColumn('boot_id', 'text', (column) => column.notNull())
    .addColumn('seen_at', 'bigint', (column) => column.notNull())
    .execute();
  await counted(db, engine, 'accounts')
    .addColumn('id', 'text', (column) => column.notNull())
    .addColumn('name', 'text', (column) => column.notNull())
    .addColumn('quotas', 'text', (column) => column.notNull())
    .addColumn('created_at', 'bigint', (column) => column.notNull())
    .addUniqueConstraint('accounts_id', ['id'])
    .addUniqueConstraint('accounts_name', ['name'])
    .execute();
  await counted(db, engine, 'api_keys')
    .addColumn('id', 'text', (column) => column.notNull())
    .addColumn('account_id', 'text', (column) => column.notNull().references('accounts.id'))
    .addColumn('name', 'text', (column) => column.notNull())
    .addColumn('scopes', 'text', (column) => column.notNull())
    .addColumn('prefix', 'text', (column) => column.notNull())
    .addColumn('hash', 'text', (column) => column.notNull())
    .addColumn('expires_at', 'bigint')
    .addColumn('revoked_at', 'bigint')
    .addColumn('last_used_at', 'bigint')
    .addColumn('created_at', 'bigint', (column) => column.notNull())
    .addUniqueConstraint('api_keys_id', ['id'])
    .addUniqueConstraint('api_keys_hash', ['hash'])
    .execute();
  await db.schema.createIndex('api_keys_list').on('api_keys').columns(['account_id', 'seq']).execute();
}

async function imagesAndTemplates(db: Kysely<unknown>, engine: 'sqlite' | 'postgres'): Promise<void> {
  await counted(db, engine, 'images')
    .addColumn('account_id', 'text', (column) => column.notNull().references('accounts.id'))
    .addColumn('id', 'text', (column) => column.notNull())
    .addColumn('kernel_path', 'text', (column) => column.notNull())
    .addColumn('vmlinux_path', 'text')
    .addColumn('initrd_path', 'text')
    .addColumn('rootfs_path', 'text', (column) => column.notNull())
    .addColumn('rootfs_format', 'text', (column) => column.notNull())
    .addColumn('boot_args', 'text')
    .addColumn('default_user', 'text', (column) => column.notNull())
    .addColumn('agent', 'integer')
    .addColumn('size_bytes', 'bigint', (column) => column.notNull())
    .addColumn('sha256', 'text')
    .addColumn('created_at', 'bigint', (column) => column.notNull())
    .addUniqueConstraint('images_id', ['account_id', 'id'])
    .execute();
  await db.schema.createIndex('images_list').on('images').columns(['account_id', 'seq']).execute();
  await counted(db, engine, 'templates')
    .addColumn('account_id', 'text', (column) => column.notNull().references('accounts.id'))
    .addColumn('id', 'text', (column) => column.notNull())
    .addColumn('description', 'text')
    .addColumn('image_account_id', 'text')
    .addColumn('image_id', 'text')
    .addColumn('vcpu_count', 'integer')
    .addColumn('mem_mib', 'integer')
    .addColumn('disk_mib', 'integer')
    .addColumn('boot_args', 'text')
    .addColumn('idle', 'text')
    .addColumn('labels', 'text', (column) => column.notNull())
    .addColumn('created_at', 'bigint', (column) => column.notNull())
    .addColumn('updated_at', 'bigint', (column) => column.notNull())
    .addColumn('user_data', 'text')
    .addUniqueConstraint('templates_id', ['account_id', 'id'])
    .addForeignKeyConstraint('templates_image', ['image_account_id', 'image_id'], 'images', [
      'account_id',
      'id',
    ])
    .execute();
  await db.schema.createIndex('templates_list').on('templates').columns(['account_id', 'seq']).execute();
  await db.schema
    .createIndex('templates_by_image')
    .on('templates')
    .columns(['image_account_id', 'image_id'])
    .execute();
}

async function layers(db: Kysely<unknown>, engine: 'sqlite' | 'postgres'): Promise<void> {
  await counted(db, engine, 'layers')
    .addColumn('id', 'text', (column) => column.notNull())
    .addColumn('host_id', 'text', (column) => column.notNull().references('hosts.id'))
    .addColumn('kind', 'text', (column) => column.notNull())
    .addColumn('path', 'text', (column) => column.notNull())
    .addColumn('format', 'text', (column) => column.notNull())
    .addColumn('parent_id', 'text')
    .addColumn('image_account_id', 'text')
    .addColumn('image_id', 'text')
    .addColumn('frozen', 'integer', (column) => column.notNull())
    .addColumn('created_at', 'bigint', (column) => column.notNull())
    .addUniqueConstraint('layers_id', ['id'])
    .addForeignKeyConstraint('layers_parent', ['parent_id'], 'layers', ['id'])
    .addForeignKeyConstraint('layers_image', ['image_account_id', 'image_id'], 'images', ['account_id', 'id'])
    .execute();
  await db.schema.createIndex('layers_list').on('layers').columns(['host_id', 'seq']).execute();
  await db.schema.createIndex('layers_by_parent').on('layers').columns(['parent_id']).execute();
  await db.schema
    .createIndex('layers_by_image')
    .on('layers')
    .columns(['image_account_id', 'image_id'])
    .execute();
}

async function vms(db: Kysely<unknown>, engine: 'sqlite' | 'postgres'): Promise<void> {
  await counted(db, engine, 'vms')
    .addColumn('id', 'text', (column) => column.notNull())
    .addColumn('account_id', 'text', (column) => column.notNull().references('accounts.id'))
    .addColumn('host_id', 'text', (column) => column.references('hosts.id'))
    .addColumn('epoch', 'integer', (column) => column.notNull())
    .addColumn('name', 'text')
    .addColumn('image_account_id', 'text', (column) => column.notNull())
    .addColumn('image_id', 'text', (column) => column.notNull())
    .addColumn('template_account_id', 'text')
    .addColumn('template_id', 'text')
    .addColumn('parent_snapshot_id', 'text')
    .addColumn('state', 'text', (column) => column.notNull())
    .addColumn('state_reason', 'text')
    .addColumn('stopped_by', 'text')
    .addColumn('vcpu_count', 'integer', (column) => column.notNull())
    .addColumn('mem_mib', 'integer', (column) => column.notNull())
    .addColumn('disk_mib', 'integer')
    .addColumn('boot_args', 'text')
    .addColumn('network_id', 'text')
    .addColumn('guest_ip', 'text')
    .addColumn('guest_mac', 'text')
    .addColumn('gateway_id', 'text')
    .addColumn('ssh_port', 'integer')
    .addColumn('ssh_authorized_keys', 'text', (column) => column.notNull())
    .addColumn('idle', 'text')
    .addColumn('autostart', 'integer', (column) => column.notNull())
    .addColumn('labels', 'text', (column) => column.notNull())
    .addColumn('ready_at', 'bigint')
    .addColumn('last_active_at', 'bigint')
    .addColumn('vmm', 'text')
    .addColumn('accel', 'text')
    .addColumn('process', 'text')
    .addColumn('layer_id', 'text')
    .addColumn('created_at', 'bigint', (column) => column.notNull())
    .addColumn('updated_at', 'bigint', (column) => column.notNull())
    .addColumn('user_data', 'text')
    .addUniqueConstraint('vms_id', ['id'])
    .addUniqueConstraint('vms_name', ['account_id', 'name'])
    .addUniqueConstraint('vms_guest_ip', ['network_id', 'guest_ip'])
    .addUniqueConstraint('vms_guest_mac', ['network_id', 'guest_mac'])
    .addUniqueConstraint('vms_ssh_port', ['gateway_id', 'ssh_port'])
    .addForeignKeyConstraint('vms_image', ['image_account_id', 'image_id'], 'images', ['account_id', 'id'])
    .addForeignKeyConstraint('vms_template', ['template_account_id', 'template_id'], 'templates', [
      'account_id',
      'id',
    ])
    .addForeignKeyConstraint('vms_layer', ['layer_id'], 'layers', ['id'])
    .execute();
  const indexes = {
    vms_list: ['account_id', 'seq'],
    vms_by_host: ['host_id', 'seq'],
    vms_by_image: ['image_account_id', 'image_id'],
    vms_by_template: ['template_account_id', 'template_id'],
    vms_by_layer: ['layer_id'],
  };
  for (const [name, columns] of Object.entries(indexes)) {
    await db.schema.createIndex(name).on('vms').columns(columns).execute();
  }
  await db.schema
    .createTable('vm_labels')
    .addColumn('vm_id', 'text', (column) => column.notNull().references('vms.id').onDelete('cascade'))
    .addColumn('label', 'text', (column) => column.notNull())
    .addPrimaryKeyConstraint('vm_labels_key', ['vm_id', 'label'])
    .execute();
  await db.schema.createIndex('vm_labels_by_label').on('vm_labels').columns(['label', 'vm_id']).execute();
}

async function operations(db: Kysely<unknown>, engine: 'sqlite' | 'postgres'): Promise<void> {
  await counted(db, engine, 'operations')
    .addColumn('id', 'text', (column) => column.notNull())
    .addColumn('vm_id', 'text', (column) => column.notNull().references('vms.id').onDelete('cascade'))
    .addColumn('account_id', 'text', (column) => column.notNull())
    .addColumn('host_id', 'text', (column) => column.notNull())
    .addColumn('epoch', 'integer', (column) => column.notNull())
    .addColumn('verb', 'text', (column) => column.notNull())
    .addColumn('args', 'text', (column) => column.notNull())
    .addColumn('outcome', 'text', (column) => column.notNull())
    .addColumn('error', 'text')
    .addColumn('lease_until', 'bigint', (column) => column.notNull())
    .addColumn('created_at', 'bigint', (column) => column.notNull())
    .addColumn('finished_at', 'bigint')
    .addUniqueConstraint('operations_id', ['id'])
    .execute();
  await db.schema.createIndex('operations_list').on('operations').columns(['vm_id', 'seq']).execute();
  // One at a time on a VM: whoever inserts the unfinished row has it.
  await db.schema
    .createIndex('operations_unfinished')
    .unique()
    .on('operations')
    .columns(['vm_id'])
    .where(sql.ref('finished_at'), 'is', null)
    .execute();
  await db.schema
    .createTable('operation_steps')
    .addColumn('operation_id', 'text', (column) =>
      column.notNull().references('operations.id').onDelete('cascade'),
    )
    .addColumn('seq', 'integer', (column) => column.notNull())
    .addColumn('step', 'text', (column) => column.notNull())
    .addColumn('phase', 'text', (column) => column.notNull())
    .addColumn('at', 'bigint', (column) => column.notNull())
    .addPrimaryKeyConstraint('operation_steps_seq', ['operation_id', 'seq'])
    .execute();
}

async function events(db: Kysely<unknown>, engine: 'sqlite' | 'postgres'): Promise<void> {
  await counted(db, engine, 'events')
    .addColumn('id', 'text', (column) => column.notNull())
    .addColumn('account_id', 'text', (column) => column.notNull())
    .addColumn('vm_id', 'text')
    .addColumn('kind', 'text', (column) => column.notNull())
    .addColumn('message', 'text', (column) => column.notNull())
    .addColumn('data', 'text', (column) => column.notNull())
    .addColumn('at', 'bigint', (column) => column.notNull())
    .addUniqueConstraint('events_id', ['id'])
    .execute();
  await db.schema.createIndex('events_list').on('events').columns(['account_id', 'seq']).execute();
  await db.schema.createIndex('events_by_vm').on('events').columns(['vm_id', 'seq']).execute();
  await db.schema.createIndex('events_by_age').on('events').columns(['at']).execute();
}
