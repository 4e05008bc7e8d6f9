import type { Clock } from '../../base/clock.ts';
import type { Logger } from '../../base/logger.ts';
import { exists } from '../../host/files.ts';
import { Failure } from '../../model/failure.ts';
import { dirname } from 'node:path';
import { sql } from 'kysely';
import type { Store } from '../store.ts';
import { accounts } from './accounts.ts';
import { idempotency } from './idempotency.ts';
import type { Engine } from './engine.ts';
import { events } from './events.ts';
import { history } from './history.ts';
import { hosts } from './hosts.ts';
import { images } from './images.ts';
import { keys } from './keys.ts';
import { layers } from './layers.ts';
import { ledger } from './ledger.ts';
import { schemaBefore } from './keep-before.ts';
import { migrate, migrations, schemaOf } from './migrate.ts';
import { operations } from './operations.ts';
import { routes } from './routes.ts';
import { mustBeFolder, openSqlite } from './sqlite.ts';
import { snapshots } from './snapshots.ts';
import { templates } from './templates.ts';
import { upgradeSqlite } from './upgrade-sqlite.ts';
import { vms } from './vms.ts';

/**
 * Opens the store at `sqlite:<path>` or `postgres://...`, and brings its schema up to date: a file on a copy, what was there kept
 * beside it; PostgreSQL in one transaction, its tables kept in a schema beside theirs. Throws a Failure in a sentence
 * for the operator: `invalid_request` for a URL that is none, else `unavailable` or `no_space`.
 */
export async function openStore(
  url: string,
  { clock, log }: { readonly clock: Clock; readonly log: Logger },
): Promise<Store> {
  const path = sqlitePath(url);
  if (path !== undefined) {
    const upgraded = await upgradeSqlite(path, migrations('sqlite'), clock.now());
    if (upgraded)
      log.info({ engine: 'sqlite', ...upgraded }, 'schema brought up to date; what was there is kept');
  }
  const engine: Engine = { ...(await openEngine(url, log)), clock };
  try {
    const done = await migrate(engine, migrations(engine.name));
    const [first] = done;
    if (first !== undefined) {
      const upgraded = engine.name === 'postgres' && first !== Object.keys(migrations(engine.name))[0];
      log.info(
        { engine: engine.name, migrations: done, ...(upgraded ? { kept: schemaBefore(first) } : {}) },
        'schema brought up to date',
      );
    }
  } catch (error) {
    await engine.db.destroy();
    throw error;
  }
  return storeOf(engine);
}

/** The store in a database whose schema is up to date. */
export function storeOf(engine: Engine): Store {
  return {
    hosts: hosts(engine),
    accounts: accounts(engine),
    keys: keys(engine),
    images: images(engine),
    templates: templates(engine),
    vms: vms(engine),
    operations: operations(engine),
    layers: layers(engine),
    snapshots: snapshots(engine),
    routes: routes(engine),
    ledger: ledger(engine),
    history: history(engine),
    events: events(engine),
    idempotency: idempotency(engine),
    written: engine.written ?? (() => null),
    ping: async () => {
      await sql`select 1`.execute(engine.db);
    },
    close: () => engine.db.destroy(),
  };
}

/**
 * Looks whether the database of a URL can be used, and changes nothing in it: `new` when Hatch's tables are still to be made,
 * `older` when the next start has to bring them up to date. Throws as `openStore` does.
 */
export async function lookAtStore(
  url: string,
  { log }: { readonly log: Logger },
): Promise<'new' | 'older' | 'current'> {
  const path = sqlitePath(url);
  if (path !== undefined && !(await exists(path))) {
    await mustBeFolder(dirname(path));
    return 'new';
  }
  const engine = await openEngine(url, log);
  try {
    await sql`select 1`.execute(engine.db);
    const { done, missing } = await schemaOf(engine, migrations(engine.name));
    return missing === 0 ? 'current' : done === 0 ? 'new' : 'older';
  } finally {
    await engine.db.destroy();
  }
}

/** The file a URL names; undefined where it names none of SQLite's. */
function sqlitePath(url: string): string | undefined {
  const path = /^sqlite:(.+)$/s.exec(url)?.[1];
  return path === ':memory:' ? undefined : path;
}

/** Opens the database of a URL. A URL is never quoted: it may hold a password. */
async function openEngine(url: string, log: Logger): Promise<Omit<Engine, 'clock'>> {
  if (/^postgres(ql)?:\/\//.test(url)) {
    // Whoever keeps rows in a file needs nothing of its client.
    const { openPostgres } = await import('./postgres.ts');
    return openPostgres(url, log);
  }
  const path = sqlitePath(url);
  if (path === undefined) {
    throw new Failure(
      'invalid_request',
      'DATABASE_URL must be "sqlite:<path of a file>" or "postgres://user:password@host:port/database".',
      { details: { field: 'DATABASE_URL' } },
    );
  }
  return openSqlite(path);
}
