import type { Operation } from '../model/records.ts';
import { Failure } from '../model/failure.ts';
import type { Snapshot } from '../model/snapshot.ts';
import type { Vm } from '../model/vm.ts';
import { mustFitHere } from './compatible.ts';
import { endVmm } from './host-steps.ts';
import { lastVerified } from './idle-snapshots.ts';
import { releaseLayers } from './layers.ts';
import { markError } from './mark-error.ts';
import { ownerOf } from './owner.ts';
import { dropSnapshot } from './save-vm.ts';
import type { Stage, Step } from './steps.ts';
import { translate } from './translate.ts';
import { AWAKE, carryOutWake, waitForAgent, noteAwake, placeSteps, introductions, wake } from './wake-vm.ts';
import type { World } from './world.ts';

/** Somebody began to stand on the memory a VM was to go on in. */
class NotAlone extends Error {
  override readonly name = 'NotAlone';
}

/**
 * Wakes a sleeping VM from a snapshot, in its memory where nobody needs the snapshot afterwards: its next save then need not write
 * that memory again. Else, and while anybody else stands on that memory, as `wake` does, on a private map.
 */
export async function wakeAlone(
  world: World,
  operation: Operation,
  vm: Vm,
  snapshot: Snapshot,
  signal: AbortSignal,
): Promise<void> {
  if (await mayGoOnIn(world, vm, snapshot)) {
    mustFitHere(world.driver, snapshot);
    try {
      return await carryOutWake(world, operation, vm, snapshot, await steps(world, vm, snapshot), signal);
    } catch (error) {
      if (!(error instanceof NotAlone)) throw error;
    }
  }
  await wake(world, operation, vm, snapshot, signal);
}

/** Whether nobody misses the snapshot's memory as it is: nobody asked to keep it, and nobody else stands on it. */
async function mayGoOnIn(
  { store, driver, flights, settings }: World,
  vm: Vm,
  snapshot: Snapshot,
): Promise<boolean> {
  const { id, kind, hostId, memoryLayerId, state } = snapshot;
  if (!driver.capabilities.ramFile || kind === 'manual' || memoryLayerId === null) return false;
  if (hostId !== settings.hostId || vm.snapshotId !== id || flights.standsOn(id)) return false;
  if (state !== 'durable' && lastVerified(await store.snapshots.ofVm(vm.id))?.id === id) return false;
  const others = (await store.vms.ofHost(settings.hostId)).filter((one) => one.id !== vm.id);
  return !others.some((one) => one.memoryLayerId === memoryLayerId);
}

/**
 * As those of `wake`, but the machine is loaded and stands still until the snapshot is given up: loading changes nothing in its memory
 * that it needs, so till then all is taken back. From then on there is nothing to go back to.
 */
async function steps(world: World, vm: Vm, snapshot: Snapshot): Promise<readonly Stage[]> {
  const { fleet, store } = world;
  const givenUp = async (): Promise<boolean> => {
    const now = await store.vms.get(vm.id);
    return now !== null && now.state !== 'snapshotted';
  };
  const unlessGivenUp = (step: Step): Step => ({
    ...step,
    undo: async () => ((await givenUp()) ? undefined : step.undo()),
  });
  const place = [
    ...(await placeSteps(world, vm, snapshot, 'shared')),
    ...introductions(world, vm, snapshot),
  ].map((stage) => [stage].flat().map(unlessGivenUp));
  const running: Step = {
    name: 'running',
    async run(signal) {
      const live = fleet.get(vm.id);
      if (!live || live.exit) throw new Failure('vmm_failed', 'The guest ended before it was woken.');
      if (!(await store.snapshots.goOnIn(snapshot.id, { owner: ownerOf(vm), patch: AWAKE })))
        throw new NotAlone();
      await goOn(world, vm, snapshot);
      await noteAwake(world, vm, snapshot);
      await waitForAgent(world, vm, snapshot, signal);
    },
    async undo() {
      if (!(await givenUp())) return;
      await goOn(world, vm, snapshot).catch((error: unknown) => lose(world, vm, error));
    },
  };
  return [...place, running];
}

/** Lets the guest run, once nobody reads what it writes to. Twice is as good as once. */
async function goOn(world: World, vm: Vm, snapshot: Snapshot): Promise<void> {
  const { archive, flights, fleet } = world;
  await archive.forget(snapshot.id);
  await flights.clearOff(
    snapshot.id,
    new Failure('in_use', `VM ${vm.id} was woken and goes on in the memory of ${snapshot.id}.`),
  );
  const { diskLayerId, memoryLayerId, stateLayerId } = snapshot;
  await releaseLayers(world, [diskLayerId, memoryLayerId, stateLayerId]);
  const live = fleet.get(vm.id);
  if (!live || live.exit) throw new Failure('vmm_failed', 'The guest ended right after it was woken.');
  await live.machine.resume();
}

/** A guest that neither goes on nor can be loaded again: as with any whose hypervisor has ended, its disk is whole. */
async function lose(world: World, vm: Vm, cause: unknown): Promise<void> {
  const { ports, net, clock } = world;
  await endVmm(world, vm);
  await ports.close(vm.id);
  if (vm.network !== null) await net.detach(vm.id);
  const { code, message } = translate(cause);
  const reason = {
    code,
    message: `It did not go on after it was woken: ${message} Start it again; its disk is whole.`,
    at: clock.now(),
  };
  await markError(world, vm, reason, ['running']);
}

/** A snapshot nobody asked to keep has done its work once its VM is awake, unless it is safe in the store, or the last that was proven. */
export async function afterWake(world: World, snapshot: Snapshot): Promise<void> {
  const { store, clock } = world;
  // It may have become durable since it was looked at.
  const now = await store.snapshots.get(snapshot.id);
  if (!now) return;
  const unasked = now.kind !== 'manual' && now.state !== 'durable';
  if (unasked && lastVerified(await store.snapshots.ofVm(now.vmId))?.id !== now.id)
    await dropSnapshot(world, now);
  else await store.snapshots.update(now.id, { usedAt: clock.now() });
}
