import type { Logger } from '../base/logger.ts';
import type { Run } from '../host/run.ts';
import { VmmError, type Driver } from '../vmm/driver.ts';
import { openFake } from '../vmm/fake/driver.ts';
import { openFirecracker } from '../vmm/firecracker/driver.ts';
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
  const firecracker = (): Promise<Driver> =>
    openFirecracker({ run, log, firecrackerBin: values.HATCH_FIRECRACKER_BIN, folder: data.vms });
  switch (values.HATCH_VMM) {
    case 'fake':
      return openFake({ folder: data.vms });
    case 'firecracker':
      return firecracker();
    case 'auto':
    case 'qemu': {
      const qemu = await openQemu({
        run,
        log,
        qemuBin: values.HATCH_QEMU_BIN,
        cpu: values.HATCH_QEMU_CPU ?? null,
        folder: data.vms,
        kvmVerdictFile: data.kvmVerdict,
      });
      if (values.HATCH_VMM === 'qemu' || qemu.accel !== 'kvm') return qemu;
      try {
        return await firecracker();
      } catch (error) {
        if (!(error instanceof VmmError)) throw error;
        log.info({ why: error.message }, 'Firecracker cannot be used here, so guests run on QEMU');
        return qemu;
      }
    }
  }
}
