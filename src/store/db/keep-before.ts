import { sql, type Kysely } from 'kysely';
import { Failure } from '../../model/failure.ts';
import type { Tables } from './tables.ts';

/** Hatch's tables: what a PostgreSQL database holds besides is not ours to copy. */
const TABLES: Readonly<Record<keyof Tables, true>> = {
  hosts: true,
  accounts: true,
  api_keys: true,
  images: true,
  templates: true,
  layers: true,
  snapshots: true,
  routes: true,
  account_secrets: true,
  blobs: true,
  snapshot_blobs: true,
  leases: true,
  lease_blobs: true,
  vms: true,
  vm_labels: true,
  vm_rests: true,
  vm_uses: true,
  operations: true,
  operation_steps: true,
  events: true,
  idempotency_keys: true,
};

/** The schema that keeps what was there before a migration. */
export function schemaBefore(migration: string): string {
  return `hatch_before_${migration.replaceAll('-', '_')}`;
}

/**
 * Keeps PostgreSQL's tables as they are before `migration`, in the same transaction: copies with all their keys and counters, in a schema
 * beside theirs that can take its place by its name. One of the same name gives way. Gives the schema's name. Throws `unavailable` where the
 * role may not make one.
 */
export async function keepBefore(
  trx: Kysely<never>,
  migration: string,
  migrationTables: readonly string[],
): Promise<string> {
  const kept = schemaBefore(migration);
  const here = await one<{ schema: string; database: string; role: string; may: boolean }>(
    trx,
    sql`select current_schema() as schema, current_database() as database, current_user as role,
      has_database_privilege(current_database(), 'create') as may`,
  );
  if (!here.may)
    throw new Failure(
      'unavailable',
      `The database is of an older Hatch. Its tables are kept beside them when they are brought up to date, in a schema of their own, which the role "${here.role}" may not make: grant create on database ${here.database} to ${here.role}.`,
    );
  await sql`drop schema if exists ${sql.id(kept)} cascade`.execute(trx);
  await sql`create schema ${sql.id(kept)}`.execute(trx);
  const { rows } = await sql<{ tablename: string }>`
    select tablename from pg_tables where schemaname = ${here.schema} order by tablename`.execute(trx);
  const ours = new Set([...Object.keys(TABLES), ...migrationTables]);
  const names = rows.map(({ tablename }) => tablename).filter((name) => ours.has(name));
  for (const name of names) {
    const [from, to] = [sql.id(here.schema, name), sql.id(kept, name)];
    await sql`create table ${to} (like ${from} including all excluding indexes)`.execute(trx);
    const { rows: columns } = await sql<{ column_name: string; is_identity: string }>`
      select column_name, is_identity from information_schema.columns
      where table_schema = ${here.schema} and table_name = ${name} and is_generated = 'NEVER'
      order by ordinal_position`.execute(trx);
    const list = sql.join(columns.map(({ column_name }) => sql.id(column_name)));
    await sql`insert into ${to} (${list}) overriding system value select ${list} from ${from}`.execute(trx);
    for (const { column_name } of columns.filter(({ is_identity }) => is_identity === 'YES')) {
      const counter = (schema: string): string => `"${schema}"."${name}"`;
      // What the next row is numbered, also where the newest ones are gone.
      await sql`select setval(
          pg_get_serial_sequence(${counter(kept)}, ${column_name})::regclass,
          greatest(nextval(pg_get_serial_sequence(${counter(here.schema)}, ${column_name})::regclass), 1))`.execute(
        trx,
      );
    }
  }
  // Copied with a table, keys and indexes would have names of their own, by which their violations are known.
  const { rows: keys } = await sql<{ name: string; of: string; text: string }>`
    select conname as name, relname as of, pg_get_constraintdef(c.oid) as text
    from pg_constraint c join pg_class t on t.oid = c.conrelid join pg_namespace n on n.oid = t.relnamespace
    where contype in ('p', 'u', 'f') and nspname = ${here.schema} order by contype = 'f'`.execute(trx);
  const { rows: indexes } = await sql<{ of: string; text: string }>`
    select t.relname as of, replace(pg_get_indexdef(i.indexrelid), ${` ON ${here.schema}.`}, ' ON ') as text
    from pg_index i join pg_class t on t.oid = i.indrelid join pg_namespace n on n.oid = t.relnamespace
    where nspname = ${here.schema} and not exists (select from pg_constraint where conindid = i.indexrelid)`.execute(
    trx,
  );
  // Spelled for the schema of the moment, they name the tables of the other.
  await sql`set local search_path to ${sql.id(kept)}`.execute(trx);
  for (const { name, of, text } of keys.filter((one) => ours.has(one.of)))
    await sql`alter table ${sql.id(of)} add constraint ${sql.id(name)} ${sql.raw(text)}`.execute(trx);
  for (const { of, text } of indexes) if (ours.has(of)) await sql.raw(text).execute(trx);
  await sql`set local search_path to ${sql.id(here.schema)}`.execute(trx);
  return kept;
}

async function one<T>(trx: Kysely<never>, query: ReturnType<typeof sql<T>>): Promise<T> {
  const { rows } = await query.execute(trx);
  const [row] = rows;
  if (row === undefined) throw new Error('the database gave no row');
  return row;
}
