import type { VmId } from '../../base/ids.ts';
import type { Logger } from '../../base/logger.ts';
import type { VmmProcess } from '../../model/vm.ts';
import {
  limitsOf,
  memoryKills,
  putInto,
  removeEmptyGroups,
  removeGroup,
  shareOut,
  type Besides,
  type CgroupTree,
} from '../cgroups.ts';
import type { MachineSpec } from '../driver.ts';

/** What the QEMUs of a host are bound by: each is in a group of its own, which is its VM's. */
export class Limits {
  readonly #log: Logger;
  readonly #cgroups: CgroupTree | null;
  #shared: Promise<CgroupTree | null> | undefined;

  /** `cgroups`: null where there are no limits. */
  constructor({ log, cgroups }: { readonly log: Logger; readonly cgroups: CgroupTree | null }) {
    this.#log = log;
    this.#cgroups = cgroups;
  }

  /** Gives a VM's QEMU, which has only just begun, its group. Where the hierarchy is not to be divided there is none, which the log says once. */
  async put(spec: MachineSpec, accel: 'kvm' | 'tcg', { pid }: Pick<VmmProcess, 'pid'>): Promise<void> {
    if (this.#cgroups === null) return;
    this.#shared ??= this.#share(this.#cgroups);
    const tree = await this.#shared;
    if (tree) await putInto(tree, spec.vmId, limitsOf(spec, tree.controllers, besides(spec, accel)), pid);
  }

  /** Whether the kernel has ended a VM's QEMU because it took more memory than it may. */
  async wereTooSmall(vmId: VmId): Promise<boolean> {
    return this.#cgroups !== null && (await memoryKills(this.#cgroups, vmId)) > 0;
  }

  /** Removes a VM's group, when its QEMU has ended. */
  async lift(vmId: VmId): Promise<void> {
    if (this.#cgroups) await removeGroup(this.#cgroups, vmId);
  }

  async #share(cgroups: CgroupTree): Promise<CgroupTree | null> {
    const shared = await shareOut(cgroups);
    if ('why' in shared) {
      this.#log.warn({ why: shared.why }, NO_LIMITS);
      return null;
    }
    await removeEmptyGroups(cgroups);
    return cgroups;
  }
}

export const NO_LIMITS = "the processor, memory and threads of guests' QEMUs have no limit on this host";

/**
 * What QEMU takes besides its guest: a processor for devices and the disk; the translated code under emulation, page tables, buffers and
 * pages of files, which the kernel gives up when it is short; up to 64 threads for the disk, and room.
 */
function besides({ memMib }: Pick<MachineSpec, 'memMib'>, accel: 'kvm' | 'tcg'): Besides {
  return { cpus: 1, memMib: (accel === 'kvm' ? 256 : 512) + Math.ceil(memMib / 8), threads: 128 };
}
