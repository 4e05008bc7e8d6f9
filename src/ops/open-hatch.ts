import { Failure } from '../model/failure.ts';
import type { VmId } from '../base/ids.ts';
import { errorFields } from '../base/logger.ts';
import { accounts, keys } from './accounts.ts';
import { createVm } from './create-vm.ts';
import { deleteVm } from './delete-vm.ts';
import { exportSnapshot } from './export-snapshot.ts';
import { forkVm } from './fork-vm.ts';
import { guestFiles } from './guest-files.ts';
import type { Hatch } from './hatch.ts';
import { images, type ImageRegistry } from './images.ts';
import { importSnapshot } from './import-snapshot.ts';
import { tellOfSpace } from './no-space.ts';
import { patchVm } from './patch-vm.ts';
import { followReboot, rebootVm } from './reboot-vm.ts';
import { restoreVm } from './restore-vm.ts';
import { keyBook } from './key-book.ts';
import { leaseVm } from './lease-vm.ts';
import type { Sleeper } from './sleeper.ts';
import { whyVm } from './why-vm.ts';
import { snapshotVm } from './snapshot-vm.ts';
import { routes } from './routes.ts';
import { savedFiles } from './saved-files.ts';
import { snapshots } from './snapshots.ts';
import { consoleOf, execIn, followConsole, metricsOf } from './see-into.ts';
import { simulateIdle } from './simulate-idle.ts';
import { startVm } from './start-vm.ts';
import { settleExit, stopVm } from './stop-vm.ts';
import { templates } from './templates.ts';
import { IdempotentRequests } from './idempotency.ts';
import { events } from './events.ts';
import { findVm, waitFor } from './vms.ts';
import type { Waker } from './waker.ts';
import type { World } from './world.ts';
import { ownerOf } from './owner.ts';

/** Puts the operations together into what the API calls, and sets the fleet to tell when guests answer and when they end. */
export function openHatch(
  world: World,
  registry: ImageRegistry,
  readiness: Hatch['readiness'],
  waker: Waker,
  sleeper: Sleeper,
): Hatch {
  watchFleet(world);
  const { store, clock, log, settings } = world;
  const withBook = { ...store, keys: keyBook(store.keys, clock) };
  return {
    vms: {
      create: (caller, request, wait) => createVm(world, caller, request, wait),
      async get(caller, idOrName, wait) {
        const vm = await findVm(world, caller, idOrName);
        return wait ? waitFor(world, vm.id, wait) : vm;
      },
      list: (caller, { state, labels, everyone }, page) =>
        store.vms.list({ accountId: everyone === true ? undefined : caller.accountId, state, labels }, page),
      patch: (caller, idOrName, patch) => patchVm(world, caller, idOrName, patch),
      userData: async (caller, idOrName) => store.vms.userData((await findVm(world, caller, idOrName)).id),
      start: (caller, idOrName, wait) => startVm(world, caller, idOrName, wait),
      stop: (caller, idOrName, options) => stopVm(world, caller, idOrName, options),
      snapshot: (caller, idOrName, request) => snapshotVm(world, caller, idOrName, request),
      restore: (caller, idOrName, request, wait) => restoreVm(world, caller, idOrName, request, wait),
      fork: (caller, idOrName, request, wait) => forkVm(world, caller, idOrName, request, wait),
      reboot: (caller, idOrName, wait) => rebootVm(world, caller, idOrName, wait),
      delete: (caller, idOrName) => deleteVm(world, caller, idOrName),
      ...guestFiles(world, waker),
      exec: (caller, idOrName, command, visitor) => execIn(world, waker, caller, idOrName, command, visitor),
      metrics: (caller, idOrName) => metricsOf(world, caller, idOrName),
      console: (caller, idOrName, tailBytes) => consoleOf(world, caller, idOrName, tailBytes),
      followConsole: (caller, idOrName, offset, signal) =>
        followConsole(world, caller, idOrName, offset, signal),
    },
    idle: {
      lease: (caller, idOrName, seconds) => leaseVm(world, caller, idOrName, seconds),
      why: (caller, idOrName) => whyVm(world, sleeper, caller, idOrName),
      simulate: (caller, request) => simulateIdle(world, caller, request),
    },
    snapshots: {
      ...snapshots(world),
      ...savedFiles(world),
      export: (caller, idOrName, request, signal) => exportSnapshot(world, caller, idOrName, request, signal),
      import: (caller, request, source, signal) => importSnapshot(world, caller, request, source, signal),
    },
    routes: routes(world),
    images: images(world, registry),
    templates: templates(world),
    accounts: accounts({ store: withBook, clock, log, settings }),
    keys: keys({ store: withBook, clock }),
    events: events(world),
    idempotency: new IdempotentRequests({ store, clock, hostId: settings.hostId }),
    readiness,
    written: () => store.written(),
  };
}

function watchFleet(world: World): void {
  const { store, fleet, flights, clock, log, settings, activity } = world;
  fleet.onReady = async (vmId, by) => {
    activity.answered(vmId);
    const vm = await store.vms.get(vmId);
    if (vm?.hostId !== settings.hostId || vm.readyAt !== null) return;
    await store.vms.move(
      vmId,
      ownerOf(vm),
      ['starting', 'running', 'snapshotted'],
      { readyAt: clock.now() },
      { event: { kind: 'vm.ready', message: `The guest answers (${by}).`, data: { by } } },
    );
  };
  const following = new Set<VmId>();
  const follow = async (vmId: VmId): Promise<void> => {
    // An operation under way sees the end of its guest itself; what it leaves ended is looked at when it has landed.
    if (flights.has(vmId) || following.has(vmId)) return;
    following.add(vmId);
    try {
      while (fleet.get(vmId)?.exit && !flights.has(vmId)) {
        try {
          await afterExit(world, vmId);
        } catch (error) {
          // Somebody was faster, with a deletion say; what that leaves is looked at when it has landed.
          if (error instanceof Failure && error.code === 'busy') return;
          log.error({ vm: vmId, ...errorFields(error) }, 'could not follow the end of a guest');
          await clock.sleep(1000);
        }
      }
    } finally {
      following.delete(vmId);
    }
  };
  const look = (vmId: VmId): void => void follow(vmId);
  fleet.onExit = look;
  fleet.onNoSpace = tellOfSpace(world);
  flights.onBegun = (vmId) => world.activity.closeShared(vmId);
  flights.onLanded = (vmId) => {
    // Who waits for the VM looked while its operation was still there, and would not look again.
    fleet.touch(vmId);
    look(vmId);
  };
}

/** Follows a guest's own end: a reboot boots it again, a poweroff stops the VM, all else is an error. */
async function afterExit(world: World, vmId: VmId): Promise<void> {
  const exit = world.fleet.get(vmId)?.exit;
  if (!exit) return;
  const vm = await world.store.vms.get(vmId);
  // What ended here is nobody's any more, or somebody else's by now.
  if (vm?.hostId !== world.settings.hostId) return world.fleet.drop(vmId);
  if (exit.kind === 'reboot') await followReboot(world, vm);
  else await settleExit(world, vm, exit);
}
