import { errorFields } from '../base/logger.ts';
import { Failure } from '../model/failure.ts';
import type { Operation } from '../model/records.ts';
import type { Vm } from '../model/vm.ts';
import type { Port } from '../net/network.ts';
import { carryOutDelete } from './delete-vm.ts';
import { diskOf, endVmm, imageOf, portOf, specOf } from './host-steps.ts';
import { settleFork } from './fork-vm.ts';
import { isImport } from './import-snapshot.ts';
import { markError } from './mark-error.ts';
import { NO_SPACE } from './no-space.ts';
import { carryOutReboot } from './reboot-vm.ts';
import { catchUp } from './refresh-guest.ts';
import { recoverRestore } from './restore-vm.ts';
import { carryOutSnapshot, isSaved, recoverSnapshot } from './snapshot-vm.ts';
import { planOf } from './snapshot-plan.ts';
import { carryOutStop } from './stop-vm.ts';
import { Stuck } from './steps.ts';
import { translate } from './translate.ts';
import type { World } from './world.ts';
import { recoverBoot } from './boot-vm.ts';

/**
 * What the start of a daemon does before it serves: takes back the creates and starts that were cut off, brings the network up,
 * finds the guests that ran on, and marks those that did not. Stops, reboots and deletions that were cut off go on afterwards, in
 * the background (`settle`). Gives the VMs that ended with the host and are to start again with it (`autostart`).
 */
export async function recover(world: World, signal: AbortSignal): Promise<readonly Vm[]> {
  const { store, settings, net, log } = world;
  const unfinished = await store.operations.unfinished(settings.hostId);
  const wanted = (await store.vms.ofHost(settings.hostId)).filter(wantsNetwork);
  await net.start(wanted.flatMap(portsOf));
  for (const operation of unfinished) {
    if (await forwardOnly(world, operation)) {
      if (isSave(operation)) await recoverSnapshot(world, operation);
    } else await unwind(world, operation);
  }
  const settling = new Map(unfinished.map((operation) => [operation.vmId, operation]));
  const startAgain: Vm[] = [];
  for (const vm of await store.vms.ofHost(settings.hostId)) {
    signal.throwIfAborted();
    if (
      (await endsGuest(world, settling.get(vm.id))) ||
      !(vm.state === 'running' || vm.state === 'starting' || vm.state === 'stopping')
    )
      continue;
    try {
      const found = await adopt(world, vm, signal);
      if (!found && !knowsOfEnds(settling.get(vm.id))) {
        const rebooted = vm.process !== null && vm.process.bootId !== world.settings.bootId;
        await lose(
          world,
          vm,
          rebooted
            ? 'The host was rebooted, and the guest ended with it.'
            : "The server was restarted, and the guest's process no longer exists.",
        );
        if (rebooted && vm.autostart) startAgain.push(vm);
      }
    } catch (error) {
      log.error({ vm: vm.id, ...errorFields(error) }, 'could not take up a guest that was running');
      await lose(world, vm, `The server could not find the guest again: ${translate(error).message}`);
    }
  }
  return startAgain;
}

/** Whether a VM has its place in the network now. */
export function wantsNetwork(vm: Vm): boolean {
  return (
    vm.network !== null && (vm.state === 'running' || vm.state === 'starting' || vm.state === 'stopping')
  );
}

/** The VM's port as a list of none or one. */
export function portsOf(vm: Vm): readonly Port[] {
  return vm.network === null ? [] : [portOf(vm, vm.network)];
}

async function unwind(world: World, operation: Operation): Promise<void> {
  const { store, log } = world;
  try {
    await takeBack(world, operation);
    const vm = await store.vms.get(operation.vmId);
    const whole = isImport(operation) ? vm?.state === 'snapshotted' : vm?.state === 'running';
    if (whole && !isSave(operation)) return await store.operations.finish(operation.id, 'done');
    await store.operations.finish(operation.id, 'failed', {
      code: 'interrupted',
      message: 'The server stopped while it was under way.',
    });
  } catch (error) {
    log.error(
      { operation: operation.id, vm: operation.vmId, ...errorFields(error) },
      'could not take back an operation',
    );
    const failure = translate(error);
    await store.operations.finish(operation.id, error instanceof Stuck ? 'stuck' : 'failed', {
      code: failure.code,
      message: failure.message,
    });
  }
}

/** Whether an operation has no way back, so that it is carried on instead. */
async function forwardOnly({ store }: World, operation: Operation): Promise<boolean> {
  switch (operation.verb) {
    case 'stop':
    case 'reboot':
    case 'delete':
      return true;
    case 'snapshot':
    case 'fork':
      // One that was saved while it ran has its snapshot, or nothing.
      return isSaved(operation) || (await store.snapshots.get(planOf(operation).snapshotId)) !== null;
    case 'create':
    case 'start':
    case 'restore':
      return false;
  }
}

