import { readlink, realpath } from 'node:fs/promises';
import { join } from 'node:path';
import { systemClock } from '../../base/clock.ts';
import { deadline, DeadlineExceeded } from '../../base/deadline.ts';
import { parseId, type VmId } from '../../base/ids.ts';
import { until } from '../../base/until.ts';
import { commandLine as argvOf, isAlive, signalProcess } from '../../host/process.ts';
import type { VmmProcess } from '../../model/vm.ts';
import { VmmError } from '../driver.ts';
import { nameOf } from './command-line.ts';

/** The VM whose QEMU a process is: by its name, and by the folder it runs in, which lies in `folder`. */
export async function vmOfQemu(folder: string, pid: number): Promise<VmId | undefined> {
  const argv = await argvOf(pid);
  const name = argv ? valueAfter(argv, '-name') : '';
  const vmId = name.startsWith('hatch-') ? parseId('vm', name.slice('hatch-'.length)) : undefined;
  if (vmId === undefined || name !== nameOf(vmId)) return undefined;
  try {
    // A folder that was removed under it is shown with this after its name.
    const cwd = (await readlink(`/proc/${pid}/cwd`)).replace(/ \(deleted\)$/, '');
    return cwd === join(await realpath(folder), vmId) ? vmId : undefined;
  } catch {
    return undefined;
  }
}

/**
 * Kills a QEMU and resolves when it is gone. No failure when it is already. Throws VmmError `timeout` for one that the kernel
 * does not let go, as happens when its disk does not answer.
 */
export async function endQemu(process: VmmProcess): Promise<void> {
  if (!(await signalProcess(process, 'SIGKILL'))) return;
  try {
    await deadline('the end of QEMU', 10_000, (signal) => untilGone(process, signal));
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

/** The argument after a flag; empty when the flag is not there. */
export function valueAfter(argv: readonly string[], flag: string): string {
  const at = argv.indexOf(flag);
  return at === -1 ? '' : (argv[at + 1] ?? '');
}
