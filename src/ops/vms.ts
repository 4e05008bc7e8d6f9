import { deadline, DeadlineExceeded } from '../base/deadline.ts';
import type { VmId } from '../base/ids.ts';
import { Failure, notFound } from '../model/failure.ts';
import type { Vm } from '../model/vm.ts';
import { LOOK_AGAIN_MS } from './settings.ts';
import type { Caller, Wait } from './hatch.ts';
import type { World } from './world.ts';

/** A VM of the caller's account by id or name. Throws `not_found`, also for another account's. */
export async function findVm({ store }: Pick<World, 'store'>, caller: Caller, idOrName: string): Promise<Vm> {
  const vm = await store.vms.find(caller.accountId, idOrName);
  if (!vm) throw notFound('vm', idOrName);
  return vm;
}

/**
 * As `findVm`, for whoever wants something of a running VM: it counts as used, and one that is just falling asleep because nobody used it
 * stays awake for this, or sleeps when this resolves.
 */
export async function findVmForUse(
  world: Pick<World, 'store' | 'activity' | 'flights'>,
  caller: Caller,
  idOrName: string,
): Promise<Vm> {
  const vm = await findVm(world, caller, idOrName);
  world.activity.touch(vm.id);
  if (!world.activity.isFallingAsleep(vm.id)) return vm;
  await world.flights.landed(vm.id);
  return findVm(world, caller, vm.id);
}

/**
 * Gives the VM once it is as `wait` wants it; at once without. Throws `timeout` when it takes too long, which changes
 * nothing, and the VM's own reason when it cannot get there any more.
 */
export async function waitFor(
  world: Pick<World, 'store' | 'fleet' | 'settings'>,
  id: VmId,
  wait: Wait | undefined,
): Promise<Vm> {
  let elsewhere = false;
  const look = async (): Promise<Vm> => {
    const vm = await world.store.vms.get(id);
    if (!vm) throw notFound('vm', id);
    elsewhere = vm.hostId !== world.settings.hostId;
    return vm;
  };
  if (!wait) return look();
  try {
    return await deadline('waiting for the VM', wait.timeoutMs, (signal) =>
      world.fleet.watch(
        id,
        async () => {
          const vm = await look();
          if (vm.state === 'running') return wait.until === 'running' || vm.readyAt !== null ? vm : undefined;
          if (vm.operation !== null) return undefined;
          throw new Failure(
            'wrong_state',
            `The VM is ${vm.state} and will not be ${wait.until}${vm.stateReason ? `: ${vm.stateReason.message}` : '.'}`,
            {
              details: { id, state: vm.state },
            },
          );
        },
        signal,
        () => (elsewhere ? LOOK_AGAIN_MS : undefined),
      ),
    );
  } catch (error) {
    if (!(error instanceof DeadlineExceeded)) throw error;
    throw new Failure(
      'timeout',
      `The VM was not ${wait.until} within ${wait.timeoutMs / 1000} s; it is left as it is, ask again.`,
      {
        details: { id },
        cause: error,
      },
    );
  }
}
