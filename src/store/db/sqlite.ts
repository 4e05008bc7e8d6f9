import { constants } from 'node:fs';
import { access, open, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { DatabaseSync, type SQLInputValue } from 'node:sqlite';
import { isErrno } from '../../base/errno.ts';
import { Kysely, sql, SqliteAdapter, SqliteDialect } from 'kysely';
import type { SqliteDatabase, SqliteStatement } from 'kysely';
import { Failure } from '../../model/failure.ts';
import type { Asked, Engine } from './engine.ts';
import { sqliteError } from './sqlite-errors.ts';
import type { Tables } from './tables.ts';

/**
 * How long a write waits for another process (a backup, a second daemon) to let go of the file. It stands still for that
 * long with everything in this process, so it is short.
 */
const BUSY_TIMEOUT_MS = 3000;

/**
 * Opens a SQLite file (node:sqlite), making it with mode 0600 if it is not there. There is one connection; Kysely lets one
 * query or transaction at a time have it. What is committed is on disk: WAL with synchronous=FULL flushes every commit (but for `unflushed`).
 * `alone`: no other process can read or write it until it is closed. `asked` is told each query. Throws `unavailable` or `no_space` in a sentence that names the path, for whoever starts the daemon.
 */
export async function openSqlite(
  path: string,
  { alone = false, asked }: { readonly alone?: boolean; readonly asked?: Asked } = {},
): Promise<Omit<Engine, 'clock'>> {
  await makeFile(path);
  let database: DatabaseSync;
  try {
    database = new DatabaseSync(path, { timeout: BUSY_TIMEOUT_MS, enableForeignKeyConstraints: true });
  } catch (error) {
    throw sqliteError(error, path);
  }
  try {
    // Before the file is read for the first time, or it only counts from its next write on (sqlite.org/pragma.html#pragma_locking_mode).
    if (alone) database.exec('PRAGMA locking_mode = EXCLUSIVE; BEGIN IMMEDIATE; COMMIT');
    for (const pragma of ['journal_mode = WAL', 'synchronous = FULL']) database.exec(`PRAGMA ${pragma}`);
  } catch (error) {
    database.close();
    throw sqliteError(error, path);
  }
  const db = new Kysely<Tables>({
    dialect: new NodeSqliteDialect({ database: adapt(database) }),
    ...(asked ? { log: ({ query }) => asked(query) } : {}),
  });
  return {
    name: 'sqlite',
    db,
    // The safety level is the connection's, so it is held until it is as it was.
    unflushed: (work) =>
      db.connection().execute(async (connection) => {
        database.exec('PRAGMA synchronous = NORMAL');
        try {
          return await work(connection);
        } finally {
          database.exec('PRAGMA synchronous = FULL');
        }
      }),
    now: sql<number>`cast(unixepoch('subsec') * 1000 as integer)`,
    // There is one writer at a time anyway.
    lineUpEvents: async () => undefined,
  };
}

/** Throws `unavailable` unless there is a folder a database file could be made in. */
export async function mustBeFolder(folder: string): Promise<void> {
  try {
    await access(`${folder}/`, constants.W_OK);
  } catch (error) {
    throw new Failure('unavailable', await whyNot(error, join(folder, 'hatch.db')), { cause: error });
  }
}

/** Makes the file for its owner alone; SQLite gives its -wal and -shm files the same mode. */
async function makeFile(path: string): Promise<void> {
  try {
    const file = await open(path, constants.O_RDWR | constants.O_CREAT, 0o600);
    await file.close();
  } catch (error) {
    throw new Failure(isErrno(error, 'ENOSPC') ? 'no_space' : 'unavailable', await whyNot(error, path), {
      cause: error,
    });
  }
  const found = await stat(path);
  if (!found.isFile()) throw new Failure('unavailable', `The database ${path} is not a regular file.`);
}

/** Why a database file cannot be opened, in a sentence that says what to do. */
async function whyNot(error: unknown, path: string): Promise<string> {
  const folder = dirname(path);
  if (isErrno(error, 'ENOSPC') || isErrno(error, 'EDQUOT'))
    return `The disk that is to hold the database ${path} is full; make room and start again.`;
  if (isErrno(error, 'ENOENT')) return `The folder ${folder} of the database does not exist; make it first.`;
  if (isErrno(error, 'ENOTDIR')) return `${folder}, which is to hold the database, is not a folder.`;
  if (isErrno(error, 'EISDIR'))
    return `The database ${path} is a folder; DATABASE_URL must name a file: sqlite:${path}/hatch.db.`;
  if (isErrno(error, 'EROFS')) return `The database ${path} lies on a file system that is read-only.`;
  if (isErrno(error, 'EACCES') || isErrno(error, 'EPERM')) {
    const there = await stat(path).then(
      () => true,
      () => false,
    );
    return `${there ? `The database ${path}` : `The folder ${folder} of the database`} cannot be written; give this user the right to, or choose another DATABASE_URL.`;
  }
  return `The database ${path} cannot be opened: ${error instanceof Error ? error.message : String(error)}`;
}

/** Kysely's dialect for SQLite, with migrations in a transaction: SQLite can undo a CREATE TABLE. */
class NodeSqliteDialect extends SqliteDialect {
  override createAdapter(): SqliteAdapter {
    return new TransactionalAdapter();
  }
}

class TransactionalAdapter extends SqliteAdapter {
  override get supportsTransactionalDdl(): boolean {
    return true;
  }
}

/** Statements that are kept ready: more than Hatch has, unless one of them is written with each number of its values. */
const MOST_PREPARED = 1000;

/** node:sqlite as Kysely expects a database to be, its errors made ours. */
function adapt(database: DatabaseSync): SqliteDatabase {
  const ready = new Map<string, SqliteStatement>();
  return {
    close: () => database.close(),
    prepare(text) {
      const sent = asSent(database, text);
      const known = ready.get(sent);
      if (known) return known;
      const made = statement(database, sent);
      // What is asked often is soon there again.
      if (ready.size >= MOST_PREPARED) ready.clear();
      ready.set(sent, made);
      return made;
    },
  };
}

function asSent(database: DatabaseSync, text: string): string {
  // A transaction that reads first and writes later could be refused at its write; immediate ones wait at the door.
  if (text === 'begin') return 'begin immediate';
  // After some errors (a full disk) SQLite has rolled back by itself.
  return text === 'rollback' && !database.isTransaction ? 'select 1' : text;
}

function statement(database: DatabaseSync, text: string): SqliteStatement {
  const prepared = ours(() => database.prepare(text));
  const names = prepared.columns().map(({ name }) => name);
  // A row of forty columns takes three times as long to come out as an object than as an array.
  prepared.setReturnArrays(true);
  const named = (values: unknown): unknown => {
    const row: Record<string, unknown> = {};
    for (let i = 0; i < names.length; i++) row[names[i] ?? ''] = (values as unknown[])[i];
    return row;
  };
  return {
    reader: names.length > 0,
    all: (parameters) => ours(() => prepared.all(...parameters.map(input)).map(named)),
    run: (parameters) => ours(() => prepared.run(...parameters.map(input))),
    iterate: (parameters) => ours(() => prepared.iterate(...parameters.map(input)).map(named)),
  };
}

function ours<T>(work: () => T): T {
  try {
    return work();
  } catch (error) {
    throw sqliteError(error);
  }
}

function input(value: unknown): SQLInputValue {
  if (
    value === null ||
    typeof value === 'string' ||
    typeof value === 'number' ||
    typeof value === 'bigint' ||
    value instanceof Uint8Array
  ) {
    return value;
  }
  throw new TypeError(`SQLite cannot keep a value of type ${typeof value}`);
}
