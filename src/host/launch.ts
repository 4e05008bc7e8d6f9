import { spawn, type ChildProcess, type StdioOptions } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';

/** A program to be started: in a session of its own, with exactly this environment. */
export interface Launch {
  readonly argv: readonly [string, ...string[]];
  readonly cwd: string | undefined;
  readonly env: Readonly<Record<string, string>>;
  /** `piped`: what it says is heard, and `input` is what it is given. Else files its output is appended to. */
  readonly output: 'piped' | { readonly stdout: string; readonly stderr: string };
  readonly input: string | Uint8Array;
  /** Its input does not end with `input`: it waits for `giveRest`. */
  readonly restComes?: boolean | undefined;
  /** As umask(2); that of whoever starts it unless told. */
  readonly umask?: number | undefined;
}

/** What is heard of a program that was started. */
export type Heard =
  | { readonly kind: 'spawned'; readonly pid: number }
  /** It could not be started; nothing more is heard. */
  | { readonly kind: 'failed'; readonly code: string | undefined; readonly message: string }
  | { readonly kind: 'output'; readonly stream: 'stdout' | 'stderr'; readonly chunk: Uint8Array }
  | { readonly kind: 'exit'; readonly code: number | null; readonly signal: NodeJS.Signals | null }
  /** It has ended and said all. */
  | { readonly kind: 'close'; readonly code: number | null; readonly signal: NodeJS.Signals | null }
  /** Whoever would have told more has gone; nothing more is heard. */
  | { readonly kind: 'lost' };

/** A program that was started. */
export interface Launched {
  /** Kills it, with all that it started. */
  readonly kill: () => void;
  /** Gives it the rest of its input, which ends with that. */
  readonly giveRest: (rest: string | Uint8Array) => void;
}

/** Starts a program, and tells what becomes of it. */
export type Launcher = (launch: Launch, hear: (heard: Heard) => void) => Launched;

/** Starts programs as children of this very process, which stands still for as long as the kernel takes to copy its page tables. */
export const launchHere: Launcher = (what, hear) => {
  const {
    argv: [program, ...args],
    cwd,
    env,
    output,
    input,
    restComes = false,
    umask,
  } = what;
  const opened: number[] = [];
  let child: ChildProcess;
  let stdio: StdioOptions | undefined;
  try {
    stdio = stdioOf(output, opened);
    child = withUmask(umask, () => spawn(program, args, { cwd, env, detached: true, stdio }));
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    // Of a file for its output that cannot be opened: that code would say something else of the program.
    hear({ kind: 'failed', code: stdio === undefined ? undefined : code, message });
    return { kill: () => undefined, giveRest: () => undefined };
  } finally {
    for (const fd of new Set(opened)) closeSync(fd);
  }
  const { pid } = child;
  child.once('spawn', () => {
    if (pid !== undefined) hear({ kind: 'spawned', pid });
  });
  // A program that is not there gives `error` and neither `exit` nor `close`.
  child.on('error', ({ code, message }: NodeJS.ErrnoException) => hear({ kind: 'failed', code, message }));
  for (const stream of ['stdout', 'stderr'] as const)
    child[stream]?.on('data', (chunk: Buffer) => hear({ kind: 'output', stream, chunk }));
  child.once('exit', (code, signal) => hear({ kind: 'exit', code, signal }));
  child.once('close', (code, signal) => {
    if (pid !== undefined) hear({ kind: 'close', code, signal });
  });
  // A program that does not read its input to the end is no failure by itself.
  child.stdin?.on('error', () => undefined);
  if (restComes) child.stdin?.write(input);
  else child.stdin?.end(input);
  if (output !== 'piped') child.unref();
  return { kill: () => killGroup(pid), giveRest: (rest) => void child.stdin?.end(rest) };
};

/** A program has the umask of the moment it is started in. */
function withUmask<T>(umask: number | undefined, work: () => T): T {
  if (umask === undefined) return work();
  const before = process.umask(umask);
  try {
    return work();
  } finally {
    process.umask(before);
  }
}

function stdioOf(output: Launch['output'], opened: number[]): StdioOptions {
  if (output === 'piped') return 'pipe';
  const err = openSync(output.stderr, 'a', 0o600);
  opened.push(err);
  const out = output.stdout === output.stderr ? err : openSync(output.stdout, 'a', 0o600);
  opened.push(out);
  return ['ignore', out, err];
}

/** Kills a process and all it started that stayed in its group. */
export function killGroup(pid: number | undefined): void {
  if (pid === undefined) return;
  try {
    process.kill(-pid, 'SIGKILL');
  } catch {
    // It has ended already.
  }
}

/** Why a program could not be started, with the system's code. */
export function launchError({ code, message }: Extract<Heard, { readonly kind: 'failed' }>): Error {
  return Object.assign(new Error(message), code === undefined ? {} : { code });
}

let chosen: Launcher = launchHere;

/** Starts a program by the launcher this process uses. */
export const launch: Launcher = (what, hear) => chosen(what, hear);

/** Has this process start programs by another launcher from now on; gives how the one before is taken again. */
export function useLauncher(launcher: Launcher): () => void {
  const before = chosen;
  chosen = launcher;
  return () => {
    chosen = before;
  };
}
