import type { Logger } from '../base/logger.ts';
import type { Run } from '../host/run.ts';
import type { Driver } from '../vmm/driver.ts';
import { openFake } from '../vmm/fake/driver.ts';
import { openQemu } from '../vmm/qemu/driver.ts';
import type { Values } from './config.ts';
import type { DataFolder } from './data-folder.ts';

/**
 * The hypervisor to use: the one asked for, or the best there is. KVM counts only where it was seen to run code. Throws in a
 * sentence when there is none.
 */
export async function chooseDriver(
  values: Values,
  { run, log, data }: { readonly run: Run; readonly log: Logger; readonly data: DataFolder },
): Promise<Driver> {
  switch (values.HATCH_VMM) {
    case 'fake':
      return openFake({ folder: data.vms });
    case 'firecracker':
      throw new Error('HATCH_VMM=firecracker is not part of this version; use qemu or auto.');
    case 'auto':
    case 'qemu':
      return openQemu({
        run,
        log,
        qemuBin: values.HATCH_QEMU_BIN,
        cpu: values.HATCH_QEMU_CPU ?? null,
        folder: data.vms,
        kvmVerdictFile: data.kvmVerdict,
      });
  }
}
