import { chmod, chown, mkdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { VmId } from '../../base/ids.ts';
import { remove } from '../../host/files.ts';
import type { VmmProcess } from '../../model/vm.ts';
import type { MachineSpec } from '../driver.ts';
import type { UidRange } from '../uids.ts';
import { VmUsers } from '../vm-users.ts';
import { vmOfQemu } from './processes.ts';

type Home = Pick<MachineSpec, 'vmId' | 'folder'>;

/** Where, in a VM's folder, its QEMU may make files: it listens there for the state of a machine it is to load. */
export const INCOMING = 'incoming';
/** For how long a user that was just found to be a VM's own is taken to be. */
const KNOWN_MS = 60_000;

/**
 * The users of VMs' QEMUs. A QEMU begins as root, opens the files, the tap and KVM, and gives up being root before its guest runs.
 * From then on it has what it has open, and by name what is its user's in the VM's folder. Its names there are hatchd's: it can put
 * none in the place of another (docs/privileges.md).
 */
export class OwnUsers {
  readonly #users: VmUsers;
  readonly #known = new Map<VmId, { readonly uid: number; readonly at: number }>();
  readonly #pending = new Map<VmId, Promise<number>>();

  /** `folder`: of all VMs' folders. */
  constructor(uids: UidRange, folder: string) {
    this.#users = new VmUsers(uids, async ({ vmId }, pid) => (await vmOfQemu(folder, pid)) === vmId);
  }

  /** The VM's user, who may go through its folder and see no name in it. Throws VmmError when none is free. */
  of(home: Home): Promise<number> {
    const pending = this.#pending.get(home.vmId);
    if (pending) return pending;
    const found = this.#find(home).finally(() => this.#pending.delete(home.vmId));
    this.#pending.set(home.vmId, found);
    return found;
  }

  /** Begins to look for the VM's user, who is wanted in a moment. What goes wrong is told then. */
  lookAhead(home: Home): void {
    this.of(home).catch(() => undefined);
  }

  async #find(home: Home): Promise<number> {
    const known = this.#known.get(home.vmId);
    if (known && performance.now() - known.at < KNOWN_MS && (await stat(home.folder)).gid === known.uid)
      return known.uid;
    const { uid } = await this.#users.claim(home);
    await chmod(home.folder, 0o710);
    this.#known.set(home.vmId, { uid, at: performance.now() });
    return uid;
  }

  forget(vmId: VmId): void {
    this.#known.delete(vmId);
  }
}

/** A disk becomes its VM's user's: QEMU opens it by its name again when it is put under an overlay. */
export async function giveDisks({ folder, disks }: MachineSpec, uid: number): Promise<void> {
  for (const { path, readOnly } of disks) {
    if (readOnly) continue;
    await chown(join(folder, path), uid, uid);
    await chmod(join(folder, path), 0o600);
  }
}

/** An empty folder in the VM's for what its QEMU listens at. */
export async function makeIncoming({ folder }: Pick<Home, 'folder'>, process: VmmProcess): Promise<void> {
  const path = join(folder, INCOMING);
  await remove(path);
  await mkdir(path, { mode: 0o700 });
  await giveTo(process, path);
}

/** Gives a file to the user a process runs as; no effect where that is our own. Throws when the process has ended. */
export async function giveTo({ pid }: Pick<VmmProcess, 'pid'>, path: string): Promise<void> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8');
  const [uid, gid] = ['Uid', 'Gid'].map((name) =>
    Number(new RegExp(`^${name}:\\s+\\d+\\s+(\\d+)`, 'm').exec(status)?.[1]),
  );
  if (uid === undefined || gid === undefined || !Number.isInteger(uid + gid))
    throw new Error(`/proc/${pid}/status does not say whose the process is`);
  if (uid !== process.geteuid?.()) await chown(path, uid, gid);
}
