import { Kysely, PostgresDialect, sql } from 'kysely';
import pg from 'pg';
import { errorFields, type Logger } from '../../base/logger.ts';
import { Failure } from '../../model/failure.ts';
import type { Asked, Engine } from './engine.ts';
import { PoolDriver } from './postgres-driver.ts';
import type { Tables } from './tables.ts';

/** How long a connection may take to be made, or to come free. */
const CONNECT_TIMEOUT_MS = 5000;
/** How long one query may take: a server that has gone without a word must not hold us for ever. */
const QUERY_TIMEOUT_MS = 30_000;
const CONNECTIONS = 10;

/** PostgreSQL's id of the type int8 (pg_type.dat): counts, sums and times, which become numbers. */
const INT8 = 20;

/** An arbitrary number: the advisory lock behind which events wait for each other. */
const EVENTS_LOCK = 4_838_292_061;

/**
 * Opens a pool of connections to PostgreSQL. None is made yet: the first query says in a sentence when the server cannot
 * be reached. A connection that is lost is left behind, and the next query makes a new one. `asked` is told each query. Throws `invalid_request` for a
 * URL that is none.
 */
export function openPostgres(url: string, log: Logger, asked?: Asked): Omit<Engine, 'clock'> {
  const pool = makePool(url);
  const lost = (error: Error): void => log.warn(errorFields(error), 'a connection to the database was lost');
  // An `error` nobody listens to would end the process: the pool's are of idle connections, a client's of one in use.
  pool.on('error', lost);
  pool.on('connect', (client) => client.on('error', lost));
  const db = new Kysely<Tables>({
    dialect: new PoolDialect(pool),
    ...(asked ? { log: ({ query }) => asked(query) } : {}),
  });
  return {
    name: 'postgres',
    db,
    // Its flushes keep nobody else waiting, and are those of all who commit at once.
    unflushed: (work) => work(db),
    now: sql<number>`(extract(epoch from clock_timestamp()) * 1000)::bigint`,
    lineUpEvents: async (trx) => {
      await sql`select pg_advisory_xact_lock(${sql.lit(EVENTS_LOCK)})`.execute(trx);
    },
  };
}

function makePool(url: string): pg.Pool {
  try {
    // Read here too, by the same parser: the pool reads it only when it makes its first connection.
    new pg.Client({ connectionString: url });
    return new pg.Pool({
      connectionString: url,
      max: CONNECTIONS,
      connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
      query_timeout: QUERY_TIMEOUT_MS,
      keepAlive: true,
      application_name: 'hatchd',
      types: {
        getTypeParser: (id, format) =>
          Number(id) === INT8
            ? (text: string) => Number(text)
            : (pg.types.getTypeParser(id, format) as unknown),
      },
    });
  } catch (error) {
    // The cause would hold the URL, and with it a password.
    throw new Failure(
      'invalid_request',
      `DATABASE_URL is no valid postgres:// URL${error instanceof Error && 'code' in error ? ` (${String(error.code)})` : ''}; characters such as @ : / in a password must be percent-encoded.`,
      { details: { field: 'DATABASE_URL' } },
    );
  }
}

class PoolDialect extends PostgresDialect {
  readonly #pool: pg.Pool;
  constructor(pool: pg.Pool) {
    super({ pool });
    this.#pool = pool;
  }
  override createDriver(): PoolDriver {
    return new PoolDriver(this.#pool);
  }
}
