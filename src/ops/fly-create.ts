import type { VmId } from '../base/ids.ts';
import { carryOutBoot } from './boot-vm.ts';
import { claim, mustBeAllowed, type Wanted } from './claim-vm.ts';
import type { Caller } from './hatch.ts';
import { withRoom } from './room-for.ts';
import type { World } from './world.ts';

/**
 * Makes a VM as the operation that starts it: the host's memory has room for it before there is a row, so one that is refused leaves
 * nothing. Throws as `claim` does, `no_capacity`, and what the boot failed with.
 */
export async function flyCreate(world: World, caller: Caller, wanted: Wanted, id: VmId): Promise<void> {
  const flying = withRoom(world, (ask) =>
    world.flights.fly(
      id,
      'create',
      async (signal) => {
        // Nobody is put to sleep for what its account may not have. Where no memory is counted, its row says so soon enough.
        if (world.room.budgetMib !== null) await mustBeAllowed(world, wanted, [wanted.name]);
        const vms = [{ vmId: id, memMib: wanted.memMib }];
        await ask({ verb: 'create', accountId: wanted.accountId, vms, about: null }, signal);
        if (wanted.network !== null) world.muster.come(id);
        return claim(world, caller, wanted, id);
      },
      (operation, signal) => carryOutBoot(world, operation, signal),
    ),
  );
  await flying.finally(() => world.muster.leave(id));
}
