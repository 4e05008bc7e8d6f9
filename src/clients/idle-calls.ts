import type { IdleSimulation, LeaseVm, SimulateIdle, VmLease, VmWhy } from '../contract/idle.ts';
import { seg, type CallOptions, type Transport } from './transport.ts';

/** The calls about VMs' sleep. */
export function idleCalls(transport: Transport) {
  return {
    /** A running VM is busy for so many seconds from now; 0 ends that. */
    lease: (vm: string, request: LeaseVm, { signal }: CallOptions = {}): Promise<VmLease> =>
      transport.json({ method: 'POST', path: `/vms/${seg(vm)}/lease`, body: request, signal }),
    /** Why a VM is awake or asleep. */
    why: (vm: string, { signal }: CallOptions = {}): Promise<VmWhy> =>
      transport.json({ method: 'GET', path: `/vms/${seg(vm)}/why`, signal }),
    /** How VMs would have slept with another timeout. */
    simulate: (request: SimulateIdle, { signal }: CallOptions = {}): Promise<readonly IdleSimulation[]> =>
      transport.json({ method: 'POST', path: '/idle/simulate', body: request, signal }),
  };
}
