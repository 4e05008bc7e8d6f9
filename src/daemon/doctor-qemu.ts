import { VmmError } from '../vmm/driver.ts';
import { LOST_WITHOUT_USERS, usableUsers } from '../vmm/qemu/usable-users.ts';
import type { Values } from './config.ts';
import type { DataFolder } from './data-folder.ts';
import { fail, ok, warn, type Found } from './doctor-finding.ts';
import { usersWish } from './driver.ts';

/** As whom QEMUs run; `status`: /proc/PID/status of hatchd. */
export async function qemuUsers(
  values: Values,
  data: Pick<DataFolder, 'vms'>,
  status?: string,
): Promise<readonly Found[]> {
  if (values.HATCH_VMM === 'fake' || values.HATCH_VMM === 'firecracker')
    return ok(`not used (HATCH_VMM=${values.HATCH_VMM})`);
  const wish = usersWish(values);
  try {
    const usable = await usableUsers(wish, data.vms, status);
    if ('uids' in usable)
      return ok(`guests' QEMUs are users ${wish.uids.min} to ${wish.uids.max}, each its own`);
    return warn(
      `guests' QEMUs are no users of their own, since ${usable.why}: ${LOST_WITHOUT_USERS}; run hatchd as root with all its capabilities, on a file system that knows owners`,
    );
  } catch (error) {
    if (!(error instanceof VmmError)) throw error;
    return fail(error.message);
  }
}
