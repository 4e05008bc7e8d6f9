import { readdirSync, readlinkSync } from 'node:fs';
import { readdir, readlink, realpath } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { systemClock } from '../../base/clock.ts';
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
 * What whoever started us had open and left to us, and so to all that we start, by its number: read before anything of ours is opened. What a
 * QEMU opens by itself gets another number.
 */
const INHERITED = filesAtStart();
/** For how long a file may be open that is none of the VM's. */
const SETTLE_MS = 2000;
const LOOK_MS = 10;

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
  settleMs = SETTLE_MS,
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
  const look = async (): Promise<readonly string[]> =>
    [...(await openFiles(pid))].flatMap(([fd, path]) =>
      path.startsWith('/') &&
      !path.startsWith('/memfd:') &&
      !DEVICES.has(path) &&
      dirname(path) !== own &&
      !allowed.has(path) &&
      INHERITED.get(fd) !== path
        ? [path]
        : [],
    );
  // What a disk names stays open; what QEMU or its libraries only read is closed again.
  const until = systemClock.steady() + settleMs;
  let foreign = await look();
  while (foreign.length > 0 && systemClock.steady() < until) {
    await systemClock.sleep(LOOK_MS);
    foreign = await look();
  }
  if (foreign.length > 0)
    throw new VmmError("the VM's disk names a file that is not the VM's, so it was not started", {
      cause: new Error(`QEMU had opened ${foreign.join(', ')}`),
    });
}

/** The files a process has open, by their numbers. */
async function openFiles(pid: number): Promise<ReadonlyMap<string, string>> {
  const folder = `/proc/${pid}/fd`;
  const found = (await readdir(folder)).map(
    // One that was closed meanwhile is none.
    async (fd) => [fd, await readlink(join(folder, fd)).catch(() => '')] as const,
  );
  return new Map(await Promise.all(found));
}

function filesAtStart(): ReadonlyMap<string, string> {
  const found = new Map<string, string>();
  for (const fd of readdirSync('/proc/self/fd')) {
    try {
      found.set(fd, readlinkSync(`/proc/self/fd/${fd}`));
    } catch {
      // That of the folder itself.
    }
  }
  return found;
}
