import { mkdir, readdir, readFile, rmdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { isErrno } from '../base/errno.ts';
import { parseId } from '../base/ids.ts';
import { systemClock } from '../base/clock.ts';
import { deadline, DeadlineExceeded } from '../base/deadline.ts';
import { until } from '../base/until.ts';
import { readIfThere } from '../host/files.ts';
import { VmmError, type MachineSpec } from './driver.ts';

/**
 * Control groups, version 2 (Documentation/admin-guide/cgroup-v2.rst): each VMM is in a group of its own, `hatch/<VM>`. That of a
 * Firecracker the jailer makes, that of a QEMU we do; we remove both.
 */
export interface CgroupTree {
  /** Absolute path of the hierarchy, as the jailer finds it: the first of /proc/mounts. */
  readonly mount: string;
  /** Those of ours it has; on hosts that still use version 1 it may be none. */
  readonly controllers: readonly Controller[];
}

export type Controller = (typeof CONTROLLERS)[number];

export const CONTROLLERS = ['cpu', 'memory', 'pids'] as const;
/** Of all groups of ours. */
export const PARENT_GROUP = 'hatch';
const PERIOD_US = 100_000;
/** How long a group may take to be empty after its process was seen to end. */
const EMPTY_MS = 2000;

/** Finds the hierarchy; null when this host has none of version 2. */
export async function findCgroups(procMounts = '/proc/mounts'): Promise<CgroupTree | null> {
  const line = (await readFile(procMounts, 'utf8'))
    .split('\n')
    .map((text) => text.split(' '))
    .find(([, , type]) => type === 'cgroup2');
  const mount = line?.[1];
  if (mount === undefined) return null;
  const there = ((await readIfThere(join(mount, 'cgroup.controllers'))) ?? '').trim().split(' ');
  return { mount, controllers: CONTROLLERS.filter((one) => there.includes(one)) };
}

/** What a VMM takes besides what its guest has: processors, MiB of memory, threads. */
export interface Besides {
  readonly cpus: number;
  readonly memMib: number;
  readonly threads: number;
}

type Guest = Pick<MachineSpec, 'vcpuCount' | 'memMib'>;

/** A VM's limits, as `FILE=VALUE`, by the controllers that are there. */
export function limitsOf(
  guest: Guest,
  controllers: readonly Controller[],
  { cpus, memMib, threads }: Besides = besidesFirecracker(guest),
): readonly string[] {
  const limits: Readonly<Record<Controller, string>> = {
    cpu: `cpu.max=${(guest.vcpuCount + cpus) * PERIOD_US} ${PERIOD_US}`,
    memory: `memory.max=${(guest.memMib + memMib) * 1024 * 1024}`,
    pids: `pids.max=${guest.vcpuCount + threads}`,
  };
  return CONTROLLERS.filter((one) => controllers.includes(one)).map((one) => limits[one]);
}

/**
 * Half a processor for what Firecracker does for its guest; its own memory (5 MiB by its specification), page tables, and some for the
 * pages of its disk that are kept, which the kernel gives up when it is short; two threads, those the kernel adds for KVM, and room.
 */
function besidesFirecracker({ memMib }: Guest): Besides {
  return { cpus: 0.5, memMib: Math.max(64, Math.ceil(memMib / 16)), threads: 32 };
}

/**
 * Makes the group of all VMMs in a hierarchy, and lets those in it have the limits its controllers give. `why`, a sentence without its
 * end, where that cannot be: it is read-only, or somebody else's to divide (a container's).
 */
export async function shareOut({
  mount,
  controllers,
}: CgroupTree): Promise<{ readonly shared: true } | { readonly why: string }> {
  const all = join(mount, PARENT_GROUP);
  try {
    await mkdir(all, { recursive: true });
    for (const group of [mount, all]) await enable(group, controllers);
    return { shared: true };
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? String(error.code) : 'unknown';
    return { why: `${mount} cannot be divided by hatchd (${code})` };
  }
}

async function enable(group: string, controllers: readonly Controller[]): Promise<void> {
  const control = join(group, 'cgroup.subtree_control');
  const there = ((await readIfThere(control)) ?? '').trim().split(' ');
  const missing = controllers.filter((one) => !there.includes(one));
  if (missing.length > 0) await writeFile(control, missing.map((one) => `+${one}`).join(' '));
}

/** Makes a VM's group, with its limits as `limitsOf` gives them, and puts a process into it with all its threads. */
export async function putInto(
  { mount }: CgroupTree,
  vmId: MachineSpec['vmId'],
  limits: readonly string[],
  pid: number,
): Promise<void> {
  const group = join(mount, PARENT_GROUP, vmId);
  const enter = async (): Promise<void> => {
    await mkdir(group, { recursive: true });
    for (const limit of limits) {
      const at = limit.indexOf('=');
      await writeFile(join(group, limit.slice(0, at)), limit.slice(at + 1));
    }
    await writeFile(join(group, 'cgroup.procs'), String(pid));
  };
  try {
    await enter();
  } catch (error) {
    // Another daemon of this host, which starts, took it for one that was left behind.
    if (!isErrno(error, 'ENOENT') && !isErrno(error, 'ENODEV')) throw error;
    await enter();
  }
}

/** Removes the groups of VMs that no process is in: what a crash left. */
export async function removeEmptyGroups({ mount }: CgroupTree): Promise<void> {
  const all = join(mount, PARENT_GROUP);
  for (const name of await readdir(all).catch(() => [])) {
    if (parseId('vm', name) === undefined) continue;
    await rmdir(join(all, name)).catch(() => undefined);
  }
}

/** How many processes of a VM's group the kernel has ended because they would not fit into its memory.max. */
export async function memoryKills({ mount }: CgroupTree, vmId: MachineSpec['vmId']): Promise<number> {
  const events = await readIfThere(join(mount, PARENT_GROUP, vmId, 'memory.events'));
  return Number(/^oom_kill (\d+)$/m.exec(events ?? '')?.[1] ?? 0);
}

/** Removes a VM's group; no failure when there is none. Throws VmmError `timeout` while a process is in it. */
export async function removeGroup({ mount }: CgroupTree, vmId: MachineSpec['vmId']): Promise<void> {
  const group = join(mount, PARENT_GROUP, vmId);
  try {
    await deadline('the end of all that is in the cgroup', EMPTY_MS, (signal) =>
      until({ clock: systemClock, signal }, () => tryRemoving(group), { firstMs: 1, mostMs: 50 }),
    );
  } catch (error) {
    if (!(error instanceof DeadlineExceeded)) throw error;
    throw new VmmError(error.message, { kind: 'timeout', cause: error });
  }
}

/** True when it is gone, undefined while a process that has just ended is still counted in it. */
async function tryRemoving(group: string): Promise<true | undefined> {
  try {
    await rmdir(group);
    return true;
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return true;
    if (isErrno(error, 'EBUSY')) return undefined;
    throw error;
  }
}
