import type { StateReason, Vm, VmState } from '../model/vm.ts';
import type { World } from './world.ts';
import { ownerOf } from './owner.ts';

/**
 * Puts a VM whose guest runs no more into `error` with its reason, as an event too, and tells those who wait on it. The row is
 * left alone when it is in none of the states `from`.
 */
export async function markError(
  { store, fleet, flights }: Pick<World, 'store' | 'fleet' | 'flights'>,
  vm: Vm,
  reason: StateReason,
  from: readonly VmState[],
  { event = reason.message, data = {} }: { readonly event?: string; readonly data?: object } = {},
): Promise<void> {
  flights.landing(vm.id);
  await store.vms.move(vm.id, ownerOf(vm), from, {
    state: 'error',
    stateReason: reason,
    process: null,
    readyAt: null,
  });
  await store.events.add({
    accountId: vm.accountId,
    vmId: vm.id,
    kind: 'vm.error',
    message: event,
    data: { code: reason.code, ...data },
  });
  fleet.touch(vm.id);
}
