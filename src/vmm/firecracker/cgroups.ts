import { readFile, rmdir } from 'node:fs/promises';
import { join } from 'node:path';
import { isErrno } from '../../base/errno.ts';
import { systemClock } from '../../base/clock.ts';
import { deadline, DeadlineExceeded } from '../../base/deadline.ts';
import { until } from '../../base/until.ts';
import { readIfThere } from '../../host/files.ts';
import { VmmError, type MachineSpec } from '../driver.ts';

/**
 * Control groups, version 2 (Documentation/admin-guide/cgroup-v2.rst): each jailed VMM is in a group of its own, `hatch/<VM>`,
 * which the jailer makes and we remove.
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

/** A VM's limits, as `FILE=VALUE`, by the controllers that are there. */
export function limitsOf(
  { vcpuCount, memMib }: Pick<MachineSpec, 'vcpuCount' | 'memMib'>,
  controllers: readonly Controller[],
): readonly string[] {
  const limits: Readonly<Record<Controller, string>> = {
    // Its vCPUs, and half a processor for what the VMM does for them.
    cpu: `cpu.max=${(vcpuCount + 0.5) * PERIOD_US} ${PERIOD_US}`,
    memory: `memory.max=${memoryMaxMib(memMib) * 1024 * 1024}`,
    // A thread for each vCPU, two of Firecracker's, those the kernel adds for KVM, and room.
    pids: `pids.max=${vcpuCount + 32}`,
  };
  return CONTROLLERS.filter((one) => controllers.includes(one)).map((one) => limits[one]);
}

/**
 * The guest's memory; the VMM's own (5 MiB by its specification); page tables; and some for the pages of its disk that are kept,
 * which the kernel gives up when it is short.
 */
function memoryMaxMib(memMib: number): number {
  return memMib + Math.max(64, Math.ceil(memMib / 16));
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
