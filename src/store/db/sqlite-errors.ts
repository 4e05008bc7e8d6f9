import { Failure } from '../../model/failure.ts';
import { uniqueByColumns, Violation } from './violation.ts';

/** Result codes of SQLite (sqlite.org/rescode.html); the extended ones hold the primary one in their low byte. */
const PRIMARY = {
  busy: 5,
  locked: 6,
  readonly: 8,
  ioerr: 10,
  corrupt: 11,
  full: 13,
  cantopen: 14,
  notadb: 26,
} as const;
const CONSTRAINT = { foreign: 787, primaryKey: 1555, unique: 2067 } as const;

/**
 * An error of node:sqlite as one of ours: a Violation, or a Failure when the file is the trouble. With `path`, which only
 * whoever starts the daemon may see, the sentence names it. Others are given back as they are.
 */
export function sqliteError(error: unknown, path?: string): unknown {
  if (!(error instanceof Error) || !('errcode' in error) || typeof error.errcode !== 'number') return error;
  switch (error.errcode) {
    case CONSTRAINT.unique:
    case CONSTRAINT.primaryKey:
      return new Violation('unique', uniqueByColumns(error.message.replace(/^.*failed: /, '')), error);
    case CONSTRAINT.foreign:
      return new Violation('foreign', undefined, error);
  }
  const database = path === undefined ? 'the database' : `the database ${path}`;
  switch (error.errcode & 0xff) {
    case PRIMARY.busy:
    case PRIMARY.locked:
      return new Failure(
        'unavailable',
        `Another process holds ${database}: a second hatchd, a backup or a SQLite shell. Try again when it has let go.`,
        { cause: error },
      );
    case PRIMARY.full:
      return new Failure('no_space', `The disk that holds ${database} is full; make room on it.`, {
        cause: error,
      });
    case PRIMARY.readonly:
    case PRIMARY.ioerr:
    case PRIMARY.cantopen:
      return new Failure(
        'unavailable',
        `The file of ${database} cannot be read or written; look at its disk and its permissions.`,
        { cause: error },
      );
    case PRIMARY.corrupt:
    case PRIMARY.notadb:
      return new Failure(
        'unavailable',
        `The file of ${database} is damaged, or no SQLite database; restore it from a backup.`,
        { cause: error },
      );
    default:
      return error;
  }
}
