import { link, open, rename } from 'node:fs/promises';
import { dirname } from 'node:path';
import { sql } from 'kysely';
import type { Migration } from 'kysely/migration';
import { isErrno } from '../../base/errno.ts';
import { exists, remove } from '../../host/files.ts';
import { Failure } from '../../model/failure.ts';
import type { Engine } from './engine.ts';
import { migrate, schemaOf } from './migrate.ts';
import { openSqlite } from './sqlite.ts';

/** What an upgrade did: where what was there before is, and the migrations that were done. */
export interface Upgrade {
  readonly backup: string;
  readonly migrations: readonly string[];
}

/**
 * Brings a SQLite file of an older Hatch up to date: on a copy, which then takes its place in one step; what was there stays
 * beside it as `<path>.<time>.before-<first migration>`. Until that step the file is as it was, whatever fails. Gives undefined
 * where there is nothing to do: no file, one without Hatch's tables, one that is current. `now`: milliseconds since 1970. Throws a
 * Failure, `unavailable` or `no_space`, in a sentence that names the path.
 */
export async function upgradeSqlite(
  path: string,
  known: Readonly<Record<string, Migration>>,
  now: number,
): Promise<Upgrade | undefined> {
  if (!(await exists(path))) return undefined;
  const look = await openSqlite(path);
  const older = await isOlder(look, known).finally(() => look.db.destroy());
  if (!older) return undefined;

  // What another process wrote from here on would be missing in the copy.
  const alone = await openSqlite(path, { alone: true });
  const copy = `${path}.upgrade`;
  try {
    // Whoever had it until now may have upgraded it.
    if (!(await isOlder(alone, known))) return undefined;
    await discard(copy);
    await copyTo(alone, copy);
    const migrations = await upgradeCopy(copy, known);
    const backup = `${path}.${stamp(now)}.before-${migrations[0] ?? 'nothing'}`;
    // So that the file itself is all of the back-up: its log is emptied into it, and would lie beside the new one.
    await sql`pragma journal_mode = delete`.execute(alone.db);
    // At no moment is there no database, and the back-up costs neither time nor room.
    await link(path, backup);
    await rename(copy, path);
    await flush(dirname(path));
    return { backup, migrations };
  } catch (error) {
    throw inASentence(error, path);
  } finally {
    await alone.db.destroy();
    await discard(copy);
  }
}

async function isOlder(
  engine: Pick<Engine, 'db'>,
  known: Readonly<Record<string, Migration>>,
): Promise<boolean> {
  const { done, missing } = await schemaOf(engine, known);
  return done > 0 && missing > 0;
}

/** All of an open database in a file of its own, for its owner alone. */
async function copyTo({ db }: Pick<Engine, 'db'>, copy: string): Promise<void> {
  await (await open(copy, 'wx', 0o600)).close();
  await sql`vacuum into ${copy}`.execute(db);
}

/** Migrates a copy, and looks whether it is whole. It is one file in the end: the last to close it empties its log into it. */
async function upgradeCopy(
  copy: string,
  known: Readonly<Record<string, Migration>>,
): Promise<readonly string[]> {
  const engine = await openSqlite(copy);
  let done: readonly string[];
  try {
    done = await migrate(engine, known);
    const integrity = await sql<{ integrity_check: string }>`pragma integrity_check`.execute(engine.db);
    const orphans = await sql<{ table: string }>`pragma foreign_key_check`.execute(engine.db);
    const wrong = integrity.rows.map((row) => row.integrity_check).filter((line) => line !== 'ok');
    wrong.push(...orphans.rows.map(({ table }) => `a row of ${table} names one that is not there`));
    if (wrong.length > 0) throw new Error(`it is not whole afterwards: ${wrong.slice(0, 3).join('; ')}`);
  } finally {
    await engine.db.destroy();
  }
  await flush(copy);
  return done;
}

/** Removes a copy, and what SQLite makes beside one. */
async function discard(copy: string): Promise<void> {
  for (const end of ['', '-wal', '-shm', '-journal']) await remove(`${copy}${end}`);
}

async function flush(path: string): Promise<void> {
  const file = await open(path, 'r');
  await file.sync().finally(() => file.close());
}

/** A time as part of a file's name. */
function stamp(now: number): string {
  return new Date(now)
    .toISOString()
    .replace(/\.\d+Z$/, 'Z')
    .replaceAll(':', '-');
}

function inASentence(error: unknown, path: string): unknown {
  if (error instanceof Failure && error.code !== 'no_space') return error;
  const full = error instanceof Failure || isErrno(error, 'ENOSPC') || isErrno(error, 'EDQUOT');
  const why = full
    ? 'its disk has no room for a second copy of it; make room and start again'
    : error instanceof Error
      ? error.message
      : String(error);
  return new Failure(
    full ? 'no_space' : 'unavailable',
    `The database ${path} could not be brought up to date, and is as it was: ${why}.`,
    { cause: error },
  );
}
