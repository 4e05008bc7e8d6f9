import { Failure } from '../model/failure.ts';
import type { Operation } from '../model/records.ts';
import type { Vm } from '../model/vm.ts';
import type { World } from './world.ts';

/** What running and journalling steps needs. */
export function depsOf({ store, clock, log }: World): {
  operations: World['store']['operations'];
  clock: World['clock'];
  log: World['log'];
} {
  return { operations: store.operations, clock, log };
}

/** The VM of an operation; it is there as long as the operation is. */
export async function mustGet({ store }: Pick<World, 'store'>, operation: Operation): Promise<Vm> {
  const vm = await store.vms.get(operation.vmId);
  if (!vm) throw new Failure('not_found', `There is no VM ${operation.vmId}.`);
  return vm;
}
