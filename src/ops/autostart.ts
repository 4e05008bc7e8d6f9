import { errorFields } from '../base/logger.ts';
import { Slots } from '../base/slots.ts';
import type { Vm } from '../model/vm.ts';
import { flyStart } from './start-vm.ts';
import type { World } from './world.ts';

/** So many boot at once: all together they would each take longer than one after the other. */
const AT_ONCE = 2;

/** Starts VMs that ended with the host, in the order they were made. One that cannot start is told of, and keeps no other from it. */
export async function autostart(world: World, vms: readonly Vm[], signal: AbortSignal): Promise<void> {
  const { store, log } = world;
  const slots = new Slots(AT_ONCE);
  await Promise.all(
    vms
      .toSorted((a, b) => a.createdAt - b.createdAt)
      .map(async ({ id, accountId }) => {
        try {
          await slots.run(async () => {
            const now = await store.vms.get(id);
            // Somebody may have been faster, or deleted it.
            if (now?.state !== 'error') return;
            await store.events.add({
              accountId,
              vmId: id,
              kind: 'vm.autostarted',
              message: 'The host was rebooted: it is started again, as "autostart" says.',
            });
            await flyStart(world, now);
          }, signal);
        } catch (error) {
          if (!signal.aborted)
            log.warn({ vm: id, ...errorFields(error) }, 'could not start a VM again after the host rebooted');
        }
      }),
  );
}
