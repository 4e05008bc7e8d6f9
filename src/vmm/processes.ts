import { readFile } from 'node:fs/promises';
import { systemClock } from '../base/clock.ts';
import { deadline, DeadlineExceeded } from '../base/deadline.ts';
import { until } from '../base/until.ts';
import { isAlive, signalProcess, type Detached } from '../host/process.ts';
import type { VmmProcess } from '../model/vm.ts';
import { VmmError } from './driver.ts';

/** What every VMM's process has in common, whatever it is (proc(5)). */

const END_MS = 10_000;
const CLOCK_TICKS = 100;
const PAGE_BYTES = 4096;

/**
 * Kills a VMM and resolves when it is gone. No failure when it is already. Throws VmmError `timeout` for one that the kernel
 * does not let go, as happens when its disk does not answer.
 */
export async function endProcess(process: VmmProcess, what: string): Promise<void> {
  if (!(await signalProcess(process, 'SIGKILL'))) return;
  try {
    await deadline(`the end of ${what}`, END_MS, (signal) => untilGone(process, signal));
  } catch (error) {
    if (!(error instanceof DeadlineExceeded)) throw error;
    throw new VmmError(error.message, { kind: 'timeout', cause: error });
  }
}

/** Resolves when a process has ended; rejects with the signal's reason when it aborts first. */
export async function untilGone(process: VmmProcess, signal: AbortSignal): Promise<void> {
  await until({ clock: systemClock, signal }, async () => ((await isAlive(process)) ? undefined : true), {
    firstMs: 2,
    mostMs: 100,
  });
}

const SETTLE_MS = 5000;
const CODE_MS = 1000;

/**
 * Waits for the end of a VMM whose connection to us has ended, which it does a moment before it is gone, and gives its exit code or
 * signal where we are its parent (`child`). One that closes its connection and lives on is killed. Rejects with the signal's
 * reason when it aborts first.
 */
export async function howItEnded(
  process: VmmProcess,
  what: string,
  child: Detached['exited'] | undefined,
  signal: AbortSignal,
): Promise<{ readonly exitCode: number | null; readonly signal: string | null }> {
  await deadline(`the end of ${what}`, SETTLE_MS, (within) => untilGone(process, within), signal).catch(
    async (error: unknown) => {
      if (signal.aborted) throw error;
      await signalProcess(process, 'SIGKILL');
    },
  );
  const ended = child && (await Promise.race([child, systemClock.sleep(CODE_MS).then(() => undefined)]));
  return { exitCode: ended?.code ?? null, signal: ended?.signal ?? null };
}

/** What a process has used of the processor and for how long it is there, in seconds, and what it holds of memory, in bytes. */
export interface Usage {
  readonly cpuSeconds: number;
  readonly rssBytes: number;
  readonly uptimeSeconds: number;
}

/** Looks at a VMM's process. Throws VmmError when it has ended. */
export async function usageOf(process: VmmProcess): Promise<Usage> {
  let stat: string, uptime: string;
  try {
    if (!(await isAlive(process))) throw new Error(`process ${process.pid} is another or none`);
    stat = await readFile(`/proc/${process.pid}/stat`, 'utf8');
    uptime = await readFile('/proc/uptime', 'utf8');
  } catch (error) {
    throw new VmmError('the hypervisor has ended', { cause: error });
  }
  const fields = stat
    .slice(stat.lastIndexOf(')') + 2)
    .split(' ')
    .map(Number);
  const [user = 0, system = 0, started = 0, pages = 0] = [fields[11], fields[12], fields[19], fields[21]];
  return {
    cpuSeconds: (user + system) / CLOCK_TICKS,
    rssBytes: pages * PAGE_BYTES,
    uptimeSeconds: Math.max(0, Number(uptime.split(' ')[0]) - started / CLOCK_TICKS),
  };
}

/**
 * The bytes of the host's memory a VMM's process holds, each page it shares divided by how many share it (Pss, proc(5)
 * /proc/PID/smaps_rollup): copies of one machine map the same memory file, and by their RSS each would have all of it. Where this may not
 * be read, which takes the rights of a debugger, it is the RSS. Throws VmmError when the process has ended.
 */
export async function heldBytesOf(process: VmmProcess): Promise<number> {
  const { rssBytes } = await usageOf(process);
  const rollup = await readFile(`/proc/${process.pid}/smaps_rollup`, 'utf8').catch(() => '');
  const kib = /^Pss:\s+(\d+) kB$/m.exec(rollup)?.[1];
  return kib === undefined ? rssBytes : Number(kib) * 1024;
}

/**
 * A socket's path that is short whatever the folder's: a unix socket's address holds 108 bytes (unix(7)), and /proc/PID/cwd is
 * the VMM's working folder, in a jail too.
 */
export function socketPath({ pid }: Pick<VmmProcess, 'pid'>, name: string): string {
  return `/proc/${pid}/cwd/${name}`;
}

/** The argument after a flag; empty when the flag is not there. */
export function valueAfter(argv: readonly string[], flag: string): string {
  const at = argv.indexOf(flag);
  return at === -1 ? '' : (argv[at + 1] ?? '');
}
