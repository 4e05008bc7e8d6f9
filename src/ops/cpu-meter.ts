import type { VmId } from '../base/ids.ts';
import type { Vm, VmmProcess } from '../model/vm.ts';

interface Reading {
  /** Since the hypervisor was started. */
  readonly cpuSeconds: number;
  /** Milliseconds of a clock that only goes forward. */
  readonly at: number;
}

interface Known extends Reading {
  readonly process: VmmProcess;
  readonly percent: number | null;
}

/** How much of their vCPUs VMs used between the last two readings of their hypervisors' CPU time; these's own work is part of it. */
export class CpuMeter {
  readonly #known = new Map<VmId, Known>();

  /** The VMs that were read. */
  keys(): Iterable<VmId> {
    return this.#known.keys();
  }

  /** Takes a reading; gives how much that is in percent of all its vCPUs, null at the first reading of a hypervisor. */
  measure({ id, vcpuCount }: Pick<Vm, 'id' | 'vcpuCount'>, process: VmmProcess, now: Reading): number | null {
    const before = this.#known.get(id);
    const same = before?.process.pid === process.pid && before.process.startTime === process.startTime;
    const ms = same ? now.at - before.at : 0;
    // Two looks in one moment have nothing between them: what was known still is.
    if (same && ms <= 0) return before.percent;
    const percent = same ? ((now.cpuSeconds - before.cpuSeconds) * 1000 * 100) / (ms * vcpuCount) : null;
    this.#known.set(id, { ...now, process, percent });
    return percent;
  }

  delete(vmId: VmId): void {
    this.#known.delete(vmId);
  }
}
