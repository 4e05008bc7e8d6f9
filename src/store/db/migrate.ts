import type { Kysely } from 'kysely';
import { Migrator, type Migration, type MigrationProvider } from 'kysely/migration';
import { Failure } from '../../model/failure.ts';
import type { Engine } from './engine.ts';
import { keepBefore } from './keep-before.ts';
import { first } from './migrations/001-first.ts';
import { snapshots } from './migrations/002-snapshots.ts';
import { ledger } from './migrations/003-ledger.ts';
import { routes } from './migrations/004-routes.ts';
import { idle } from './migrations/005-idle.ts';
import { idempotency } from './migrations/006-idempotency.ts';
import { unfinished } from './migrations/007-unfinished.ts';

const TABLE = 'hatch_migrations';

/** The migrations in their order. They only go forward, and one that was released is never changed. */
export function migrations(engine: Engine['name']): Record<string, Migration> {
  return {
    '001-first': first(engine),
    '002-snapshots': snapshots(engine),
    '003-ledger': ledger(engine),
    '004-routes': routes(engine),
    '005-idle': idle(engine),
    '006-idempotency': idempotency(),
    '007-unfinished': unfinished(),
  };
}

/**
 * Brings the schema up to date: what is missing is done in one transaction, while nobody else migrates. What is in PostgreSQL's tables
 * before is kept beside them (keep-before.ts); SQLite's file is a copy already (upgrade-sqlite.ts). Throws `unavailable` when the database is
 * of a newer Hatch.
 */
export async function migrate(
  { db, name }: Pick<Engine, 'db' | 'name'>,
  known: Readonly<Record<string, Migration>>,
): Promise<readonly string[]> {
  // The usual start: who migrates locks, and asks for each table.
  const { done, missing } = await schemaOf({ db }, known);
  if (missing === 0) return [];
  const keeps = name === 'postgres' && done > 0;
  const provider: MigrationProvider = {
    getMigrations: async () => (keeps ? keeping(known, await executed(db)) : { ...known }),
  };
  const migrator = new Migrator({
    db,
    provider,
    migrationTableName: TABLE,
    migrationLockTableName: `${TABLE}_lock`,
  });
  const { error, results } = await migrator.migrateToLatest();
  if (error === undefined) return (results ?? []).map((result) => result.migrationName);
  refuseNewer(await executed(db), known, error);
  throw error instanceof Error
    ? error
    : new Error('the schema could not be brought up to date', { cause: error });
}

/** The same migrations, of which the first that is missing keeps what is there before it. */
function keeping(
  known: Readonly<Record<string, Migration>>,
  done: readonly string[],
): Record<string, Migration> {
  const [next] = Object.entries(known).filter(([name]) => !done.includes(name));
  if (!next) return { ...known };
  const [name, migration] = next;
  return {
    ...known,
    [name]: {
      up: async (trx) => {
        await keepBefore(trx as Kysely<never>, name, [TABLE, `${TABLE}_lock`]);
        await migration.up(trx);
      },
    },
  };
}

/** How many of the migrations were done in a database, and how many were not. Throws as `migrate` does for a newer Hatch's. */
export async function schemaOf(
  { db }: Pick<Engine, 'db'>,
  known: Readonly<Record<string, Migration>>,
): Promise<{ readonly done: number; readonly missing: number }> {
  const done = await executed(db);
  refuseNewer(done, known);
  return { done: done.length, missing: Object.keys(known).length - done.length };
}

function refuseNewer(
  done: readonly string[],
  known: Readonly<Record<string, Migration>>,
  cause?: unknown,
): void {
  const newer = done.filter((name) => !Object.hasOwn(known, name));
  if (newer.length === 0) return;
  throw new Failure(
    'unavailable',
    `The database was made by a newer Hatch (it has ${newer.join(', ')}, which this one does not know). Use that version again, or give this one another DATABASE_URL.`,
    { cause },
  );
}

async function executed(db: Engine['db']): Promise<readonly string[]> {
  try {
    const rows = await db
      .withTables<{ hatch_migrations: { name: string } }>()
      .selectFrom(TABLE)
      .select('name')
      .execute();
    return rows.map((row) => row.name);
  } catch {
    return [];
  }
}
