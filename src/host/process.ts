import { readFile } from 'node:fs/promises';
import { setTimeout } from 'node:timers/promises';
import { launch, launchError, type Heard } from './launch.ts';
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

/**
 * Reads who a pid is now; undefined when it has ended. A zombie has, once it is alone: its first thread may be one while others still go, and
 * until the last of them has gone the process holds its files, with their locks, and its memory.
 */
export async function identify(pid: number): Promise<ProcessIdentity | undefined> {
  let stat: string;
  try {
    stat = await readFile(`/proc/${pid}/stat`, 'utf8');
  } catch {
    return undefined;
  }
  // The second field is the program's name in brackets and may hold anything, brackets too.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  const [state, threads, startTime] = [fields[0], Number(fields[17]), fields[19]];
  if (state === undefined || startTime === undefined || state === 'X') return undefined;
  if (state === 'Z' && threads <= 1) return undefined;
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
  readonly exited: Promise<Ending>;
}

interface Ending {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

/** How often it is looked whether a process has ended that is no child any more. */
const GONE_MS = 500;

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
    umask,
  }: {
    readonly cwd: string;
    readonly log: string;
    readonly stdout?: string;
    readonly env?: Readonly<Record<string, string>>;
    /** Rights that no file it makes has, as umask(2); ours unless told. */
    readonly umask?: number;
  },
): Promise<Detached> {
  const exit = Promise.withResolvers<Ending>();
  const { promise, resolve, reject } = Promise.withResolvers<Detached>();
  let identity: ProcessIdentity | undefined;
  const begin = async (pid: number): Promise<void> => {
    identity = await identify(pid);
    if (identity) return resolve({ identity, exited: exit.promise });
    const { code } = await exit.promise;
    reject(new CommandFailed(argv, `ended at once with exit code ${code}`, { exitCode: code ?? undefined }));
  };
  const hear = (heard: Heard): void => {
    switch (heard.kind) {
      case 'spawned':
        begin(heard.pid).catch(reject);
        return;
      case 'failed':
        return reject(
          new CommandFailed(argv, heard.code === 'ENOENT' ? 'is not installed' : 'could not be started', {
            missing: heard.code === 'ENOENT',
            cause: launchError(heard),
          }),
        );
      case 'exit':
        return exit.resolve({ code: heard.code, signal: heard.signal });
      case 'lost':
        if (!identity)
          reject(new CommandFailed(argv, 'was lost: the process that starts programs was killed', {}));
        else void whenGone(identity).then(exit.resolve);
        return;
      case 'output':
      case 'close':
    }
  };
  launch(
    { argv, cwd, env: { ...BASE_ENV, ...env }, output: { stdout, stderr: log }, input: '', umask },
    hear,
  );
  return promise;
}

/** Looks from time to time until a process that is nobody's child any more has ended; how is not to be had. It keeps nobody from ending. */
async function whenGone(identity: ProcessIdentity): Promise<Ending> {
  while (await isAlive(identity)) await setTimeout(GONE_MS, undefined, { ref: false });
  return { code: null, signal: null };
}
