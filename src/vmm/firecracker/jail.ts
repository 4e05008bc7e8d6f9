import { chmod, chown, link, lstat, mkdir, open, readdir, realpath, stat, unlink } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { isErrno } from '../../base/errno.ts';
import { exists, remove } from '../../host/files.ts';
import type { Run } from '../../host/run.ts';
import { VmmError, type MachineSpec } from '../driver.ts';
import { FILES } from './boot.ts';
import type { Cage, Den } from './cage.ts';
import { memoryKills, removeGroup, type CgroupTree } from '../cgroups.ts';
import { jailerCommand } from './jailer.ts';
import type { UidRange } from '../uids.ts';
import { VmUsers } from '../vm-users.ts';

export interface JailOptions {
  readonly run: Run;
  /** Absolute path; null: no VM is started in a jail, but those that are in one are found. */
  readonly jailerBin: string | null;
  /** Absolute path. */
  readonly firecrackerBin: string;
  readonly uids: UidRange;
  readonly cgroups: CgroupTree | null;
}

const COPY_MS = 30 * 60_000;
/** In a VM's folder; in it, as the jailer wants it, `<name of the program>/<VM>/root`. */
const JAIL = 'jail';

/**
 * The jailer's chroot, in the VM's folder and so on its file system: what the VMM may open is linked into it under the same names
 * for every VM, and nothing else of the host is there. Its user is the VM's own, for as long as the VM is: the group of the VM's
 * folder says which.
 */
export class Jail implements Cage {
  readonly #options: JailOptions;
  readonly #users: VmUsers;

  constructor(options: JailOptions) {
    this.#options = options;
    this.#users = new VmUsers(options.uids, (den, pid) => this.holds(den, pid));
  }

