import { sql, type Kysely } from 'kysely';
import type { Migration } from 'kysely/migration';
import { counted } from './001-first.ts';

/** When VMs did not run, when they were used, and until when somebody says that they are. */
export function idle(engine: 'sqlite' | 'postgres'): Migration {
  return {
    async up(db: Kysely<unknown>) {
      await db.schema.alterTable('vms').addColumn('leased_until', 'bigint').execute();
      await counted(db, engine, 'vm_rests')
        .addColumn('vm_id', 'text', (column) => column.notNull().references('vms.id').onDelete('cascade'))
        .addColumn('how', 'text', (column) => column.notNull())
        .addColumn('mem_mib', 'integer', (column) => column.notNull())
        .addColumn('from_at', 'bigint', (column) => column.notNull())
        .addColumn('until_at', 'bigint')
        .execute();
      await db.schema
        .createIndex('vm_rests_open')
        .unique()
        .on('vm_rests')
        .columns(['vm_id'])
        .where(sql.ref('until_at'), 'is', null)
        .execute();
      await db.schema.createIndex('vm_rests_by_vm').on('vm_rests').columns(['vm_id', 'seq']).execute();
      await counted(db, engine, 'vm_uses')
        .addColumn('vm_id', 'text', (column) => column.notNull().references('vms.id').onDelete('cascade'))
        .addColumn('way', 'text', (column) => column.notNull())
        .addColumn('from_at', 'bigint', (column) => column.notNull())
        .addColumn('until_at', 'bigint', (column) => column.notNull())
        .execute();
      await db.schema
        .createIndex('vm_uses_by_vm')
        .on('vm_uses')
        .columns(['vm_id', 'way', 'until_at'])
        .execute();
      await db.schema.createIndex('vm_uses_by_time').on('vm_uses').columns(['until_at']).execute();
      // VMs that do not run now have done so since they last changed, as far as anybody knows.
      await sql`
        insert into vm_rests (vm_id, how, mem_mib, from_at, until_at)
        select id, case when state = 'snapshotted' then 'snapshot' else 'off' end, mem_mib, updated_at, null
        from vms where state in ('snapshotted', 'stopped', 'error')`.execute(db);
    },
  };
}
