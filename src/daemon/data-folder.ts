import { link, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { isErrno } from '../base/errno.ts';
import { makeFolder, readIfThere, remove, writeFileAtomic } from '../host/files.ts';
import { onlyOne } from '../host/only-one.ts';
import { identify, isAlive, type ProcessIdentity } from '../host/process.ts';

/** Everything Hatch keeps on disk, by name. */
export interface DataFolder {
  readonly root: string;
  readonly database: string;
  readonly adminKey: string;
  /** The name of the host it is of. */
  readonly hostName: string;
  readonly images: string;
  readonly vms: string;
  /** What waits to be put into the store of snapshots. */
  readonly spool: string;
  /** Where stored snapshots are kept unless HATCH_SNAPSHOT_STORE says otherwise. */
  readonly snapshots: string;
  /** Frozen disks, memory and states, one folder each, beside the VMs' on one file system. */
  readonly layers: string;
  readonly net: string;
  readonly kvmVerdict: string;
  readonly pidFile: string;
}

/** The names within a data folder. */
export function dataFolder(root: string): DataFolder {
  return {
    root,
    database: join(root, 'hatch.db'),
    adminKey: join(root, 'admin-key'),
    hostName: join(root, 'host-name'),
    images: join(root, 'images'),
    vms: join(root, 'vms'),
    spool: join(root, 'spool'),
    snapshots: join(root, 'snapshots'),
    layers: join(root, 'layers'),
    net: join(root, 'net'),
    kvmVerdict: join(root, 'kvm.json'),
    pidFile: join(root, 'hatchd.pid'),
  };
}

/** Makes the folders. Throws an Error in a sentence when that cannot be. */
export async function makeDataFolder(data: DataFolder): Promise<void> {
  try {
    await makeFolder(data.root, 0o755);
    for (const folder of [data.images, data.vms, data.layers, data.spool, data.net]) await makeFolder(folder);
  } catch (error) {
    throw whyNotWritten(data, error);
  }
}

/** Why something in the data folder cannot be written, as an Error in a sentence; what is no matter of the folder stays. */
export function whyNotWritten({ root }: Pick<DataFolder, 'root'>, error: unknown): unknown {
  if (isErrno(error, 'EACCES') || isErrno(error, 'EPERM'))
    return new Error(
      `HATCH_DATA_DIR ${root} cannot be written; run hatchd as root or choose another folder.`,
      {
        cause: error,
      },
    );
  if (isErrno(error, 'EROFS'))
    return new Error(
      `HATCH_DATA_DIR ${root} lies on a file system that is read-only; choose another folder.`,
      {
        cause: error,
      },
    );
  if (isErrno(error, 'ENOSPC') || isErrno(error, 'EDQUOT'))
    return new Error(`The disk of HATCH_DATA_DIR ${root} is full; make room and start again.`, {
      cause: error,
    });
  if (isErrno(error, 'EEXIST') || isErrno(error, 'ENOTDIR'))
    return new Error(`HATCH_DATA_DIR ${root} is not a folder.`, { cause: error });
  return error;
}

/**
 * Claims the data folder for this process: two daemons on one folder would undo each other's work. A claim whose process is
 * gone is taken over. Throws an Error naming the other's pid. Gives what lets it go again.
 */
export async function claimDataFolder(data: DataFolder): Promise<() => Promise<void>> {
  const { dev, ino } = await stat(data.root).catch((error: unknown) => {
    throw whyNotWritten(data, error);
  });
  // Of several that find a dead one's claim, the second would take away the first one's.
  return onlyOne(`hatchd-claim-${dev}-${ino}`, () => claim(data));
}

async function claim(data: DataFolder): Promise<() => Promise<void>> {
  const me = await identify(process.pid);
  if (!me) throw new Error('this process cannot be found in /proc');
  const mine = `${data.pidFile}.${process.pid}`;
  await writeFileAtomic(mine, JSON.stringify(me), 0o644).catch((error: unknown) => {
    throw whyNotWritten(data, error);
  });
  try {
    for (let tries = 0; tries < 5; tries++) {
      try {
        await link(mine, data.pidFile);
        return async () => {
          const holder = await claimant(data);
          if (holder && holder.pid === me.pid && holder.startTime === me.startTime)
            await remove(data.pidFile);
        };
      } catch (error) {
        if (!isErrno(error, 'EEXIST')) throw error;
      }
      const holder = await claimant(data);
      if (holder && (await isAlive(holder))) {
        throw new Error(
          `Another hatchd (pid ${holder.pid}) uses the data folder ${data.root}; stop it, or give this one another HATCH_DATA_DIR.`,
        );
      }
      await remove(data.pidFile);
    }
    throw new Error(`The file ${data.pidFile} keeps coming back; is another hatchd starting?`);
  } finally {
    await remove(mine);
  }
}

/** The process that holds the folder, as its file says; undefined when there is none. */
export async function claimant(data: DataFolder): Promise<ProcessIdentity | undefined> {
  const text = await readIfThere(data.pidFile);
  if (text === undefined) return undefined;
  try {
    const { pid, startTime, bootId } = JSON.parse(text) as Partial<ProcessIdentity>;
    return typeof pid === 'number' && typeof startTime === 'string' && typeof bootId === 'string'
      ? { pid, startTime, bootId }
      : undefined;
  } catch {
    return undefined;
  }
}

/** The admin key's secret, as the first start left it; undefined when there is none. */
export async function readAdminKey(data: DataFolder): Promise<string | undefined> {
  try {
    return (await readFile(data.adminKey, 'utf8')).trim();
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return undefined;
    throw error;
  }
}
