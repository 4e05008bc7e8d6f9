import {
  CompiledQuery,
  type DatabaseConnection,
  type Driver,
  type QueryResult,
  type TransactionSettings,
} from 'kysely';
import type pg from 'pg';
import { isConnectionLost, postgresError } from './postgres-errors.ts';

/**
 * Kysely's driver over a pool of `pg`, in place of its own: errors become ours, and a connection that failed or fell silent
 * is closed, not handed to the next one.
 */
export class PoolDriver implements Driver {
  readonly #pool: pg.Pool;
  #destroyed = false;

  constructor(pool: pg.Pool) {
    this.#pool = pool;
  }

  async init(): Promise<void> {
    // Connections are made when they are needed.
  }

  async acquireConnection(): Promise<PoolConnection> {
    try {
      return new PoolConnection(await this.#pool.connect());
    } catch (error) {
      throw postgresError(error);
    }
  }

  async beginTransaction(
    connection: DatabaseConnection,
    { isolationLevel }: TransactionSettings,
  ): Promise<void> {
    const level = isolationLevel === undefined ? '' : ` isolation level ${isolationLevel}`;
    await connection.executeQuery(CompiledQuery.raw(`begin${level}`));
  }

  async commitTransaction(connection: DatabaseConnection): Promise<void> {
    await connection.executeQuery(CompiledQuery.raw('commit'));
  }

  async rollbackTransaction(connection: DatabaseConnection): Promise<void> {
    // A connection that is lost has been rolled back by the server, and its first error is the one to tell.
    if (connection instanceof PoolConnection && connection.lost) return;
    await connection.executeQuery(CompiledQuery.raw('rollback'));
  }

  async releaseConnection(connection: DatabaseConnection): Promise<void> {
    if (connection instanceof PoolConnection) connection.release();
  }

  async destroy(): Promise<void> {
    if (this.#destroyed) return;
    this.#destroyed = true;
    await this.#pool.end();
  }
}

class PoolConnection implements DatabaseConnection {
  readonly #client: pg.PoolClient;
  /** Whether it failed in a way that says nothing of what the server still does. */
  lost = false;

  constructor(client: pg.PoolClient) {
    this.#client = client;
  }

  async executeQuery<R>({ sql, parameters }: CompiledQuery): Promise<QueryResult<R>> {
    try {
      const { command, rowCount, rows } = await this.#client.query(sql, [...parameters]);
      // PostgreSQL answers a COMMIT of a transaction that failed before with ROLLBACK, and no error.
      if (sql === 'commit' && command === 'ROLLBACK') throw new Error('the transaction had failed before');
      const changed = ['INSERT', 'UPDATE', 'DELETE'].includes(command);
      return {
        rows: rows as R[],
        ...(changed ? { numAffectedRows: BigInt(rowCount ?? 0) } : {}),
      };
    } catch (error) {
      this.lost ||= isConnectionLost(error);
      throw postgresError(error);
    }
  }

  /** Whole at once: the store reads pages, which have an end. */
  async *streamQuery<R>(query: CompiledQuery): AsyncIterableIterator<QueryResult<R>> {
    yield await this.executeQuery<R>(query);
  }

  release(): void {
    this.#client.release(this.lost);
  }
}
