import { spawn } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import type { Argv } from './run.ts';
import { BASE_ENV, CommandFailed } from './run.ts';

/**
 * Linux processes that outlive us. A pid alone names nothing: it is used again. A process is known by its pid, its start
 * time (field 22 of /proc/PID/stat, in clock ticks since boot; proc(5)) and the boot it belongs to.
 */
export interface ProcessIdentity {
  readonly pid: number;
  /** Clock ticks after boot, as /proc/PID/stat has it. */
  readonly startTime: string;
  /** /proc/sys/kernel/random/boot_id */
  readonly bootId: string;
}

/** This boot's id. Throws when /proc is not there. */
export async function bootId(): Promise<string> {
  return (await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).trim();
}

/** Reads who a pid is now; undefined when it has ended (a zombie has). */
export async function identify(pid: number): Promise<ProcessIdentity | undefined> {
  let stat: string;
  try {
    stat = await readFile(`/proc/${pid}/stat`, 'utf8');
  } catch {
    return undefined;
  }
  // The second field is the program's name in brackets and may hold anything, brackets too.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  const [state, startTime] = [fields[0], fields[19]];
  if (state === undefined || startTime === undefined || state === 'Z' || state === 'X') return undefined;
  return { pid, startTime, bootId: await bootId() };
}

/** Whether this very process still runs. */
export async function isAlive(identity: ProcessIdentity): Promise<boolean> {
  const now = await identify(identity.pid);
  return now !== undefined && now.startTime === identity.startTime && now.bootId === identity.bootId;
}

/** Sends a signal to exactly this process; false when it has ended already. */
export async function signalProcess(identity: ProcessIdentity, signal: NodeJS.Signals): Promise<boolean> {
  if (!(await isAlive(identity))) return false;
  try {
    process.kill(identity.pid, signal);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ESRCH') return false;
    throw error;
  }
}

/** The arguments a process was started with; undefined when it has ended. */
export async function commandLine(pid: number): Promise<readonly string[] | undefined> {
  try {
    return (await readFile(`/proc/${pid}/cmdline`, 'utf8')).split('\0').slice(0, -1);
  } catch {
    return undefined;
  }
}

export interface Detached {
  readonly identity: ProcessIdentity;
  /** Resolves when it ends, while we are there to see it: its exit code, or the signal that killed it. */
  readonly exited: Promise<{ readonly code: number | null; readonly signal: NodeJS.Signals | null }>;
}

/**
 * Starts a program in a session of its own that goes on when we end. Its output is appended to the file `log`, its
 * standard output to `stdout` where that is given. Resolves once it runs; throws CommandFailed when it cannot be started.
 */
export function spawnDetached(
  argv: Argv,
  {
    cwd,
    log,
    stdout = log,
    env = {},
  }: {
    readonly cwd: string;
    readonly log: string;
    readonly stdout?: string;
    readonly env?: Readonly<Record<string, string>>;
  },
): Promise<Detached> {
  return new Promise((resolve, reject) => {
    const err = openSync(log, 'a', 0o600);
    let out = err;
    const [program, ...args] = argv;
    let child;
    try {
      if (stdout !== log) out = openSync(stdout, 'a', 0o600);
      child = spawn(program, args, {
        cwd,
        env: { ...BASE_ENV, ...env },
        detached: true,
        stdio: ['ignore', out, err],
      });
    } finally {
      closeSync(err);
      if (out !== err) closeSync(out);
    }
    const exited = new Promise<{ code: number | null; signal: NodeJS.Signals | null }>((done) => {
      child.once('exit', (code, signal) => done({ code, signal }));
    });
    child.once('error', (error: NodeJS.ErrnoException) =>
      reject(
        new CommandFailed(argv, error.code === 'ENOENT' ? 'is not installed' : 'could not be started', {
          missing: error.code === 'ENOENT',
          cause: error,
        }),
      ),
    );
    child.once('spawn', () => {
      child.unref();
      const { pid } = child;
      if (pid === undefined) return reject(new CommandFailed(argv, 'has no pid', {}));
      identify(pid).then((identity) => {
        if (identity) resolve({ identity, exited });
        else
          void exited.then(({ code }) =>
            reject(
              new CommandFailed(argv, `ended at once with exit code ${code}`, {
                exitCode: code ?? undefined,
              }),
            ),
          );
      }, reject);
    });
  });
}
