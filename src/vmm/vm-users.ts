import { chown, readdir, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { isErrno } from '../base/errno.ts';
import { parseId } from '../base/ids.ts';
import { KeyedLock } from '../base/keyed-lock.ts';
import { VmmError, type MachineSpec } from './driver.ts';
import { chooseUid, hostUsers, type UidRange } from './uids.ts';

type Home = Pick<MachineSpec, 'vmId' | 'folder'>;

/**
 * The users that VMMs run as, one for each VM as long as it exists: the group of the VM's folder says which, so there is no table of
 * them. `holds`: whether a process that runs as that user is this VM's own.
 */
export class VmUsers {
  readonly #uids: UidRange;
  readonly #holds: (home: Home, pid: number) => Promise<boolean>;
  readonly #lock = new KeyedLock();

  constructor(uids: UidRange, holds: (home: Home, pid: number) => Promise<boolean>) {
    this.#uids = uids;
    this.#holds = holds;
  }

  /**
   * The user that is this VM's, chosen now if need be, and the processes of it that are this VM's. Throws VmmError when all of the
   * range are taken.
   */
  claim(home: Home): Promise<{ readonly uid: number; readonly inside: readonly number[] }> {
    return this.#lock.run('users', async () => {
      const { min, max } = this.#uids;
      const { processes, named } = await hostUsers();
      const others = await groupsBeside(home);
      const taken = (uid: number): boolean => others.has(uid) || named.has(uid);
      const { gid: mine, uid: owner } = await stat(home.folder);
      if (mine >= min && mine <= max && !taken(mine)) {
        const running = processes.get(mine) ?? [];
        const held = await Promise.all(running.map((pid) => this.#holds(home, pid)));
        // Somebody else runs as this user by now: another hatchd on this host, or who does not know of us.
        if (!held.includes(false)) return { uid: mine, inside: running };
      }
      const uid = chooseUid(this.#uids, home.vmId, (one) => taken(one) || processes.has(one));
      if (uid === undefined)
        throw new VmmError(
          `no user is free for the VM: all from ${min} to ${max} are taken; widen HATCH_VM_UID_MIN and HATCH_VM_UID_MAX`,
        );
      await chown(home.folder, owner, uid);
      return { uid, inside: [] };
    });
  }
}

/** The groups of the folders of all other VMs. */
async function groupsBeside({ folder }: Pick<Home, 'folder'>): Promise<ReadonlySet<number>> {
  const groups = new Set<number>();
  for (const name of await readdir(dirname(folder))) {
    if (parseId('vm', name) === undefined || name === basename(folder)) continue;
    const found = await stat(join(dirname(folder), name)).catch((error: unknown) => {
      if (!isErrno(error, 'ENOENT')) throw error;
    });
    if (found) groups.add(found.gid);
  }
  return groups;
}
