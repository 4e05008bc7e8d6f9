import { Failure } from '../model/failure.ts';
import type { Vm } from '../model/vm.ts';
import type { Owner } from '../store/store.ts';

/** Who may write this VM's row. */
export function ownerOf(vm: Pick<Vm, 'hostId' | 'epoch' | 'id'>): Owner {
  if (vm.hostId === null) throw new Failure('wrong_state', `VM ${vm.id} belongs to no host.`);
  return { hostId: vm.hostId, epoch: vm.epoch };
}
