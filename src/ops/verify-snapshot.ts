import { join } from 'node:path';
import { withTimeout } from '../base/deadline.ts';
import { newId, type LayerId } from '../base/ids.ts';
import { errorFields } from '../base/logger.ts';
import { Failure, notFound } from '../model/failure.ts';
import type { Image, Layer } from '../model/records.ts';
import type { Snapshot } from '../model/snapshot.ts';
import type { Vm } from '../model/vm.ts';
import { mustFitHere } from './compatible.ts';
import { hostnameOf, imageOf, SEED_FILE, type MachineDisk } from './host-steps.ts';
import { layerFile } from './layers.ts';
import { translate } from './translate.ts';
import { folderFromSnapshot } from './files-from-snapshot.ts';
import { localFiles, machineSavedIn } from './local-snapshot.ts';
import { loadedSpec } from './wake-vm.ts';
import type { World } from './world.ts';
import { inScratch, tapApart } from './scratch.ts';
import { vmFolder } from './settings.ts';

/** How long all of it may take, and how long the guest has to answer. */
const VERIFY_MS = 30 * 60_000;
const ANSWER_MS = 120_000;

/** What a snapshot is restored from for proof. */
interface Files {
  readonly disk: MachineDisk;
  readonly statePath: string;
  readonly memoryPath: string | null;
  /** The layer with the state, and the kernel beside it. */
  readonly stateId: LayerId | null;
}

/**
 * Proves that a snapshot can be woken: restores it under an id that no VM has, on a tap that leads nowhere, asks its agent, and
 * destroys it. What is restored is the durable copy where there is one, else the files here. Gives the snapshot with the time of the
 * proof; throws what failed, in a sentence that says at what.
 */
export async function proveSnapshot(world: World, { id }: Pick<Snapshot, 'id'>): Promise<Snapshot> {
  const { store, flights, clock, log } = world;
  const snapshot = await store.snapshots.get(id);
  const vm = snapshot && (await store.vms.get(snapshot.vmId));
  if (!snapshot || !vm) throw notFound('snapshot', id);
  mustFitHere(world.driver, snapshot);
  const from = clock.now();
  const doing = { what: 'beginning' };
  try {
    const scratch = newId('vm');
    await flights.aside(scratch, id, async (signal) => {
      const limit = withTimeout('verifying the snapshot', VERIFY_MS, signal);
      try {
        // Looked at again: a VM that woke meanwhile may go on in its memory.
        const now = await store.snapshots.get(id);
        if (!now) throw notFound('snapshot', id);
        await withFiles(world, now, doing, limit.signal, (files) =>
          restoreAside(world, asIfIts(vm, now, scratch), now, files, doing, limit.signal),
        );
      } finally {
        limit.clear();
      }
    });
  } catch (error) {
    const { code, message, details } = translate(error);
    const sentence = `Snapshot ${id} could not be verified: ${doing.what} failed. ${message}`;
    log.warn({ snapshot: id, doing: doing.what, ...errorFields(error) }, 'a snapshot could not be verified');
    await note(world, snapshot, 'snapshot.verify_failed', sentence);
    throw new Failure(code, sentence, { details: { ...details, snapshot: id }, cause: error });
  }
  const proven = await store.snapshots.update(id, { verifiedAt: clock.now() });
  if (!proven) throw notFound('snapshot', id);
  log.info({ snapshot: id, ms: clock.now() - from }, 'snapshot verified');
  await note(
    world,
    snapshot,
    'snapshot.verified',
    'The snapshot was restored for proof, and its guest answered.',
  );
  return proven;
}

/** Proves the newest stored snapshot of every VM of this host, one after the other. What fails is an event of its VM, and the next is tried. */
export async function proveAll(world: World, signal: AbortSignal): Promise<void> {
  const { store, settings, log } = world;
  for (const vm of await store.vms.ofHost(settings.hostId)) {
    signal.throwIfAborted();
    const newest = (await store.snapshots.ofVm(vm.id)).find(({ manifest }) => manifest !== null);
    if (!newest) continue;
    try {
      await proveSnapshot(world, newest);
    } catch (error) {
      log.warn(
        { vm: vm.id, snapshot: newest.id, ...errorFields(error) },
        'the scheduled check of a snapshot failed',
      );
    }
  }
}

/** The VM as it was saved, under another id. */
function asIfIts(vm: Vm, snapshot: Snapshot, id: Vm['id']): Vm {
  const { vcpuCount, memMib, diskMib, guest } = snapshot;
  const network = guest.mac === null ? null : vm.network;
  return {
    ...vm,
    id,
    vcpuCount,
    memMib,
    diskMib,
    network,
    layerId: null,
    memoryLayerId: null,
    process: null,
  };
}

