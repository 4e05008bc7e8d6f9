import { deadline } from '../base/deadline.ts';
import { errorFields } from '../base/logger.ts';
import { giveIdentity, joinNetwork, newMachineId, type HookResult } from '../guest/identity.ts';
import { Failure } from '../model/failure.ts';
import type { Vm } from '../model/vm.ts';
import { hostnameOf } from './host-steps.ts';
import { whyItEnded } from './stop-vm.ts';
import type { Step } from './steps.ts';
import type { World } from './world.ts';

const ENDED = 'The guest ended before it could be told who it is.';

/** Tells a loaded guest who it is, its tap still off the bridge, and lets it join. */
export function identityStep(world: World, vm: Vm): Step {
  const { fleet, net, clock, log, patience } = world;
  return {
    name: 'identity',
    async run(signal) {
      const live = fleet.get(vm.id);
      if (!live) throw new Failure('vmm_failed', ENDED);
      const { agent } = live;
      const ended = live.machine.exited.then((exit) =>
        Promise.reject(new Failure('vmm_failed', `${ENDED} ${whyItEnded(exit)}`)),
      );
      ended.catch(() => undefined);
      const identity = { hostname: hostnameOf(vm), mac: vm.network?.mac ?? null, machineId: newMachineId() };
      const given = await deadline(
        'giving the copy its identity',
        patience.identityMs,
        (within) => Promise.race([giveIdentity({ agent, clock }, identity, within), ended]),
        signal,
      );
      fleet.answered(vm);
      await noteHooks(world, vm, given.hooks);
      if (vm.network === null) return;
      await net.setJoined(vm.id, true);
      const unjoined = (error: unknown): void =>
        log.warn(
          { vm: vm.id, ...errorFields(error) },
          'the guest could not be told that it is on the network',
        );
      try {
        const { joined } = await deadline(
          'joining the network',
          patience.identityMs,
          (within) => joinNetwork({ agent, clock }, within),
          signal,
        );
        // It brings its card up by itself from here on; one that is taken down meanwhile need not.
        joined.catch((error: unknown) => (fleet.get(vm.id) === live ? unjoined(error) : undefined));
      } catch (error) {
        signal.throwIfAborted();
        unjoined(error);
      }
    },
    // The guest that was told goes with its hypervisor.
    undo: async () => undefined,
  };
}

/** Makes events of what a guest's hooks could not do. */
export async function noteHooks(
  { store }: Pick<World, 'store'>,
  vm: Vm,
  hooks: readonly HookResult[],
): Promise<void> {
  for (const { name, exitCode, timedOut, said } of hooks) {
    if (exitCode === 0) continue;
    await store.events.add({
      accountId: vm.accountId,
      vmId: vm.id,
      kind: 'vm.hook_failed',
      message: `The guest's hook ${name} ${timedOut ? 'took too long and was ended' : `failed with exit code ${exitCode}`}.`,
      data: { hook: name, exit_code: exitCode, said },
    });
  }
}
