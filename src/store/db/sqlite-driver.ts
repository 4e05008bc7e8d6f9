import { open, type FileHandle } from 'node:fs/promises';
import type { DatabaseSync, SQLInputValue } from 'node:sqlite';
import type { CompiledQuery, DatabaseConnection, Driver, QueryResult } from 'kysely';
import { Together } from '../../base/together.ts';
import { Failure } from '../../model/failure.ts';
import { sqliteError } from './sqlite-errors.ts';

/** Statements that are kept ready: more than Hatch has, unless one of them is written with each number of its values. */
const MOST_PREPARED = 1000;

/** How long it is believed that no other process has written, in milliseconds. */
const LOOK_MS = 20;

/**
 * Kysely's driver over one connection of node:sqlite, in place of its own: errors become ours, one query or transaction at a time has the
 * connection, and what was written is flushed once it was let go, so that those who come after need not wait for the disk, and share
 * the next flush. `flush` is null where nobody waits for one.
 */
export class FileDriver implements Driver {
  readonly #file: SqliteFile;
  readonly #flush: (() => Promise<void>) | null;

  constructor(file: SqliteFile, flush: (() => Promise<void>) | null) {
    this.#file = file;
    this.#flush = flush;
  }

  async init(): Promise<void> {
    // It is open.
  }

  async acquireConnection(): Promise<FileConnection> {
    await this.#file.take();
    return new FileConnection(this.#file);
  }

  async beginTransaction(connection: DatabaseConnection): Promise<void> {
    // One that reads first and writes later could be refused at its write; immediate ones wait at the door.
    if (connection instanceof FileConnection) connection.execute('begin immediate');
  }

  async commitTransaction(connection: DatabaseConnection): Promise<void> {
    if (connection instanceof FileConnection) connection.execute('commit');
  }

  async rollbackTransaction(connection: DatabaseConnection): Promise<void> {
    if (connection instanceof FileConnection) connection.rollBack();
  }

  /** Lets the next one have the connection; resolves when what was written here is on the disk. */
  async releaseConnection(connection: DatabaseConnection): Promise<void> {
    this.#file.give();
    if (connection instanceof FileConnection && connection.wrote) await this.#flush?.();
  }

  async destroy(): Promise<void> {
    await this.#file.close();
  }
}

/** The connection, as long as somebody has it. */
class FileConnection implements DatabaseConnection {
  readonly #file: SqliteFile;
  /** Whether something was written that was not rolled back. */
  wrote = false;

  constructor(file: SqliteFile) {
    this.#file = file;
  }

  async executeQuery<R>({ sql, parameters }: CompiledQuery): Promise<QueryResult<R>> {
    return this.execute(sql, parameters);
  }

  execute<R>(text: string, parameters: readonly unknown[] = []): QueryResult<R> {
    const prepared = this.#file.prepare(text);
    if (prepared.writes) {
      this.wrote = true;
      this.#file.writes++;
    }
    const values = parameters.map(input);
    if (prepared.reads) return { rows: prepared.all(values) as R[] };
    const { changes, lastInsertRowid } = prepared.run(values);
    return { rows: [], numAffectedRows: BigInt(changes), insertId: BigInt(lastInsertRowid) };
  }

  rollBack(): void {
    // After some errors (a full disk) SQLite has rolled back by itself.
    if (this.#file.inTransaction) this.execute('rollback');
    this.wrote = false;
  }

  /** Whole at once: the store reads pages, which have an end. */
  async *streamQuery<R>(query: CompiledQuery): AsyncIterableIterator<QueryResult<R>> {
    yield await this.executeQuery<R>(query);
  }
}

interface Statement {
  /** Whether it answers with rows. */
  readonly reads: boolean;
  readonly writes: boolean;
  all(values: readonly SQLInputValue[]): unknown[];
  run(values: readonly SQLInputValue[]): { changes: number | bigint; lastInsertRowid: number | bigint };
}

/** An open database: the connection, who has it, and its statements. */
export class SqliteFile {
  readonly #database: DatabaseSync;
  readonly #statements = new Map<string, Statement>();
  readonly #waiting: (() => void)[] = [];
  #taken = false;
  /** What was written here, and how often another process was seen to have. */
  writes = 0;
  #version: unknown;
  #lookedAt = 0;
  #closed = false;
  readonly #closing: () => Promise<void>;

  /** `closing`: what is to be done before the database is closed. */
  constructor(database: DatabaseSync, closing: () => Promise<void>) {
    this.#database = database;
    this.#closing = closing;
  }

  /** Resolves when the connection is the caller's, who is to give it back. */
  async take(): Promise<void> {
    if (!this.#taken) this.#taken = true;
    else await new Promise<void>((resolve) => this.#waiting.push(resolve));
  }

  give(): void {
    const next = this.#waiting.shift();
    if (next) next();
    else this.#taken = false;
  }

  /** As `Store.written`. Other processes' writes are looked for (sqlite.org/pragma.html#pragma_data_version) every so often. */
  written(): number | null {
    const now = performance.now();
    if (now - this.#lookedAt < LOOK_MS) return this.writes;
    try {
      const { rows } = new FileConnection(this).execute<{ data_version: number }>('pragma data_version');
      const version = rows[0]?.data_version;
      if (version !== this.#version) this.writes++;
      this.#version = version;
      this.#lookedAt = now;
      return this.writes;
    } catch {
      return null;
    }
  }

  get inTransaction(): boolean {
    return this.#database.isTransaction;
  }

  prepare(text: string): Statement {
    const known = this.#statements.get(text);
    if (known) return known;
    const made = statement(this.#database, text);
    // What is asked often is soon there again.
    if (this.#statements.size >= MOST_PREPARED) this.#statements.clear();
    this.#statements.set(text, made);
    return made;
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.#closing();
    this.#database.close();
  }
}

function statement(database: DatabaseSync, text: string): Statement {
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
    reads: names.length > 0,
    writes: !/^\s*(?:select|begin|commit|pragma)\b/i.test(text),
    all: (values) => ours(() => prepared.all(...values).map(named)),
    run: (values) => ours(() => prepared.run(...values)),
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

/**
 * Flushes the write-ahead log of a database in WAL mode, off the main thread. With `synchronous = NORMAL` SQLite flushes it only before it
 * moves it into the database file (sqlite.org/pragma.html#pragma_synchronous), so all commits are on the disk once it was flushed after them.
 * Those who ask while it is flushed share the next time.
 */
export class WalFlush {
  readonly #path: string;
  readonly #rounds: Together<void>;
  #before: Promise<void> = Promise.resolve();
  #log: FileHandle | undefined;
  #closed = false;
  /** How often it was flushed. */
  rounds = 0;

  /** `path`: of the database, whose log lies beside it. */
  constructor(path: string) {
    this.#path = `${path}-wal`;
    this.#rounds = new Together(
      (round) => (this.#before = this.#before.then(round)),
      () => this.#flush(),
    );
  }

  /** Resolves when all that was committed is on the disk. Throws Failure `unavailable`. */
  async all(): Promise<void> {
    await this.#rounds.do();
  }

  /** Lets go of the log before the database is closed, which flushes what is left: the last flush has ended then. */
  async close(): Promise<void> {
    await this.#before;
    this.#closed = true;
    await this.#log?.close();
    this.#log = undefined;
  }

  async #flush(): Promise<void> {
    if (this.#closed) return;
    this.rounds++;
    try {
      this.#log ??= await open(this.#path, 'r');
      await this.#log.datasync();
    } catch (error) {
      throw new Failure('unavailable', 'The database could not be flushed to its disk; look at that disk.', {
        cause: error,
      });
    }
  }
}
