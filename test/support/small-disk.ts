import { mkdir, open, rm, stat, truncate } from 'node:fs/promises';
import { join } from 'node:path';
import { isErrno } from '../../src/base/errno.ts';
import { systemClock } from '../../src/base/clock.ts';
import { until } from '../../src/base/until.ts';
import { isAlive, signalProcess, spawnDetached } from '../../src/host/process.ts';

/** A disk of a few MiB that can be full: a tmpfs in a mount namespace of its own, so that nobody else sees the mount. */
export interface SmallDisk {
  /** Where it is for the processes that were let in. */
  readonly path: string;
  /** Where it is for us. */
  readonly inside: string;
  /** Prefixes a command so that it sees the disk. */
  readonly enter: (argv: readonly string[]) => readonly string[];
  /** Fills it up to the last page but `leave` bytes. */
  fill(leave?: number): Promise<void>;
  /** Takes away what `fill` put there. */
  makeRoom(): Promise<void>;
  /** Lets it go; it is gone when the last process that was let in has ended. */
  dispose(): Promise<void>;
}

/** Mounts it at `folder`, which is made. Needs root. */
export async function makeSmallDisk(folder: string, mib: number): Promise<SmallDisk> {
  await mkdir(folder);
  const mount = `mount -t tmpfs -o size=${mib}m,mode=755 small "$0" && exec sleep infinity`;
  const { identity } = await spawnDetached(
    ['unshare', '--mount', '--propagation', 'private', '--', 'sh', '-c', mount, folder],
    { cwd: '/', log: `${folder}.log` },
  );
  const inside = `/proc/${identity.pid}/root${folder}`;
  const filler = join(inside, 'filler');
  const { dev } = await stat(folder);
  await until({ clock: systemClock, signal: AbortSignal.timeout(10_000) }, async () => {
    if (!(await isAlive(identity))) throw new Error(`the disk could not be mounted; see ${folder}.log`);
    return (await stat(inside)).dev === dev ? undefined : true;
  });
  return {
    path: folder,
    inside,
    enter: (argv) => ['nsenter', `--mount=/proc/${identity.pid}/ns/mnt`, '--', ...argv],
    fill: async (leave = 0) => {
      const file = await open(filler, 'a');
      try {
        for (const size of [1024 * 1024, 4096]) {
          const block = Buffer.alloc(size);
          while (await fits(() => file.write(block))) continue;
        }
      } finally {
        await file.close();
      }
      if (leave > 0) await truncate(filler, Math.max(0, (await stat(filler)).size - leave));
    },
    makeRoom: () => rm(filler, { force: true }),
    dispose: async () => {
      await signalProcess(identity, 'SIGKILL');
      await rm(`${folder}.log`, { force: true });
      await until({ clock: systemClock, signal: AbortSignal.timeout(10_000) }, () =>
        rm(folder, { recursive: true, force: true }).then(
          () => true,
          (error: unknown) => (isErrno(error, 'EBUSY') ? undefined : Promise.reject(error as Error)),
        ),
      );
    },
  };
}

async function fits(write: () => Promise<unknown>): Promise<boolean> {
  try {
    await write();
    return true;
  } catch (error) {
    if (isErrno(error, 'ENOSPC')) return false;
    throw error;
  }
}
