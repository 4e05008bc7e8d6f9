import { readdir, readlink, realpath } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { isErrno } from '../../base/errno.ts';
import { VmmError, type MachineSpec } from '../driver.ts';

/** What of /dev any QEMU may have open. */
const DEVICES: ReadonlySet<string> = new Set([
  ...['/dev/null', '/dev/zero', '/dev/random', '/dev/urandom'],
  ...['/dev/kvm', '/dev/net/tun', '/dev/vhost-net'],
]);
/** The link beside a disk to the image it stands on. */
const BASE = 'base';

/**
 * Throws VmmError when a QEMU that has just been started, and whose guest has not run yet, has a file open that is neither in its VM's
 * folder nor below its disks (`DiskSpec.over`) nor its memory. It opened them as root, and which file a disk stands on is written in the disk,
 * where a QEMU of before that was taken over can have written anything. Disks of which it is not known what they stand on are not
 * looked at.
 */
export async function mustHaveOpenOnlyItsOwn(
  pid: number,
  { folder, disks }: Pick<MachineSpec, 'folder' | 'disks'>,
  memoryPath: string | null,
): Promise<void> {
  const below = disks.flatMap(({ over, readOnly }) => (readOnly ? [] : [over]));
  if (below.includes(undefined)) return;
  const own = await realpath(folder);
  const allowed = new Set<string>();
  const allow = async (path: string): Promise<void> => {
    const real = await realpath(path).catch((error: unknown) => {
      if (!isErrno(error, 'ENOENT')) throw error;
    });
    if (real !== undefined) allowed.add(real);
  };
  const layers = below.flatMap((paths) => paths ?? []);
  const bases = [folder, ...layers.map((path) => dirname(path))].map((one) => join(one, BASE));
  // What a link in the VM's folder leads to is hatchd's word.
  const named = disks.map(({ path }) => join(folder, path));
  await Promise.all([...named, ...layers, ...bases, ...(memoryPath === null ? [] : [memoryPath])].map(allow));
  const open = await Promise.all(
    (await readdir(`/proc/${pid}/fd`)).map((fd) =>
      // One that was closed meanwhile is none.
      readlink(`/proc/${pid}/fd/${fd}`).catch(() => ''),
    ),
  );
  const foreign = open.filter(
    (path) =>
      path.startsWith('/') &&
      !path.startsWith('/memfd:') &&
      !DEVICES.has(path) &&
      dirname(path) !== own &&
      !allowed.has(path),
  );
  if (foreign.length > 0)
    throw new VmmError("the VM's disk names a file that is not the VM's, so it was not started", {
      cause: new Error(`QEMU had opened ${foreign.join(', ')}`),
    });
}