async function withFiles(
  world: World,
  snapshot: Snapshot,
  doing: { what: string },
  signal: AbortSignal,
  work: (files: Files) => Promise<void>,
): Promise<void> {
  const { archive, settings, store } = world;
  if (snapshot.manifest === null) {
    const { disk, saved } = await localFiles(world, snapshot);
    const [, ...below] = await store.layers.chain(disk.id);
    return work({
      disk: { path: disk.path, format: disk.format, over: below.map(({ path }) => path) },
      statePath: saved.statePath,
      memoryPath: saved.memoryPath,
      stateId: snapshot.stateLayerId,
    });
  }
  doing.what = 'fetching it from the store';
  const file = (id: LayerId, kind: Layer['kind']): string => layerFile(settings, { id, kind, format: 'raw' });
  return archive.lend(snapshot, signal, ({ disk, memory, state }) =>
    work({
      disk: { path: file(disk, 'disk'), format: 'raw' },
      statePath: file(state, 'state'),
      memoryPath: memory === null ? null : file(memory, 'memory'),
      stateId: state,
    }),
  );
}

/** Restores the machine in a folder of its own, hears from it, and leaves nothing of it. */
async function restoreAside(
  world: World,
  vm: Vm,
  snapshot: Snapshot,
  files: Files,
  doing: { what: string },
  signal: AbortSignal,
): Promise<void> {
  const { driver, fleet } = world;
  await inScratch(world, vm, 'what a snapshot was verified in', async () => {
    doing.what = 'laying out its files';
    const image = await imageOf(world, vm);
    const disk = await layOut(world, vm, snapshot, image, files, signal);
    await tapApart(world, vm);
    doing.what = 'loading the machine';
    const spec = loadedSpec(world, vm, image, disk, snapshot);
    const saved = machineSavedIn(snapshot, files.statePath, files.memoryPath);
    const machine = await driver.load(spec, saved, { mapping: 'private', resume: true }, signal);
    // Nobody waits for it to be ready: it was when it was saved.
    fleet.add(vm, machine, { ready: true });
    await mustAnswer(world, vm, snapshot, doing, signal);
  });
}

async function layOut(
  world: World,
  vm: Vm,
  snapshot: Snapshot,
  image: Image,
  { disk, stateId }: Files,
  signal: AbortSignal,
): Promise<MachineDisk> {
  const { store, files, driver, settings } = world;
  const folder = vmFolder(settings, vm.id);
  await folderFromSnapshot(world, vm, { ...snapshot, stateLayerId: stateId }, true).run(signal);
  const made = await files.makeDiskOn(
    {
      folder,
      layerPath: disk.path,
      layerFormat: disk.format,
      sizeBytes: null,
      qcow2: driver.capabilities.qcow2,
      flattenOnto: null,
    },
    signal,
  );
  await files.makeSeed(
    {
      path: join(folder, SEED_FILE),
      vmId: vm.id,
      hostname: hostnameOf(vm),
      userData: await store.vms.userData(snapshot.vmId),
      sshAuthorizedKeys: vm.sshAuthorizedKeys,
      defaultUser: image.defaultUser,
      instanceId: vm.instanceId,
    },
    signal,
  );
  return { path: join(folder, made.path), format: made.format, over: [disk.path, ...(disk.over ?? [])] };
}

/** The agent answers, and a program runs; of a guest without one it is known only that it goes on. */
async function mustAnswer(
  { fleet }: World,
  vm: Vm,
  { guest }: Snapshot,
  doing: { what: string },
  signal: AbortSignal,
): Promise<void> {
  doing.what = "waiting for the guest's answer";
  const live = fleet.get(vm.id);
  if (!live || live.exit) throw new Failure('vmm_failed', 'The guest ended as soon as it went on.');
  if (!guest.agent) {
    if ((await live.machine.status()) !== 'running')
      throw new Failure('vmm_failed', 'The guest does not go on.');
    return;
  }
  const limit = withTimeout("the guest agent's answer", ANSWER_MS, signal);
  try {
    await live.agent.ping(limit.signal);
    const { exitCode } = await live.agent.exec(
      { command: 'true', cwd: null, env: {}, stdin: null, timeoutMs: ANSWER_MS },
      limit.signal,
    );
    if (exitCode !== 0)
      throw new Failure('vmm_failed', `The guest answers, and a program in it ended with ${exitCode}.`);
  } finally {
    limit.clear();
  }
}

async function note(
  { store }: Pick<World, 'store'>,
  { id, accountId, vmId }: Snapshot,
  kind: string,
  message: string,
): Promise<void> {
  await store.events.add({ accountId, vmId, kind, message, data: { snapshot: id } });
}
