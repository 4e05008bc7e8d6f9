import { sql, type Kysely } from 'kysely';
import type { Migration } from 'kysely/migration';
import { counted } from './001-first.ts';

/** Host names that lead to ports of guests. */
export function routes(engine: 'sqlite' | 'postgres'): Migration {
  return {
    async up(db: Kysely<unknown>) {
      await counted(db, engine, 'routes')
        .addColumn('id', 'text', (column) => column.notNull())
        .addColumn('account_id', 'text', (column) => column.notNull().references('accounts.id'))
        .addColumn('vm_id', 'text', (column) => column.notNull().references('vms.id').onDelete('cascade'))
        .addColumn('subdomain', 'text')
        .addColumn('domain', 'text')
        .addColumn('target_port', 'integer', (column) => column.notNull())
        .addColumn('auto_wake', 'integer', (column) => column.notNull())
        .addColumn('wake', 'text')
        .addColumn('created_at', 'bigint', (column) => column.notNull())
        .addColumn('updated_at', 'bigint', (column) => column.notNull())
        .addUniqueConstraint('routes_id', ['id'])
        .addCheckConstraint('routes_one_name', sql`(subdomain is null) <> (domain is null)`)
        .execute();
      // Of all accounts one has a name; these are what the proxy looks it up by, too.
      for (const name of ['subdomain', 'domain'])
        await db.schema
          .createIndex(`routes_${name}`)
          .unique()
          .on('routes')
          .columns([name])
          .where(sql.ref(name), 'is not', null)
          .execute();
      await db.schema.createIndex('routes_list').on('routes').columns(['account_id', 'seq']).execute();
      await db.schema.createIndex('routes_by_vm').on('routes').columns(['vm_id', 'seq']).execute();
    },
  };
}
