import { constants } from 'node:fs';
import { access, open, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { isErrno } from '../../base/errno.ts';
import { Kysely, sql, SqliteAdapter, SqliteIntrospector, SqliteQueryCompiler, type Dialect } from 'kysely';
import { Failure } from '../../model/failure.ts';
import type { Asked, Engine } from './engine.ts';
import { FileDriver, WalFlush, SqliteFile } from './sqlite-driver.ts';
import { sqliteError } from './sqlite-errors.ts';
import type { Tables } from './tables.ts';

/**
 * How long a write waits for another process (a backup, a second daemon) to let go of the file. It stands still for that
 * long with everything in this process, so it is short.
 */
const BUSY_TIMEOUT_MS = 3000;

interface SqliteOptions {
  readonly alone?: boolean;
  readonly asked?: Asked;
  readonly flush?: () => Promise<void>;
}

/**
 * Opens a SQLite file (node:sqlite), making it with mode 0600 if it is not there. There is one connection; one query or transaction at a
 * time has it. Who is told that something was written is told so when it is on the disk (but for `unflushed`); others may read it just
 * before. `alone`: no other process can read or write it until it is closed. `asked` is told each query; `flush` stands in for flushing the
 * log. Throws `unavailable` or `no_space` in a sentence that names the path, for whoever starts the daemon.
 */
export async function openSqlite(
  path: string,
  { alone = false, asked, flush }: SqliteOptions = {},
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
    for (const pragma of ['journal_mode = WAL', 'synchronous = NORMAL']) database.exec(`PRAGMA ${pragma}`);
  } catch (error) {
    database.close();
    throw sqliteError(error, path);
  }
  const log = new WalFlush(path);
  const file = new SqliteFile(database, () => log.close());
  const kysely = (flushed: (() => Promise<void>) | null): Kysely<Tables> =>
    new Kysely<Tables>({
      dialect: dialect(file, flushed),
      ...(asked ? { log: ({ query }) => asked(query) } : {}),
    });
  const lax = kysely(null);
  return {
    name: 'sqlite',
    db: kysely(flush ?? (() => log.all())),
    unflushed: (work) => work(lax),
    written: () => file.written(),
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

/** Kysely's dialect for SQLite, with our driver and migrations in a transaction: SQLite can undo a CREATE TABLE. */
function dialect(file: SqliteFile, flush: (() => Promise<void>) | null): Dialect {
  return {
    createDriver: () => new FileDriver(file, flush),
    createQueryCompiler: () => new SqliteQueryCompiler(),
    createAdapter: () => new FileAdapter(),
    createIntrospector: (db: Kysely<unknown>) => new SqliteIntrospector(db),
  };
}

class FileAdapter extends SqliteAdapter {
  override get supportsTransactionalDdl(): boolean {
    return true;
  }

  /** There is one, and the driver itself says whose turn it is. */
  override get supportsMultipleConnections(): boolean {
    return true;
  }
}
