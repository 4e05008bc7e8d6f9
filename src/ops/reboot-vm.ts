import { deadline } from '../base/deadline.ts';
import { Failure } from '../model/failure.ts';
import type { Operation } from '../model/records.ts';
import { refuse } from '../model/states.ts';
import type { Vm } from '../model/vm.ts';
import { mustBeHere } from './elsewhere.ts';
import type { Caller, Wait } from './hatch.ts';
import { attach, endVmm, imageOf, specOf, wholeDiskOf } from './host-steps.ts';
import { markError } from './mark-error.ts';
import { askToPowerOff, noteRungs } from './power-off.ts';
import { Closing, Overtaken, runForward, TryAgain } from './steps.ts';
import { exitReason } from './stop-vm.ts';
import { translate } from './translate.ts';
import { findVmForUse, waitFor } from './vms.ts';
import type { World } from './world.ts';
import { ownerOf } from './owner.ts';
import { depsOf, mustGet } from './carry-out.ts';

const GRACE_MS = 30_000;

/** Reboots a running VM: the guest shuts down in order (30 s, then it is cut off) and a fresh hypervisor boots its disk. */
export async function rebootVm(world: World, caller: Caller, idOrName: string, wait?: Wait): Promise<Vm> {
  const { store, flights } = world;
  const vm = await findVmForUse(world, caller, idOrName);
  await flights.fly(
    vm.id,
    'reboot',
    async () => {
      const now = (await store.vms.get(vm.id)) ?? vm;
      mustBeHere(world, now);
      const refused = refuse(now, 'reboot');
      if (refused) throw refused;
      return store.operations.begin({ id: vm.id, owner: ownerOf(now) }, 'reboot', { by: 'person' });
    },
    (operation, signal) => carryOutReboot(world, operation, signal),
  );
  return waitFor(world, vm.id, wait);
}

/** Starts a guest again that has rebooted itself: the hypervisor ended with it, its place on the host is still there. */
export async function followReboot(world: World, vm: Vm): Promise<void> {
  await world.flights.fly(
    vm.id,
    'reboot',
    () => world.store.operations.begin({ id: vm.id, owner: ownerOf(vm) }, 'reboot', { by: 'guest' }),
    (operation, signal) => carryOutReboot(world, operation, signal),
  );
}

/**
 * Carries a reboot to its end; also one that a crash cut off. When the guest cannot be started again, the VM is released
 * and left in `error`.
 */
export async function carryOutReboot(world: World, operation: Operation, signal: AbortSignal): Promise<void> {
  const { store, fleet, driver, clock } = world;
  const vm = await mustGet(world, operation);
  const steps = [
    {
      name: 'ask',
      run: async (stepSignal: AbortSignal) => {
        await store.vms.update(vm.id, ownerOf(vm), { readyAt: null });
        fleet.touch(vm.id);
        const live = fleet.get(vm.id);
        if (!live) return;
        const onRung = noteRungs(world, vm, 'vm.rebooting');
        await askToPowerOff(world, live, { graceMs: GRACE_MS, mode: 'reboot', onRung }, stepSignal);
      },
    },
    { name: 'end', run: () => endVmm(world, vm) },
    {
      // It never left; but a daemon that takes this up after a crash found no guest to give its place back to.
      name: 'ways-in',
      run: async () => {
        if (vm.network === null) return;
        await attach(world, vm, vm.network);
        await world.ports.open({ vmId: vm.id, port: vm.network.sshPort });
      },
    },
    {
      name: 'vmm',
      run: async (stepSignal: AbortSignal) => {
        const image = await imageOf(world, vm);
        const spec = specOf(world, vm, image, await wholeDiskOf(world, vm));
        const machine = await deadline(
          'starting the hypervisor',
          60_000,
          (within) => driver.launch(spec, within),
          stepSignal,
        );
        await store.vms.update(vm.id, ownerOf(vm), {
          process: machine.process,
          vmm: driver.name,
          accel: driver.accel,
        });
        fleet.add(vm, machine, { ready: false });
      },
    },
    {
      name: 'running',
      run: async () => {
        world.flights.landing(vm.id);
        await store.vms.move(vm.id, ownerOf(vm), ['running'], { state: 'running', stateReason: null });
        await store.events.add({
          accountId: vm.accountId,
          vmId: vm.id,
          kind: 'vm.rebooted',
          message:
            operation.args['by'] === 'guest' ? 'The guest rebooted itself.' : 'The guest was rebooted.',
        });
        fleet.touch(vm.id);
      },
    },
  ];
  try {
    await runForward(depsOf(world), operation, steps, signal);
  } catch (error) {
    // A deletion that cut this short ends the guest itself.
    if (error instanceof Closing || error instanceof Overtaken) throw error;
    await endVmm(world, vm);
    await world.ports.close(vm.id);
    if (vm.network !== null) await world.net.detach(vm.id);
    const failure = translate(error instanceof TryAgain ? error.cause : error);
    const reason = {
      ...exitReason({ kind: 'reboot' }, clock.now()),
      message: `The guest rebooted and could not be started again: ${failure.message}`,
    };
    await markError(world, vm, reason, ['running']);
    throw new Failure(failure.code, failure.message, {
      details: { ...failure.details, id: vm.id },
      cause: error,
    });
  }
}
