import type { Caller } from './hatch.ts';
import { Failure } from '../model/failure.ts';
import type { Operation } from '../model/records.ts';
import { refuse } from '../model/states.ts';
import type { StateReason, Vm, VmState } from '../model/vm.ts';
import type { MachineExit } from '../vmm/driver.ts';
import { mustBeHere } from './elsewhere.ts';
import { endVmm } from './host-steps.ts';
import { askToPowerOff, noteRungs } from './power-off.ts';
import { leaveSshPort } from './ssh-ports.ts';
import { runForward, type Step } from './steps.ts';
import { decidedIn } from './snapshot-plan.ts';
import { noteSlept, type IdleSleep } from './note-sleep.ts';
import { findVmForUse, waitFor } from './vms.ts';
import type { World } from './world.ts';
import { ownerOf } from './owner.ts';
import { depsOf, mustGet } from './carry-out.ts';

/** How long the guest of a VM nobody uses has to power off, in seconds. */
const IDLE_GRACE_SECONDS = 60;

/**
 * Stops a VM: asks the guest, waits up to `graceSeconds`, then kills it and says so. Its disk, IP, MAC and port stay.
 * Stopped already: nothing is done.
 */
export async function stopVm(
  world: World,
  caller: Caller,
  idOrName: string,
  { graceSeconds }: { readonly graceSeconds: number },
): Promise<Vm> {
  const { store, flights } = world;
  const vm = await findVmForUse(world, caller, idOrName);
  // Who comes by does not start it any more.
  if (vm.state === 'stopped' && vm.operation === null && vm.stoppedBy === 'policy') {
    await store.vms.move(vm.id, ownerOf(vm), ['stopped'], { stoppedBy: 'person' });
    await world.ports.close(vm.id);
  } else if (vm.state !== 'stopped' || vm.operation !== null) {
    await flights.fly(
      vm.id,
      'stop',
      async () => {
        const now = (await store.vms.get(vm.id)) ?? vm;
        mustBeHere(world, now);
        const refused = refuse(now, 'stop');
        if (refused) throw refused;
        return store.operations.begin({ id: vm.id, owner: ownerOf(now) }, 'stop', {
          graceSeconds,
          by: 'person',
        });
      },
      (operation, signal) => carryOutStop(world, operation, signal),
    );
  }
  return waitFor(world, vm.id, undefined);
}

/**
 * Stops a VM because nobody uses it: who comes by starts it again. Somebody who uses it before its guest was told leaves it running:
 * `busy` then.
 */
export async function stopIdle(world: World, vm: Vm, { falling, decided }: IdleSleep): Promise<void> {
  const { store, flights } = world;
  await flights.fly(
    vm.id,
    'stop',
    async () => {
      const now = (await store.vms.get(vm.id)) ?? vm;
      mustBeHere(world, now);
      if (now.state !== 'running')
        throw refuse(now, 'stop') ?? new Failure('wrong_state', 'It does not run.');
      const args = { graceSeconds: IDLE_GRACE_SECONDS, by: 'policy', decided };
      return store.operations.begin({ id: vm.id, owner: ownerOf(now) }, 'stop', args);
    },
    async (operation, signal) => {
      falling.seal();
      await carryOutStop(world, operation, signal);
    },
  );
}

/** Puts a VM whose guest has ended by itself to rest: `stopped` after a poweroff, `error` after anything else. */
export async function settleExit(world: World, vm: Vm, exit: MachineExit): Promise<void> {
  const reason = exit.kind === 'poweroff' ? null : exitReason(exit, world.clock.now());
  await world.flights.fly(
    vm.id,
    'stop',
    () =>
      world.store.operations.begin({ id: vm.id, owner: ownerOf(vm) }, 'stop', {
        by: 'guest',
        ...(reason ? { reason } : {}),
      }),
    (operation, signal) => carryOutStop(world, operation, signal),
  );
}

