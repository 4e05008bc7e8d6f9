import { Failure } from '../model/failure.ts';
import type { Vm } from '../model/vm.ts';
import { reconcile } from './reconcile.ts';
import { settle } from './recover.ts';
import { carryOutStop } from './stop-vm.ts';
import { translate } from './translate.ts';
import type { World } from './world.ts';
import { ownerOf } from './owner.ts';

/**
 * Stops every running guest of this host, together, each with up to `graceSeconds` to power off, and ends what no VM claims.
 * What an earlier daemon left under way is carried to its end first: a reboot would boot its guest again afterwards. Gives how
 * many were stopped; throws a Failure naming those that could not be, when all others are.
 */
export async function takeDown(world: World, graceSeconds: number, tell: (vm: Vm) => void): Promise<number> {
  const { store, flights, settings } = world;
  await settle(world);
  const running = (await store.vms.ofHost(settings.hostId)).filter((vm) => vm.state === 'running');
  const failures: { readonly name: string; readonly failure: Failure }[] = [];
  const stop = async (vm: Vm): Promise<void> => {
    tell(vm);
    try {
      await flights.fly(
        vm.id,
        'stop',
        () =>
          store.operations.begin({ id: vm.id, owner: ownerOf(vm) }, 'stop', { graceSeconds, by: 'person' }),
        (operation, signal) => carryOutStop(world, operation, signal),
      );
    } catch (error) {
      failures.push({ name: vm.name ?? vm.id, failure: translate(error) });
    }
  };
  await Promise.all(running.map(stop));
  await reconcile(world);
  const [first] = failures;
  if (first) {
    const said = failures.map(({ name, failure }) => `${name} could not be stopped: ${failure.message}`);
    throw new Failure(first.failure.code, said.join(' '), { cause: first.failure });
  }
  return running.length;
}
