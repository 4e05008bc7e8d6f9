import { createHash } from 'node:crypto';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { VmId } from '../base/ids.ts';
import { readIfThere } from '../host/files.ts';

/** The users VMMs run as: one for each VM, its group the same number. */
export interface UidRange {
  readonly min: number;
  readonly max: number;
}

/** Who is somebody on this host already. */
export interface HostUsers {
  /** The processes of each user, real, effective, saved or of the file system. */
  readonly processes: ReadonlyMap<number, readonly number[]>;
  /** Users and groups with a name, and those systemd has given out (systemd.exec(5), DynamicUser). */
  readonly named: ReadonlySet<number>;
}

/**
 * A free user for a VM, or undefined when there is none. Where it begins to look depends on the VM, so that two daemons that look at
 * the same moment see different ones free.
 */
export function chooseUid(
  { min, max }: UidRange,
  vmId: VmId,
  taken: (uid: number) => boolean,
): number | undefined {
  const many = max - min + 1;
  const from = createHash('sha256').update(vmId).digest().readUInt32BE() % many;
  for (let i = 0; i < many; i++) {
    const uid = min + ((from + i) % many);
    if (!taken(uid)) return uid;
  }
  return undefined;
}

/** Looks at the host's processes and user tables. `root`: where its /proc, /etc and /run are. */
export async function hostUsers(root = '/'): Promise<HostUsers> {
  const processes = new Map<number, number[]>();
  const pids = (await readdir(join(root, 'proc'))).filter((name) => /^\d+$/.test(name));
  for (const pid of pids) {
    for (const uid of await usersOf(join(root, 'proc', pid, 'status'))) {
      const known = processes.get(uid);
      if (known) known.push(Number(pid));
      else processes.set(uid, [Number(pid)]);
    }
  }
  const named = new Set<number>();
  for (const table of ['etc/passwd', 'etc/group']) {
    for (const line of ((await readIfThere(join(root, table))) ?? '').split('\n')) {
      const id = line.split(':')[2];
      if (id !== undefined && /^\d+$/.test(id)) named.add(Number(id));
    }
  }
  for (const name of await readdir(join(root, 'run/systemd/dynamic-uid')).catch(() => [])) {
    if (/^\d+$/.test(name)) named.add(Number(name));
  }
  return { processes, named };
}

/** None when the process has ended: also of one whose parent has not yet been told, which may take for ever. */
async function usersOf(status: string): Promise<ReadonlySet<number>> {
  const text = (await readIfThere(status).catch(() => undefined)) ?? '';
  if (/^State:\s+[ZX]/m.test(text)) return new Set();
  const found = /^Uid:\s+(\d+)\s+(\d+)\s+(\d+)\s+(\d+)$/m.exec(text);
  return new Set((found ?? []).slice(1).map(Number));
}
