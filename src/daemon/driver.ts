import type { Logger } from '../base/logger.ts';
import type { Run } from '../host/run.ts';
import { VmmError, type Driver } from '../vmm/driver.ts';
import { openFake } from '../vmm/fake/driver.ts';
import type { JailWish } from '../vmm/firecracker/cages.ts';
import { openFirecracker } from '../vmm/firecracker/driver.ts';
import { firecrackerRunsCode } from '../vmm/firecracker/kvm-probe.ts';
import { kvmDevice, kvmVerdict, type KvmVerdict } from '../vmm/kvm-verdict.ts';
import { openQemu } from '../vmm/qemu/driver.ts';
import { NO_LIMITS } from '../vmm/qemu/limits.ts';
import { LOST_WITHOUT_USERS, usableUsers, type UsersWish } from '../vmm/qemu/usable-users.ts';
import { findCgroups } from '../vmm/cgroups.ts';
import type { UidRange } from '../vmm/uids.ts';
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
  const firecrackerBin = values.HATCH_FIRECRACKER_BIN;
  const firecracker = (): Promise<Driver> =>
    openFirecracker({ run, log, firecrackerBin, folder: data.vms, jail: jailWish(values) });
  const qemu = async (): Promise<Driver> => {
    const usable = await usableUsers(usersWish(values), data.vms);
    if ('why' in usable)
      log.warn({ why: usable.why, lost: LOST_WITHOUT_USERS }, 'GUESTS RUN AS THE USER OF HATCHD');
    const cgroups = await findCgroups();
    const limits = cgroups?.controllers.length ? cgroups : null;
    if (limits === null) log.warn({ why: 'cgroup v2 has no controllers here' }, NO_LIMITS);
    return openQemu({
      run,
      log,
      qemuBin: values.HATCH_QEMU_BIN,
      cpu: values.HATCH_QEMU_CPU ?? null,
      folder: data.vms,
      kvmVerdictFile: data.kvmVerdict,
      users: 'uids' in usable ? usable.uids : null,
      cgroups: limits,
    });
  };
  switch (values.HATCH_VMM) {
    case 'fake':
      return openFake({ folder: data.vms });
    case 'firecracker': {
      const driver = await firecracker();
      const closed = await kvmDevice();
      // It may appear when a module is loaded, so this is no end.
      if (closed !== null)
        log.warn(
          { kvm: closed },
          'Firecracker needs KVM, which this host does not give: no guest will start',
        );
      return driver;
    }
    case 'qemu':
      return qemu();
    case 'auto': {
      try {
        const driver = await firecracker();
        const verdict = await kvmUnderFirecracker(values, { run, log, data });
        if (verdict.usable) return driver;
        log.info({ kvm: verdict.reason }, 'Firecracker needs KVM, so guests run on QEMU');
      } catch (error) {
        if (!(error instanceof VmmError)) throw error;
        log.info({ why: error.message }, 'Firecracker cannot be used here, so guests run on QEMU');
      }
      return qemu();
    }
  }
}

/** Whether KVM runs code, found by a Firecracker that runs some; kept for this boot of the host. */
export function kvmUnderFirecracker(
  { HATCH_FIRECRACKER_BIN: firecrackerBin }: Pick<Values, 'HATCH_FIRECRACKER_BIN'>,
  { run, log, data }: { readonly run: Run; readonly log: Logger; readonly data: DataFolder },
): Promise<KvmVerdict> {
  return kvmVerdict(data.kvmVerdict, () =>
    // What it runs is our own: it needs no jail.
    firecrackerRunsCode(
      (folder) => openFirecracker({ run, log, firecrackerBin, folder }),
      (why) => log.info({ why }, 'Firecracker could not use KVM'),
    ),
  );
}

/** How guests are to be jailed, as configured. */
export function jailWish(values: Values): JailWish {
  return {
    mode: values.HATCH_JAILER,
    jailerBin: values.HATCH_JAILER_BIN,
    uids: uidRange(values),
  };
}

/** As whom QEMUs are to run, as configured. */
export function usersWish(values: Values): UsersWish {
  return { mode: values.HATCH_QEMU_USERS, uids: uidRange(values) };
}

function uidRange({ HATCH_VM_UID_MIN: min, HATCH_VM_UID_MAX: max }: Values): UidRange {
  return { min, max };
}