  prepare(spec: MachineSpec): ReturnType<Cage['prepare']> {
    return this.#explained(async () => {
      const { jailerBin, firecrackerBin, cgroups } = this.#options;
      if (jailerBin === null) throw new VmmError('there is no jailer to start it with');
      const { uid, inside } = await this.#users.claim(spec);
      if (inside.length > 0)
        throw new VmmError(`an earlier Firecracker of this VM still runs (pid ${inside.join(', ')})`);
      await this.clear(spec);
      const base = join(spec.folder, JAIL);
      const program = await realpath(firecrackerBin).catch((cause: unknown) => {
        throw new VmmError('the program firecracker is no longer where it was when the server started', {
          kind: 'missing',
          cause,
        });
      });
      const root = join(base, basename(program), spec.vmId, 'root');
      try {
        await this.#furnish(spec, root, uid);
      } catch (error) {
        await remove(base);
        throw error;
      }
      const controllers = cgroups?.controllers ?? [];
      return { argv: jailerCommand({ jailerBin, firecrackerBin, spec, uid, base, controllers }), cwd: root };
    });
  }

  bring(den: Den, path: string, name: string): Promise<void> {
    return this.#explained(async () => {
      const to = join(await mustHaveRoot(den), name);
      await unlinkIfThere(to);
      const { mode } = await stat(path);
      // Many VMs may go on from one memory file, each as its own user; on the host only root comes to the folder it lies in.
      if ((mode & 0o004) === 0) await chmod(path, mode | 0o444);
      await this.#showOthers(path, to, (await stat(den.folder)).gid);
    });
  }

  lend(den: Den, names: readonly string[]): Promise<void> {
    return this.#explained(async () => lendTo(den, await mustHaveRoot(den), names));
  }

  async takeBack(den: Den, names: readonly string[]): Promise<void> {
    const root = await rootOf(den);
    for (const name of names) {
      if (root !== undefined) await unlinkIfThere(join(root, name));
      await chown(join(den.folder, name), 0, 0).catch(unlessMissing);
    }
  }

  async holds(den: Den, pid: number): Promise<boolean> {
    const root = await rootOf(den);
    if (root === undefined) return false;
    try {
      // Its path is another in there, and the jailer's own mount of it has none out here.
      const [cwd, jail] = [await stat(`/proc/${pid}/cwd/`), await stat(root)];
      return cwd.dev === jail.dev && cwd.ino === jail.ino;
    } catch {
      return false;
    }
  }

  async tapOwner(den: Den): Promise<number> {
    return (await this.#users.claim(den)).uid;
  }

  async ranOutOfMemory({ vmId }: Den): Promise<boolean> {
    const { cgroups } = this.#options;
    return cgroups !== null && (await memoryKills(cgroups, vmId)) > 0;
  }

  async clear({ vmId, folder }: Den): Promise<void> {
    await remove(join(folder, JAIL));
    if (this.#options.cgroups !== null) await removeGroup(this.#options.cgroups, vmId);
  }

  /** Makes the root with all that the machine is made of. */
  async #furnish(spec: MachineSpec, root: string, uid: number): Promise<void> {
    await mkdir(root, { recursive: true, mode: 0o700 });
    for (const name of [spec.kernel, ...(spec.initrd === null ? [] : [spec.initrd])])
      await this.#show(join(spec.folder, name), join(root, name), uid);
    for (const { path, readOnly } of spec.disks) {
      if (readOnly) await this.#show(join(spec.folder, path), join(root, path), uid);
      else await give(join(spec.folder, path), join(root, path), uid);
    }
    await lendTo(spec, root, [FILES.log, FILES.metrics]);
  }

  /** Lets a file of the machine be read in there, in place of whatever the VM's folder has under its name: itself, or a link to another's. */
  async #show(path: string, to: string, gid: number): Promise<void> {
    await mkdir(dirname(to), { recursive: true, mode: 0o755 });
    if ((await lstat(path)).isSymbolicLink()) return this.#showOthers(path, to, gid);
    await chown(path, 0, gid);
    await chmod(path, 0o440);
    await link(path, to);
  }

  /** Lets a file that is not only this VM's be read in there: itself if anyone may read it, else a copy. */
  async #showOthers(path: string, to: string, gid: number): Promise<void> {
    const from = await realpath(path);
    if (((await stat(from)).mode & 0o004) !== 0) {
      try {
        return await link(from, to);
      } catch (error) {
        // Another file system, or one that knows no links.
        if (!['EXDEV', 'EPERM', 'EMLINK', 'ENOTSUP'].some((code) => isErrno(error, code))) throw error;
      }
    }
    await this.#options.run(['cp', '--sparse=always', '--reflink=auto', from, to], { timeoutMs: COPY_MS });
    await chown(to, 0, gid);
    await chmod(to, 0o440);
  }

  /** Does it; what cannot be made or linked is told in a sentence; the paths are in the cause. */
  async #explained<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      if (error instanceof VmmError) throw error;
      const full = isErrno(error, 'ENOSPC') || isErrno(error, 'EDQUOT');
      const code = error instanceof Error && 'code' in error ? ` (${String(error.code)})` : '';
      throw new VmmError(`the jail could not be furnished${code}`, {
        kind: full ? 'no_space' : 'failed',
        cause: error,
      });
    }
  }
}

/** A disk: its file itself, which is the VM's user's from now on. */
async function give(path: string, to: string, uid: number): Promise<void> {
  await mkdir(dirname(to), { recursive: true, mode: 0o755 });
  const from = await realpath(path);
  await chown(from, uid, uid);
  await chmod(from, 0o600);
  await link(from, to);
}

/** Empty files in the VM's folder that the VMM may write by another name of theirs, in the jail. */
async function lendTo({ folder }: Den, root: string, names: readonly string[]): Promise<void> {
  const { gid } = await stat(folder);
  for (const name of names) {
    const path = join(folder, name);
    await remove(path);
    const file = await open(path, 'wx', 0o600);
    await file.chown(gid, gid).finally(() => file.close());
    await unlinkIfThere(join(root, name));
    await link(path, join(root, name));
  }
}

/** Absolute path, on the host, of the root of a VM's jail; undefined when it has none. The program in it may have had another name. */
async function rootOf({ vmId, folder }: Den): Promise<string | undefined> {
  const base = join(folder, JAIL);
  const names = await readdir(base).catch(unlessMissing);
  for (const name of names ?? []) {
    const root = join(base, name, vmId, 'root');
    if (await exists(root)) return root;
  }
  return undefined;
}

async function mustHaveRoot(den: Den): Promise<string> {
  const root = await rootOf(den);
  if (root === undefined) throw new VmmError('the VM has no jail');
  return root;
}

async function unlinkIfThere(path: string): Promise<void> {
  await unlink(path).catch(unlessMissing);
}

function unlessMissing(error: unknown): undefined {
  if (!isErrno(error, 'ENOENT')) throw error;
}
