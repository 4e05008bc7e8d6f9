import { readFile, realpath } from 'node:fs/promises';
import { dirname } from 'node:path';
import { isErrno } from '../../base/errno.ts';
import type { Logger } from '../../base/logger.ts';
import { mountOf, parseMounts } from '../../host/mounts.ts';
import { findProgram } from '../../host/programs.ts';
import type { Run } from '../../host/run.ts';
import { VmmError } from '../driver.ts';
import { noCage, type Cage } from './cage.ts';
import { CONTROLLERS, findCgroups } from '../cgroups.ts';
import { Jail } from './jail.ts';
import { findJailer, type Jailer } from './jailer.ts';
import type { UidRange } from '../uids.ts';

/** Whether and how guests are to be jailed. */
export interface JailWish {
  /** `auto`: where it can be; `on`: or not at all. */
  readonly mode: 'auto' | 'on' | 'off';
  /** Path of the program `jailer`, or its name. */
  readonly jailerBin: string;
  readonly uids: UidRange;
}

/** What the jailer needs of a host, where it is looked for; another in tests. */
export interface JailHost {
  readonly isRoot: boolean;
  readonly procMounts: string;
  readonly mountinfo: string;
}

/** This machine. */
export const THIS_HOST: JailHost = {
  isRoot: process.geteuid?.() === 0,
  procMounts: '/proc/mounts',
  mountinfo: '/proc/self/mountinfo',
};

/** What is given up without the jailer, for the log and for `hatchd doctor`. */
export const LOST_WITHOUT_JAILER =
  "each guest's Firecracker runs as hatchd's own user among all files of this host, and its processor, memory and threads have no limit there";

interface Firecracker {
  readonly bin: string;
  readonly version: string;
  /** Of all VMs' folders. */
  readonly folder: string;
}

/**
 * The cages to use, first the one that guests are started in: the jailer's where it is wished for and can be, else none, which is
 * said in the log with what is lost. The other one knows guests that an earlier daemon started. Throws VmmError in a sentence for
 * a jailer that is wished for and is not there, does not fit, or cannot work in the folder.
 */
export async function openCages(
  { run, log }: { readonly run: Run; readonly log: Logger },
  wish: JailWish,
  firecracker: Firecracker,
  host: JailHost = THIS_HOST,
): Promise<readonly [Cage, ...Cage[]]> {
  const found = await usableJailer({ run }, wish, firecracker, host);
  const cgroups = await findCgroups(host.procMounts);
  const jail = new Jail({
    run,
    jailerBin: 'bin' in found ? found.bin : null,
    firecrackerBin: (await findProgram(firecracker.bin)) ?? firecracker.bin,
    uids: wish.uids,
    cgroups,
  });
  const bare = noCage(firecracker.bin);
  if ('why' in found) {
    log.warn({ why: found.why, lost: LOST_WITHOUT_JAILER }, 'GUESTS ARE NOT JAILED');
    return [bare, jail];
  }
  const missing = CONTROLLERS.filter((one) => cgroups?.controllers.includes(one) !== true);
  log.info(
    { jailer: found.version, uids: wish.uids, limits: cgroups?.controllers ?? [] },
    'guests are jailed',
  );
  if (missing.length > 0)
    log.warn({ missing }, 'cgroup v2 lacks controllers on this host, so jailed guests have no such limits');
  return [jail, bare];
}

/** The jailer to use, or why there is none. Throws VmmError where that is more than a pity. */
export async function usableJailer(
  { run }: { readonly run: Run },
  { mode, jailerBin }: Pick<JailWish, 'mode' | 'jailerBin'>,
  { version, folder }: Omit<Firecracker, 'bin'>,
  { isRoot, mountinfo }: Pick<JailHost, 'isRoot' | 'mountinfo'>,
): Promise<Jailer | { readonly why: string }> {
  if (mode === 'off') return { why: 'HATCH_JAILER=off' };
  const without = (
    why: string,
    remedy: string,
    kind: VmmError['kind'] = 'failed',
  ): { readonly why: string } => {
    if (mode === 'on') throw new VmmError(`HATCH_JAILER=on, but ${why}; ${remedy}.`, { kind });
    return { why };
  };
  if (!isRoot) return without('hatchd does not run as root', 'run it as root, or set HATCH_JAILER=off');
  const jailer = await findJailer({ run }, jailerBin);
  if (!jailer)
    return without(
      `the jailer (${jailerBin}) is not installed`,
      'put it beside Firecracker, whose release it comes with, or set HATCH_JAILER_BIN',
      'missing',
    );
  if (jailer.version !== version)
    throw new VmmError(
      `The jailer is ${jailer.version} and Firecracker is ${version}; install both of one release, or set HATCH_JAILER=off.`,
      { kind: 'incompatible' },
    );
  const mount = mountOf(await realOf(folder), parseMounts(await readFile(mountinfo, 'utf8')));
  const forbids = ['nodev', 'noexec'].filter((option) => mount?.options.includes(option));
  if (forbids.length > 0)
    throw new VmmError(
      `HATCH_DATA_DIR lies on ${mount?.point ?? ''}, which is mounted ${forbids.join(' and ')}: no jail can be in it; move it, mount that without, or set HATCH_JAILER=off.`,
    );
  return jailer;
}

/** The path without links; of one that is not there yet, what will be above it. */
async function realOf(path: string): Promise<string> {
  try {
    return await realpath(path);
  } catch (error) {
    if (!isErrno(error, 'ENOENT') || path === dirname(path)) throw error;
    return realOf(dirname(path));
  }
}
