import type { Vm } from '../model/vm.ts';
import { ownerOf } from './host-steps.ts';
import { reconcile } from './reconcile.ts';
import { carryOutStop } from './stop-vm.ts';
import type { World } from './world.ts';

/**
 * Stops every running guest of this host, together, each with up to `graceSeconds` to power off, and ends what no VM claims.
 * Gives how many were stopped.
 */
export async function takeDown(world: World, graceSeconds: number, tell: (vm: Vm) => void): Promise<number> {
  const { store, flights, settings } = world;
  const running = (await store.vms.ofHost(settings.hostId)).filter(
    (vm) => vm.state === 'running' && vm.operation === null,
  );
  await Promise.all(
    running.map(async (vm) => {
      tell(vm);
      await flights.fly(
        vm.id,
        'stop',
        () =>
          store.operations.begin({ id: vm.id, owner: ownerOf(vm) }, 'stop', { graceSeconds, by: 'person' }),
        (operation, signal) => carryOutStop(world, operation, signal),
      );
    }),
  );
  await reconcile(world);
  return running.length;
}
