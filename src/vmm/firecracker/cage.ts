import { symlink } from 'node:fs/promises';
import { join } from 'node:path';
import { remove } from '../../host/files.ts';
import type { Argv } from '../../host/run.ts';
import type { MachineSpec } from '../driver.ts';
import { FILES } from './boot.ts';

/** Where a VM's Firecracker lives: what it sees as its working folder, and how it is started in there. */
export interface Cage {
  /** Absolute path, on the host, of the VMM's working folder. */
  root(spec: Pick<MachineSpec, 'vmId' | 'folder'>): string;
  /** The command that starts it. */
  argv(spec: Pick<MachineSpec, 'vmId' | 'folder'>): Argv;
  /** Makes ready for a process: what an earlier one left is gone, the machine's files are to be seen. */
  prepare(spec: MachineSpec): Promise<void>;
  /** Lets a file of the host be seen under a name in there. */
  bring(spec: Pick<MachineSpec, 'vmId' | 'folder'>, path: string, name: string): Promise<void>;
  /** Removes what was made for the process; the VM's own files stay. */
  clear(spec: Pick<MachineSpec, 'vmId' | 'folder'>): Promise<void>;
}

/** Files a process makes in its working folder, in the way of the next. Firecracker removes none of its sockets. */
export const LEFTOVERS: readonly string[] = [
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
  return {
    root: ({ folder }) => folder,
    argv: ({ vmId }) => [bin, '--id', vmId, '--api-sock', FILES.api],
    prepare: clear,
    bring: async ({ folder }, path, name) => {
      await remove(join(folder, name));
      await symlink(path, join(folder, name));
    },
    clear,
  };
}
