import { appendFile, chown, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import pg from 'pg';
import { run, type Argv } from '../../src/host/run.ts';
import { processesOf } from './leaks.ts';

/** A throw-away PostgreSQL server of Debian's package, reached by a Unix socket alone: it listens on no network. */
export interface Postgres {
  /** The URL of a database of it, as DATABASE_URL takes it. */
  url(database: string, password?: string): string;
  /** Makes an empty database and gives its URL. Its owner, whom the URL names, is an ordinary role. */
  createDatabase(name: string): Promise<string>;
  /** Runs a statement as the superuser and gives its rows. */
  admin(sql: string, database?: string): Promise<readonly Record<string, unknown>[]>;
  start(): Promise<void>;
  /** `fast` ends its sessions in order; `immediate` is a crash, from which the next start recovers. */
  stop(how: 'fast' | 'immediate'): Promise<void>;
  /** Stops (SIGSTOP) or continues all its processes: a server that hangs and says nothing. */
  signal(name: 'SIGSTOP' | 'SIGCONT'): Promise<void>;
  /** Stops it and removes everything of it. */
  dispose(): Promise<void>;
}

/** Where Debian keeps them, a folder per major version. */
const PROGRAMS = '/usr/lib/postgresql';
/** Whom the server runs as, since it refuses to run as root: a user that Debian's package makes. */
const SYSTEM_USER = 'postgres';
/** The role that owns the databases, and its password, which a URL has to percent-encode. */
const ROLE = 'hatch';
export const PASSWORD = 'hunter2:/@% ü';

const SETTINGS = [
  "listen_addresses = ''",
  'shared_buffers = 16MB',
  // Nothing outside of its folder, in /dev/shm either.
  'dynamic_shared_memory_type = mmap',
  // The server is killed in these tests, the machine is not: the kernel keeps what was written.
  'fsync = off',
  // By default a deadlock is looked for after a second.
  'deadlock_timeout = 100ms',
];

/** Makes the server in a folder of $TMPDIR, which it must be able to enter, and starts it. Needs root. */
export async function makePostgres(): Promise<Postgres> {
  const programs = await newestPrograms();
  const { uid, gid } = await systemUser();
  // Short: the path of a Unix socket may have 107 bytes (unix(7)).
  const folder = await mkdtemp(join(tmpdir(), 'pg-'));
  const data = join(folder, 'data');
  const asUser = (program: string, ...args: readonly string[]): Promise<unknown> => {
    const who: Argv = ['setpriv', `--reuid=${uid}`, `--regid=${gid}`, '--clear-groups', '--'];
    return run([...who, join(programs, program), `--pgdata=${data}`, ...args], {
      cwd: folder,
      timeoutMs: 120_000,
    });
  };
  const admin: Postgres['admin'] = async (sql, database = 'postgres') => {
    const client = new pg.Client({ host: folder, user: SYSTEM_USER, database });
    await client.connect();
    try {
      return (await client.query<Record<string, unknown>>(sql)).rows;
    } finally {
      await client.end();
    }
  };
  const url: Postgres['url'] = (database, password = PASSWORD) =>
    `postgres://${ROLE}:${encodeURIComponent(password)}@${encodeURIComponent(folder)}/${database}`;
  const start = async (): Promise<void> => {
    await asUser('pg_ctl', 'start', '--wait', '--silent', `--log=${join(folder, 'log')}`, `-o -k ${folder}`);
  };
  const stop = async (how: 'fast' | 'immediate'): Promise<void> => {
    await asUser('pg_ctl', 'stop', '--wait', '--silent', `--mode=${how}`);
  };
  const signal: Postgres['signal'] = async (name) => {
    for (const line of await processesOf(folder)) process.kill(parseInt(line, 10), name);
  };
  const dispose = async (): Promise<void> => {
    // Not running is status 3: a test may have stopped it.
    if (await runs(asUser)) await stop('fast');
    await rm(folder, { recursive: true });
  };
  try {
    await chown(folder, uid, gid);
    await asUser('initdb', `--username=${SYSTEM_USER}`, '--encoding=UTF8', '--locale=C', '--no-sync');
    await appendFile(join(data, 'postgresql.conf'), `${SETTINGS.join('\n')}\n`);
    // The superuser needs no password: only root and the server's own user can enter the folder of the socket.
    await writeFile(
      join(data, 'pg_hba.conf'),
      `local all ${SYSTEM_USER} trust\nlocal all all scram-sha-256\n`,
    );
    await start();
    await admin(`create role ${ROLE} login password '${PASSWORD}'`);
  } catch (error) {
    await dispose();
    throw error;
  }
  return {
    url,
    createDatabase: async (name) => {
      await admin(`create database ${name} owner ${ROLE}`);
      return url(name);
    },
    admin,
    start,
    stop,
    signal,
    dispose,
  };
}

async function runs(
  asUser: (program: string, ...args: readonly string[]) => Promise<unknown>,
): Promise<boolean> {
  return asUser('pg_ctl', 'status').then(
    () => true,
    () => false,
  );
}

/** The folder of the newest version's programs. */
async function newestPrograms(): Promise<string> {
  const versions = (await readdir(PROGRAMS).catch(() => [])).filter((name) => /^\d+$/.test(name));
  const newest = versions.sort((a, b) => Number(b) - Number(a))[0];
  if (newest === undefined) throw new Error(`There is no PostgreSQL in ${PROGRAMS}: "npm test" installs it.`);
  return join(PROGRAMS, newest, 'bin');
}

async function systemUser(): Promise<{ readonly uid: number; readonly gid: number }> {
  const [, , uid, gid] = (await run(['getent', 'passwd', SYSTEM_USER])).stdout.split(':').map(Number);
  if (uid === undefined || gid === undefined) throw new Error(`There is no user ${SYSTEM_USER}.`);
  return { uid, gid };
}
