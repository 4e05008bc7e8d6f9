import type { MachineExit } from '../driver.ts';

/** What was seen of a Firecracker that has ended. */
export interface Ending {
  /** `kill` was called on it. */
  readonly killed: boolean;
  /** What the guest said on its console that it had done, before it was ended for that. */
  readonly said: 'poweroff' | 'panic' | null;
  /** Of the process, where we are its parent. */
  readonly exitCode: number | null;
  readonly signal: string | null;
  /** The kernel has ended it because it took more memory than its limit. */
  readonly outOfMemory: boolean;
  /** What the guest wrote to its console since this process was started (its end is enough). */
  readonly console: string;
  /** The last of Firecracker's own output and log. */
  readonly output: string;
}

/** Why a process in a cgroup ended that was killed there. */
export const OUT_OF_MEMORY =
  'the kernel ended Firecracker because it took more memory than its limit (memory.max of its cgroup)';

const MARKER = /hatch-shutdown: (poweroff|reboot)/g;

/** Firecracker's exit codes (src/vmm/src/lib.rs, FcExitCode). */
const CODES: Readonly<Record<number, string>> = {
  1: 'it failed',
  2: 'it met an error it did not expect',
  148: 'it made a system call its filter forbids',
  149: 'memory it maps is gone: was a memory file or disk cut, or the disk full? (SIGBUS)',
  150: 'it touched memory that is not its own (SIGSEGV)',
  151: 'a file grew beyond its limit (SIGXFSZ)',
  152: 'it was configured wrongly',
  153: 'it does not know an argument it was given',
  154: 'it used up its processor time (SIGXCPU)',
  155: 'a pipe broke (SIGPIPE)',
  156: 'its terminal went away (SIGHUP)',
  157: 'it met an instruction the processor does not know (SIGILL)',
};

/**
 * Why a machine ended. Exit code 0 says little: a reboot and a panic (`panic=-1`) both give it, and a guest that powers off
 * leaves the process running on x86_64. So the guest's own words come first, as its console has them.
 */
export function exitReason(ending: Ending): MachineExit {
  if (ending.said === 'poweroff') return { kind: 'poweroff' };
  const marker = [...ending.console.matchAll(MARKER)].at(-1);
  const panic = ending.console.lastIndexOf('Kernel panic');
  const panicked = ending.said === 'panic' || panic > (marker?.index ?? -1);
  if (
    panicked &&
    (ending.said === 'panic' || ending.exitCode === 0 || ending.exitCode === null) &&
    !ending.killed
  )
    return { kind: 'panic', console: ending.console.slice(-4000) };
  if (ending.killed) return { kind: 'killed' };
  if (ending.outOfMemory)
    return { kind: 'crashed', exitCode: ending.exitCode, signal: ending.signal, message: OUT_OF_MEMORY };
  if (ending.exitCode === 0) return { kind: marker?.[1] === 'poweroff' ? 'poweroff' : 'reboot' };
  // A daemon that adopted it does not learn the code; a guest that had said what it does has done it.
  if (ending.exitCode === null && ending.signal === null && marker)
    return { kind: marker[1] === 'reboot' ? 'reboot' : 'poweroff' };
  const known = ending.exitCode === null ? undefined : CODES[ending.exitCode];
  const last = ending.output.trim().split('\n').at(-1) ?? '';
  return {
    kind: 'crashed',
    exitCode: ending.exitCode,
    signal: ending.signal,
    message: [known, last].filter((part) => part !== undefined && part !== '').join('; '),
  };
}
