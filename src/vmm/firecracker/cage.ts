import { open, readlink, realpath, symlink } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { remove } from '../../host/files.ts';
import type { Argv } from '../../host/run.ts';
import type { MachineSpec } from '../driver.ts';
import { FILES } from './boot.ts';

/** A VM, as far as a cage knows it. */
export type Den = Pick<MachineSpec, 'vmId' | 'folder'>;

/**
 * Where a VM's Firecracker lives, and how it is started in there. Whatever it writes for us is read in the VM's own folder, where
 * it cannot change what a name means; where it lives it could put a link to a file of the host under any.
 */
export interface Cage {
  /** Makes ready for a process: what an earlier one left is gone, the machine's files are to be seen. Gives how to start it. */
  prepare(spec: MachineSpec): Promise<{ readonly argv: Argv; readonly cwd: string }>;
  /** Lets a file of the host be read under a name in there. */
  bring(den: Den, path: string, name: string): Promise<void>;
  /** Makes empty files in the VM's folder, which the process may write by the same names. */
  lend(den: Den, names: readonly string[]): Promise<void>;
  /** The process may no longer write them. */
  takeBack(den: Den, names: readonly string[]): Promise<void>;
  /** Whether a process lives in this VM's cage. */
  holds(den: Den, pid: number): Promise<boolean>;
  /** The user whose tap a process in there can open; null: it opens any. */
  tapOwner(den: Den): Promise<number | null>;
  /** Whether the kernel has ended the process because it took more memory than it may. */
  ranOutOfMemory(den: Den): Promise<boolean>;
  /** Removes what was made for the process; the VM's own files stay. */
  clear(den: Den): Promise<void>;
}

/** Files of a process, in the way of the next. Firecracker removes none of its sockets. */
const LEFTOVERS: readonly string[] = [
  FILES.api,
  FILES.vsock,
  FILES.state,
  FILES.memory,
  FILES.loadedMemory,
  FILES.metrics,
];

/** No cage: it runs as hatchd does, in the VM's folder. */
export function noCage(bin: string): Cage {
  const clear: Cage['clear'] = async ({ folder }) => {
    for (const name of LEFTOVERS) await remove(join(folder, name));
  };
  const lend: Cage['lend'] = async ({ folder }, names) => {
    for (const name of names) {
      // Not emptied: it may be a link to what this guest was loaded from.
      await remove(join(folder, name));
      await (await open(join(folder, name), 'wx', 0o600)).close();
    }
  };
  return {
    prepare: async (spec) => {
      await clear(spec);
      // Before 1.14 they must be there.
      await lend(spec, [FILES.log, FILES.metrics]);
      return { argv: [bin, '--id', spec.vmId, '--api-sock', FILES.api], cwd: spec.folder };
    },
    bring: async ({ folder }, path, name) => {
      await remove(join(folder, name));
      await symlink(path, join(folder, name));
    },
    lend,
    takeBack: async () => undefined,
    holds: async ({ folder }, pid) => {
      try {
        // A folder that was removed under it is shown with this after its name.
        const cwd = (await readlink(`/proc/${pid}/cwd`)).replace(/ \(deleted\)$/, '');
        return cwd === join(await realpath(dirname(folder)), basename(folder));
      } catch {
        return false;
      }
    },
    tapOwner: async () => null,
    ranOutOfMemory: async () => false,
    clear,
  };
}