/** A stop or reboot that goes on knows what to do with a guest that is gone. */
function knowsOfEnds(operation: Operation | undefined): boolean {
  return operation?.verb === 'stop' || operation?.verb === 'reboot' || operation?.verb === 'delete';
}

function isSave({ verb }: Operation): boolean {
  return verb === 'snapshot' || verb === 'fork';
}

/** Whether the guest that may still be there is not to be taken up: it is about to be ended. */
async function endsGuest({ store }: World, operation: Operation | undefined): Promise<boolean> {
  if (operation === undefined) return false;
  if (!isSave(operation) || !isSaved(operation)) return operation.verb === 'delete';
  // Once there is a snapshot, a guest that runs is one that has gone on from it.
  return (await store.snapshots.get(planOf(operation).snapshotId)) === null;
}

async function takeBack(world: World, operation: Operation): Promise<void> {
  if (isSave(operation)) await recoverSnapshot(world, operation);
  else if (operation.verb === 'restore') await recoverRestore(world, operation);
  else await recoverBoot(world, operation);
}

/** Takes up the guest of a VM that was running; false when it is gone. */
async function adopt(world: World, vm: Vm, signal: AbortSignal): Promise<boolean> {
  const { driver, fleet, ports, net, log, activity, clock } = world;
  if (vm.process === null) return false;
  const image = await imageOf(world, vm);
  const machine = await driver.adopt(specOf(world, vm, image, await diskOf(world, vm)), vm.process, signal);
  if (!machine) return false;
  // One that was to be saved, or of whose pause nobody knows any more.
  if ((await machine.status()) === 'paused') await machine.resume();
  // It is told of again where there still is none.
  if (vm.stateReason?.code === NO_SPACE) fleet.onNoSpace(vm.id, false);
  fleet.add(vm, machine, { ready: vm.readyAt !== null });
  void catchUp(world, vm);
  activity.adopt(vm.id, {
    usedBeforeMs: vm.lastActiveAt === null ? null : clock.now() - vm.lastActiveAt,
    leasedForMs: vm.leasedUntil === null ? null : vm.leasedUntil - clock.now(),
  });
  log.info({ vm: vm.id, pid: machine.process.pid }, 'took up a guest that ran on');
  if (vm.network !== null) {
    try {
      await net.attach(portOf(vm, vm.network));
      await ports.open({ vmId: vm.id, port: vm.network.sshPort });
    } catch (error) {
      // The guest runs all the same; reconciling tries again until it has its ways in.
      log.warn({ vm: vm.id, ...errorFields(error) }, 'a guest that ran on has no way in yet');
    }
  }
  return true;
}

/** A VM whose process is gone: released from the host, its disk kept, and marked, as the contract has it. */
async function lose(world: World, vm: Vm, message: string): Promise<void> {
  const { ports, net, clock } = world;
  await endVmm(world, vm);
  await ports.close(vm.id);
  if (vm.network !== null) await net.detach(vm.id);
  const reason = {
    code: 'lost',
    message: `${message} Start it again; its disk is as it was.`,
    at: clock.now(),
  };
  await markError(world, vm, reason, ['running', 'starting', 'stopping'], { event: message });
}

/** Goes on with stops, reboots and deletions that nobody carries out: cut off by a crash, or to be tried again. */
export async function settle(world: World): Promise<void> {
  const { store, settings, flights, log } = world;
  const left = (await store.operations.unfinished(settings.hostId)).filter(
    (operation) => !flights.has(operation.vmId),
  );
  await Promise.all(
    left.map(async (operation) => {
      const work = forward(operation);
      if (!work) return;
      try {
        await flights.fly(
          operation.vmId,
          operation.verb,
          async () => operation,
          (claimed, signal) => work(world, claimed, signal),
        );
      } catch (error) {
        if (error instanceof Failure && error.code === 'unavailable') return;
        log.warn(
          { operation: operation.id, verb: operation.verb, vm: operation.vmId, ...errorFields(error) },
          'could not settle an operation',
        );
      }
    }),
  );
}

function forward(
  operation: Operation,
): ((world: World, operation: Operation, signal: AbortSignal) => Promise<void>) | undefined {
  switch (operation.verb) {
    case 'stop':
      return carryOutStop;
    case 'reboot':
      return carryOutReboot;
    case 'delete':
      return carryOutDelete;
    case 'create':
    case 'start':
      // Of a flight that ended between the journal and its finish; nobody may be in the middle of it.
      return recoverBoot;
    case 'restore':
      return recoverRestore;
    case 'snapshot':
      return carryOutSnapshot;
    case 'fork':
      return settleFork;
  }
}
