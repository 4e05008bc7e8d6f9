import type { Run } from '../host/run.ts';
import { VmmError } from '../vmm/driver.ts';
import { LOST_WITHOUT_JAILER, THIS_HOST, usableJailer, type JailHost } from '../vmm/firecracker/cages.ts';
import { askVersion } from '../vmm/firecracker/versions.ts';
import type { Values } from './config.ts';
import type { DataFolder } from './data-folder.ts';
import { fail, ok, warn, type Found } from './doctor-finding.ts';
import { jailWish } from './driver.ts';

/** Firecracker and its jailer: whether they are there, what they say of themselves, and whether they fit. */
export async function firecracker(
  { run }: { readonly run: Run },
  values: Values,
  data: Pick<DataFolder, 'vms'>,
  host: JailHost = THIS_HOST,
): Promise<readonly Found[]> {
  if (values.HATCH_VMM === 'fake' || values.HATCH_VMM === 'qemu')
    return ok(`not used (HATCH_VMM=${values.HATCH_VMM})`);
  let version;
  try {
    version = await askVersion({ run }, values.HATCH_FIRECRACKER_BIN);
  } catch (error) {
    if (!(error instanceof VmmError)) throw error;
    return values.HATCH_VMM === 'firecracker'
      ? fail(error.message)
      : warn(`${error.message} Until then guests run on QEMU.`);
  }
  const { text, snapshotFormat } = version;
  const said = `Firecracker ${text}, snapshots of format ${snapshotFormat}`;
  // firecracker#5969
  const found =
    text === '1.16.0' ? warn(`${said}: after a restore its guests' vsock hangs; install 1.16.1`) : ok(said);
  return [...found, ...(await jailer({ run }, values, { folder: data.vms, version: text }, host))];
}

async function jailer(
  deps: { readonly run: Run },
  values: Values,
  firecrackerIs: { readonly folder: string; readonly version: string },
  host: JailHost,
): Promise<readonly Found[]> {
  const wish = jailWish(values);
  try {
    const usable = await usableJailer(deps, wish, firecrackerIs, host);
    const { min, max } = wish.uids;
    if ('bin' in usable)
      return ok(`the jailer is ${usable.version} as well; guests are users ${min} to ${max}, each its own`);
    return warn(
      `guests are not jailed, since ${usable.why}: ${LOST_WITHOUT_JAILER}; run hatchd as root with the jailer of Firecracker's release (HATCH_JAILER_BIN)`,
    );
  } catch (error) {
    if (!(error instanceof VmmError)) throw error;
    return fail(error.message);
  }
}
