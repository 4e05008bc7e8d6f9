import type { Expression, Kysely, Transaction } from 'kysely';
import type { Clock } from '../../base/clock.ts';
import { Taken } from '../store.ts';
import type { Tables } from './tables.ts';
import { GaveWay, Violation, type UniqueName } from './violation.ts';

/** An open database, and the little in which the two differ. */
export interface Engine {
  readonly name: 'sqlite' | 'postgres';
  readonly db: Kysely<Tables>;
  readonly clock: Clock;
  /** The database's own time, in milliseconds since 1970: the same for all hosts. */
  readonly now: Expression<number>;
  /**
   * Makes transactions that write an event wait for each other, so that events become visible in the order of their
   * `seq`: who has seen one has seen all before it.
   */
  lineUpEvents(trx: Transaction<Tables>): Promise<void>;
  /** As `Store.written`; not there where nobody knows. */
  readonly written?: () => number | null;
  /**
   * Runs `work` on a database whose commits outlive this process as any do, but perhaps not a power loss right after them: they are
   * flushed with the next one of all others. For what recovery can do without.
   */
  unflushed<T>(work: (db: Kysely<Tables>) => Promise<T>): Promise<T>;
}

/** Hears of each query that was carried out. */
export type Asked = (query: { readonly sql: string; readonly parameters: readonly unknown[] }) => void;

const TRIES = 5;

/**
 * Runs `work` in a transaction; all of it is kept, or nothing. When the database gives it up for another one's sake, or a row
 * it saw was removed before it could name it, it is run again and sees what is now. `work` must use `trx` alone: on SQLite
 * there is one connection, and it is taken.
 */
export async function transact<T>(
  { db }: Pick<Engine, 'db'>,
  work: (trx: Transaction<Tables>) => Promise<T>,
): Promise<T> {
  for (let tries = 1; ; tries++) {
    try {
      return await db.transaction().setIsolationLevel('read committed').execute(work);
    } catch (error) {
      const overtaken = error instanceof GaveWay || (error instanceof Violation && error.kind === 'foreign');
      if (!overtaken || tries === TRIES) throw error;
    }
  }
}

/** Runs `work`; a violation of one of the named unique constraints becomes Taken with its field. */
export async function orTaken<T>(
  fields: Partial<Record<UniqueName, Taken['field']>>,
  work: () => Promise<T>,
): Promise<T> {
  try {
    return await work();
  } catch (error) {
    const field = error instanceof Violation && error.unique !== undefined ? fields[error.unique] : undefined;
    if (field === undefined) throw error;
    throw new Taken(field, error);
  }
}
