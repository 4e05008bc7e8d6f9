import { randomBytes } from 'node:crypto';
import { renameSync, rmSync, writeFileSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { isErrno } from '../../base/errno.ts';
import { parseId, type VmId } from '../../base/ids.ts';
import { readIfThere } from '../../host/files.ts';
import type { VmmProcess } from '../../model/vm.ts';
import type { MachineExit } from '../driver.ts';

/** What a pretended VMM is: a file in its VM's folder, which goes on when the daemon dies, as a real process does. */
export interface FakeGuest {
  readonly vmId: VmId;
  readonly process: VmmProcess;
  /** Milliseconds since 1970. */
  readonly startedAt: number;
  readonly vcpuCount: number;
  readonly memMib: number;
  readonly paused: boolean;
  /** Whether it stands still for want of room on the host's disk, until this is gone again; for tests. */
  readonly noSpace?: boolean;
  /** What the guest's memory holds: its files, by their paths. Its clock is one, and stands still until it is set. */
  readonly memory: Readonly<Record<string, string>>;
  /** Absolute path of the file the memory lies in too, as the guest changes it; null: on a private map, it is here alone. */
  readonly ramFile: string | null;
  /** The file of its first disk, in its folder. */
  readonly disk: string;
  /** Set when it has ended. */
  readonly exit: MachineExit | null;
}

export const FAKE_FILE = 'fake-vmm.json';

/** Reads the pretended VMM in a VM's folder; undefined when there is none. */
export async function readGuest(folder: string): Promise<FakeGuest | undefined> {
  const text = await readIfThere(join(folder, FAKE_FILE));
  return text === undefined ? undefined : (JSON.parse(text) as FakeGuest);
}

/** The name of a memory file of its own in a VM's folder. */
export const RAM_FILE = 'fake-mem.json';

/** Writes the pretended VMM down, and its memory into the file that holds it, unless it stands still. */
export async function writeGuest(folder: string, guest: FakeGuest): Promise<void> {
  if (guest.ramFile !== null && !guest.paused && guest.exit === null)
    writeFileSync(guest.ramFile, JSON.stringify(guest.memory));
  // As a process it outlives no power loss, and is there or not. What is pretended is to take no time: a thread for each call takes ten times
  // as long as the call.
  const beside = join(folder, `.${FAKE_FILE}.${randomBytes(4).toString('hex')}`);
  try {
    writeFileSync(beside, JSON.stringify(guest), { mode: 0o600 });
    renameSync(beside, join(folder, FAKE_FILE));
  } catch (error) {
    rmSync(beside, { force: true });
    throw error;
  }
}

/** Ends a pretended guest from anywhere, as its own poweroff, reboot or panic, or the VMM's crash would; for tests. */
export async function endFakeGuest(folder: string, exit: MachineExit): Promise<void> {
  const guest = await readGuest(folder);
  if (guest && guest.exit === null) await writeGuest(folder, { ...guest, exit });
}

/** Every VM folder with a pretended VMM that has not ended. */
export async function runningGuests(
  root: string,
): Promise<readonly { readonly vmId: VmId; readonly guest: FakeGuest; readonly folder: string }[]> {
  let names: string[];
  try {
    names = await readdir(root);
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return [];
    throw error;
  }
  const found = [];
  for (const name of names) {
    const vmId = parseId('vm', name);
    if (vmId === undefined) continue;
    const folder = join(root, name);
    const guest = await readGuest(folder);
    if (guest?.exit === null) found.push({ vmId, guest, folder });
  }
  return found;
}
