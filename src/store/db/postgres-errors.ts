import { Failure } from '../../model/failure.ts';
import { GaveWay, uniqueByName, Violation } from './violation.ts';

/** Codes of PostgreSQL's errors: https://www.postgresql.org/docs/current/errcodes-appendix.html */
const SQLSTATE = {
  unique: '23505',
  foreign: '23503',
  deadlock: '40P01',
  serialization: '40001',
  diskFull: '53100',
  readOnly: '25006',
  password: '28P01',
  authorization: '28000',
  noDatabase: '3D000',
  noPrivilege: '42501',
  tooManyConnections: '53300',
} as const;

/** Errors of sockets and name look-ups, and what `pg` itself says when a connection ends or a time is over. */
const LOST_CODES = [
  'ECONNREFUSED',
  'ECONNRESET',
  'ENOENT',
  'ENOTFOUND',
  'EAI_AGAIN',
  'EPIPE',
  'ETIMEDOUT',
  'EHOSTUNREACH',
  'ENETUNREACH',
];
const LOST_MESSAGES =
  /connection terminated|client has encountered|timeout|closed the connection|not queryable/i;

/** What `pg` itself says before a server has answered who we are; none of it has a code. */
const NO_PASSWORD = /^SASL: .*client password/;
const NO_TLS = /does not support SSL/;

/** Whether a connection is of no more use after this error. */
export function isConnectionLost(error: unknown): boolean {
  if (!(error instanceof Error)) return false;
  const code = codeOf(error);
  if (code !== undefined && isSqlState(code)) return isServerGone(code);
  return (code !== undefined && LOST_CODES.includes(code)) || LOST_MESSAGES.test(error.message);
}

/**
 * An error of `pg` as one of ours: a Violation, GaveWay, or a Failure when the server is the trouble. Others are given back
 * as they are. No sentence names the server or its user: an API's caller may see it.
 */
export function postgresError(error: unknown): unknown {
  if (!(error instanceof Error)) return error;
  const unavailable = (message: string): Failure => new Failure('unavailable', message, { cause: error });
  switch (codeOf(error)) {
    case SQLSTATE.unique:
      return new Violation('unique', uniqueByName(constraintOf(error)), error);
    case SQLSTATE.foreign:
      return new Violation('foreign', undefined, error);
    case SQLSTATE.deadlock:
    case SQLSTATE.serialization:
      return new GaveWay(error);
    case SQLSTATE.diskFull:
      return new Failure('no_space', 'The disk of the database server is full; make room on it.', {
        cause: error,
      });
    case SQLSTATE.readOnly:
      return unavailable(
        'The database is read-only: a standby, or set so. Point DATABASE_URL at the primary.',
      );
    case SQLSTATE.password:
    case SQLSTATE.authorization:
      return unavailable(
        'The database server refuses the user or password in DATABASE_URL; look at pg_hba.conf there.',
      );
    case SQLSTATE.noDatabase:
      return unavailable(
        'The database named in DATABASE_URL does not exist on its server; make it with createdb.',
      );
    case SQLSTATE.noPrivilege:
      return unavailable(
        'The user in DATABASE_URL may not do this in the database; make it the owner of the database.',
      );
    case SQLSTATE.tooManyConnections:
      return unavailable(
        'The database server has no connection left for hatchd; raise max_connections there, or end what holds them.',
      );
    default:
      return unforeseen(error);
  }
}

/** What comes without one of the codes above: of `pg` itself, or of a connection that is lost. */
function unforeseen(error: Error): unknown {
  const unavailable = (message: string): Failure => new Failure('unavailable', message, { cause: error });
  if (NO_PASSWORD.test(error.message))
    return unavailable(
      'The database server asks for a password, and DATABASE_URL has none: postgres://user:password@host:port/database.',
    );
  if (NO_TLS.test(error.message))
    return unavailable(
      'DATABASE_URL asks for TLS (sslmode), which the database server does not offer; switch it on there, or take sslmode away.',
    );
  if (isConnectionLost(error))
    return unavailable(
      'The database server named in DATABASE_URL does not answer; look whether it runs and can be reached from here.',
    );
  return error;
}

function codeOf(error: Error): string | undefined {
  return 'code' in error && typeof error.code === 'string' ? error.code : undefined;
}

function constraintOf(error: Error): string | undefined {
  return 'constraint' in error && typeof error.constraint === 'string' ? error.constraint : undefined;
}

function isSqlState(code: string): boolean {
  return /^[0-9A-Z]{5}$/.test(code) && /[0-9]/.test(code);
}

/** Connection exceptions, too many connections, and a server that shuts down, crashed or still starts. */
function isServerGone(code: string): boolean {
  return code.startsWith('08') || code === '53300' || code.startsWith('57P');
}