/** The account of an end that nobody asked for, for the VM's state_reason. */
export function exitReason(exit: Exclude<MachineExit, { kind: 'poweroff' }>, at: number): StateReason {
  switch (exit.kind) {
    case 'panic':
      return {
        code: 'guest_panic',
        message: `The guest's kernel panicked. Its last lines: ${lastLines(exit.console)}`,
        at,
      };
    case 'crashed': {
      const how =
        exit.signal !== null
          ? `was killed by ${exit.signal}`
          : exit.exitCode === null
            ? 'ended for an unknown reason'
            : `ended with exit code ${exit.exitCode}`;
      return {
        code: 'vmm_died',
        message: `The hypervisor ${how}${exit.message ? `: ${exit.message}` : '.'}`,
        at,
      };
    }
    case 'killed':
      return { code: 'killed', message: 'The hypervisor was killed.', at };
    case 'reboot':
      return { code: 'reboot_failed', message: 'The guest rebooted and could not be started again.', at };
  }
}

/** A sentence that says why a machine ended, for whoever had something to do with it. */
export function whyItEnded(exit: MachineExit): string {
  return exit.kind === 'poweroff' ? 'It was powered off from inside.' : exitReason(exit, 0).message;
}

/** The kernel's own word for it, and what it wrote last. */
function lastLines(text: string): string {
  const lines = text.split(/\r?\n/).filter((line) => line.trim() !== '');
  const cause = lines.findLastIndex((line) => line.includes('Kernel panic'));
  const last = lines.slice(Math.max(cause + 1, lines.length - 10));
  return [...(cause === -1 ? [] : lines.slice(cause, cause + 1)), ...last].join('\n').slice(0, 2000);
}

/** Carries a stop to its end; also one that a crash cut off: there is no way back from it, only forward. */
export async function carryOutStop(world: World, operation: Operation, signal: AbortSignal): Promise<void> {
  const vm = await mustGet(world, operation);
  const by =
    operation.args['by'] === 'guest' ? 'guest' : operation.args['by'] === 'policy' ? 'policy' : 'person';
  const reason = reasonIn(operation.args['reason']);
  const grace = operation.args['graceSeconds'];
  let forced = false;
  const steps: Omit<Step, 'undo'>[] = [];
  if (by !== 'guest') {
    steps.push({
      name: 'ask',
      async run(stepSignal) {
        // Who comes by meanwhile knows by this that it may be started again.
        await moveTo(world, vm, 'stopping', by === 'policy' ? { stoppedBy: by } : {});
        const live = world.fleet.get(vm.id);
        if (live)
          forced = !(await askToPowerOff(
            world,
            live,
            {
              graceMs: typeof grace === 'number' ? grace * 1000 : 0,
              mode: 'powerdown',
              onRung: noteRungs(world, vm, 'vm.stopping'),
            },
            stepSignal,
          ));
      },
    });
  }
  steps.push(
    { name: 'vmm', run: () => endVmm(world, vm) },
    {
      name: 'ssh-port',
      run: () => (by === 'policy' && !reason ? leaveSshPort(world, vm) : world.ports.close(vm.id)),
    },
    { name: 'network', run: () => (vm.network === null ? Promise.resolve() : world.net.detach(vm.id)) },
    {
      name: 'stopped',
      async run() {
        const why: StateReason | null = forced
          ? {
              code: 'forced_stop',
              message: `The guest did not power off within ${String(grace)} s and was cut off.`,
              at: world.clock.now(),
            }
          : reason;
        const state = reason ? 'error' : 'stopped';
        world.flights.landing(vm.id);
        await moveTo(world, vm, state, { stateReason: why, stoppedBy: reason ? null : by });
        await world.store.events.add({
          accountId: vm.accountId,
          vmId: vm.id,
          kind: `vm.${state}`,
          message:
            why?.message ?? (by === 'guest' ? 'The guest powered itself off.' : 'The guest has stopped.'),
          data: { by, forced, ...(why ? { code: why.code } : {}) },
        });
        if (by === 'policy') await noteSlept(world, vm, 'stop', decidedIn(operation.args['decided']) ?? {});
        world.fleet.touch(vm.id);
      },
    },
  );
  await runForward(depsOf(world), operation, steps, signal);
}

function reasonIn(value: unknown): StateReason | null {
  if (typeof value !== 'object' || value === null) return null;
  const { code, message, at } = value as Record<string, unknown>;
  return typeof code === 'string' && typeof message === 'string' && typeof at === 'number'
    ? { code, message, at }
    : null;
}

async function moveTo(
  { store, fleet }: World,
  vm: Vm,
  state: VmState,
  patch: { stateReason?: StateReason | null; stoppedBy?: Vm['stoppedBy'] },
): Promise<void> {
  await store.vms.update(vm.id, ownerOf(vm), { state, ...patch });
  fleet.touch(vm.id);
}
