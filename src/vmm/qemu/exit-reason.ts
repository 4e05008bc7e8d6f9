import type { MachineExit } from '../driver.ts';
import { NO_MEMORY } from './explain.ts';

/** What was seen of a QEMU that has ended. */
export interface Ending {
  /** `kill` was called on it. */
  readonly killed: boolean;
  /** The reason of QMP's SHUTDOWN event, if one came: guest-shutdown, guest-reset, guest-panic, host-signal... */
  readonly shutdown: string | null;
  /** Of the process, where we are its parent. */
  readonly exitCode: number | null;
  readonly signal: string | null;
  /** The kernel has ended it because it took more memory than its limit. */
  readonly outOfMemory: boolean;
  /** What the guest wrote to its console since this QEMU was started (its end is enough). */
  readonly console: string;
  /** The last of QEMU's own output. */
  readonly output: string;
}

/** Why a QEMU in a cgroup ended that was killed there. */
export const OUT_OF_MEMORY =
  'the kernel ended QEMU because it took more memory than its limit (memory.max of its cgroup)';

const MARKER = /hatch-shutdown: (poweroff|reboot)/g;

/**
 * Why a machine ended. A guest that powers off, reboots or panics ends QEMU alike (`-no-reboot`, `panic=-1`), so the guest's
 * own words come first: the line its shutdown hook writes last, then the kernel's panic; only then QEMU's SHUTDOWN reason.
 */
export function exitReason(ending: Ending): MachineExit {
  if (ending.killed) return { kind: 'killed' };
  const marker = [...ending.console.matchAll(MARKER)].at(-1);
  const panic = ending.console.lastIndexOf('Kernel panic');
  if (panic !== -1 && panic > (marker?.index ?? -1)) return { kind: 'panic', console: tail(ending.console) };
  if (ending.shutdown === 'guest-panic') return { kind: 'panic', console: tail(ending.console) };
  const asked =
    ending.shutdown === 'guest-shutdown' || ending.shutdown === 'guest-reset' || ending.exitCode === 0;
  if (asked && marker) return { kind: marker[1] === 'reboot' ? 'reboot' : 'poweroff' };
  if (ending.shutdown === 'guest-shutdown') return { kind: 'poweroff' };
  if (ending.shutdown === 'guest-reset') return { kind: 'reboot' };
  // A daemon that adopted it and missed the event has only the guest's own word.
  if (marker && ending.signal === null && ending.exitCode === null)
    return { kind: marker[1] === 'reboot' ? 'reboot' : 'poweroff' };
  const { exitCode, signal } = ending;
  const said = lastLine(ending.output) || (signal === 'SIGBUS' ? NO_MEMORY : '');
  return { kind: 'crashed', exitCode, signal, message: ending.outOfMemory ? OUT_OF_MEMORY : said };
}

function tail(text: string): string {
  return text.slice(-4000);
}

function lastLine(text: string): string {
  return text.trim().split('\n').at(-1) ?? '';
}
