import { chown, mkdtemp, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { remove } from '../../host/files.ts';
import { VmmError } from '../driver.ts';
import type { UidRange } from '../uids.ts';

/** Whether and as whom QEMUs are to run. */
export interface UsersWish {
  /** `auto`: as users of their own where that can be; `on`: or not at all. */
  readonly mode: 'auto' | 'on' | 'off';
  readonly uids: UidRange;
}

/** What is given up where every QEMU runs as hatchd does, for the log and for `hatchd doctor`. */
export const LOST_WITHOUT_USERS =
  "each guest's QEMU runs as hatchd's own user, with all its rights, and only its seccomp filter confines one that was taken over";

/** What hatchd needs of root to start QEMUs as others, and to look after them then (capabilities(7)). */
const NEEDED: readonly (readonly [name: string, bit: bigint])[] = [
  ['CAP_CHOWN', 0n],
  ['CAP_DAC_OVERRIDE', 1n],
  ['CAP_FOWNER', 3n],
  ['CAP_KILL', 5n],
  ['CAP_SETGID', 6n],
  ['CAP_SETUID', 7n],
  // Sockets, memory and open files of another's process are reached through its /proc/PID (ptrace(2), access mode checking).
  ['CAP_SYS_PTRACE', 19n],
];

/**
 * The users QEMUs can run as here, or why there are none. `folder`: of all VMs' folders, looked at where it is there. Throws VmmError in
 * a sentence where that is more than a pity. `status`: /proc/PID/status of hatchd.
 */
export async function usableUsers(
  { mode, uids }: UsersWish,
  folder: string,
  status = '/proc/self/status',
): Promise<{ readonly uids: UidRange } | { readonly why: string }> {
  if (mode === 'off') return { why: 'HATCH_QEMU_USERS=off' };
  const why = (await whyNotAllowed(status)) ?? (await whyNotGiven(folder, uids));
  if (why === undefined) return { uids };
  if (mode === 'on')
    throw new VmmError(`HATCH_QEMU_USERS=on, but ${why}; mend that, or set HATCH_QEMU_USERS=off.`);
  return { why };
}

async function whyNotAllowed(status: string): Promise<string | undefined> {
  const text = await readFile(status, 'utf8');
  if (!/^Uid:\s+\d+\s+0\s/m.test(text)) return 'hatchd does not run as root';
  const has = BigInt(`0x${/^CapEff:\s+([0-9a-f]+)$/m.exec(text)?.[1] ?? '0'}`);
  const missing = NEEDED.filter(([, bit]) => ((has >> bit) & 1n) === 0n).map(([name]) => name);
  return missing.length === 0 ? undefined : `hatchd runs without ${missing.join(', ')}`;
}

/** Some file systems know no owners, and some containers not these users. */
async function whyNotGiven(folder: string, { min, max }: UidRange): Promise<string | undefined> {
  let tried: string;
  try {
    tried = await mkdtemp(join(folder, '.users-'));
  } catch {
    return undefined;
  }
  try {
    for (const uid of [min, max]) await chown(tried, uid, uid);
    return undefined;
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? ` (${String(error.code)})` : '';
    return `files in HATCH_DATA_DIR cannot be given to the users ${min} to ${max}${code}`;
  } finally {
    await remove(tried);
  }
}
