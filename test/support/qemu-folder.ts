import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { silent } from '../../src/base/logger.ts';
import { run } from '../../src/host/run.ts';
import type { Driver } from '../../src/vmm/driver.ts';
import { openQemu } from '../../src/vmm/qemu/driver.ts';

/** Longer than the 108 bytes a unix socket's address holds, as a data folder may be. */
const DEEP = 'a-folder-for-virtual-machines-whose-name-is-rather-long-'.repeat(2);

/** A folder of VMs of a test's own, and QEMU's driver on it, as often as it is opened. */
export async function qemuFolder(): Promise<{
  readonly folder: string;
  readonly open: () => Promise<Driver>;
  readonly remove: () => Promise<void>;
}> {
  const root = await mkdtemp(join(tmpdir(), 'qemu-'));
  const folder = join(root, DEEP, 'vms');
  await mkdir(folder, { recursive: true });
  return {
    folder,
    open: () =>
      openQemu({
        run,
        log: silent,
        qemuBin: 'qemu-system-x86_64',
        cpu: null,
        users: { min: 61000, max: 64999 },
        cgroups: null,
        folder,
        kvmVerdictFile: join(root, 'kvm.json'),
      }),
    remove: () => rm(root, { recursive: true }),
  };
}
