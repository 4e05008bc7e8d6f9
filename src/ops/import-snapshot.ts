import { raceAbort } from '../base/deadline.ts';
import { newId, parseImageId, type ImageId } from '../base/ids.ts';
import { errorFields } from '../base/logger.ts';
import { makeFolder, remove } from '../host/files.ts';
import { DEFAULT_IDLE, mergeIdle } from '../model/create-request.ts';
import { Failure } from '../model/failure.ts';
import type { Operation } from '../model/records.ts';
import type { NewSnapshot } from '../model/snapshot.ts';
import { readTraveller, type Traveller } from '../model/traveller.ts';
import { checkUserData } from '../model/user-data.ts';
import { damaged } from '../store/blobs/blob-error.ts';
import { openFolderHome } from '../store/blobs/folder-home.ts';
import { dataBytes } from '../store/blobs/load.ts';
import type { Manifest } from '../store/blobs/manifest.ts';
import { openChunkStore } from '../store/blobs/open.ts';
import { readSnapshotFile } from '../store/blobs/snapshot-file.ts';
import { Taken } from '../store/store.ts';
import { IMAGES } from './archive/deps.ts';
import { layersOf, loadFiles, type FetchedFiles } from './archive/fetch-snapshot.ts';
import { mustGet } from './carry-out.ts';
import { claim, type Wanted } from './claim-vm.ts';
import { differences } from './compatible.ts';
import type { Caller, ImportedSnapshot, ImportRequest } from './hatch.ts';
import { layerFile, layerFolder } from './layers.ts';
import { ownerOf } from './owner.ts';
import { mustHaveRoom } from './save-vm.ts';
import { snapshotNameTaken } from './snapshots.ts';
import { visibleAccounts } from './settings.ts';
import { keepSshPort } from './ssh-ports.ts';
import { explainFile, inTravelFolder, readFileKey } from './travel.ts';
import type { World } from './world.ts';

const MIB = 1024 * 1024;
const KNOWN: readonly string[] = Object.values(IMAGES);

/**
 * Takes a snapshot from a file, as it comes, and gives it a VM that sleeps as it, with a name, address and port of this host: woken it
 * becomes that VM, as a copy would. Everything is read and checked before there is a row; when it throws, nothing is left. Throws
 * Failure: `invalid_request` with a sentence for a file that is not exactly as it must be.
 */
export async function importSnapshot(
  world: World,
  caller: Caller,
  { name, key }: ImportRequest,
  source: AsyncIterable<Uint8Array>,
  signal: AbortSignal,
): Promise<ImportedSnapshot> {
  const { store, archive, settings } = world;
  const master = readFileKey(key);
  if (name !== undefined && (await store.snapshots.find(caller.accountId, name)))
    throw snapshotNameTaken(name);
  const files = await archive.holding(signal, (hold, within) =>
    inTravelFolder(world, 'import-', async (folder) => {
      try {
        const home = await openFolderHome(folder);
        const room = (bytes: number): Promise<void> => mustHaveRoom(folder, bytes);
        const { manifest, keys } = await readSnapshotFile({
          source: whileWanted(source, within),
          folder,
          master,
          room,
        });
        const traveller = travellerIn(manifest);
        await makeFolder(settings.layersFolder);
        await mustHaveRoom(settings.layersFolder, dataBytes(manifest));
        const chunks = openChunkStore({ home, keys: async () => keys });
        try {
          const loaded = await loadFiles({ settings, chunks }, manifest, within, () => undefined, hold);
          return await giveVm(world, caller, traveller, loaded, manifest, name);
        } finally {
          await chunks.close();
        }
      } catch (error) {
        throw explainFile(error);
      }
    }),
  );
  archive.enqueue(files.snapshot.id);
  return files;
}

/** A file as it comes, until the signal aborts: nobody may be there to send the rest. */
async function* whileWanted(
  source: AsyncIterable<Uint8Array>,
  signal: AbortSignal,
): AsyncGenerator<Uint8Array> {
  const pieces = source[Symbol.asyncIterator]();
  for (;;) {
    const next = await raceAbort(pieces.next(), signal);
    if (next.done === true) return;
    yield next.value;
  }
}

/** What came along in the manifest, and whether its images go with that. Throws `damaged`. */
function travellerIn({ identity, images }: Manifest): Traveller {
  const traveller = readTraveller(identity);
  if ('wrong' in traveller) throw damaged(`in what it says of the machine, ${traveller.wrong}`);
  if (traveller.vm.userData !== null) checkUserData(traveller.vm.userData);
  const sizes = new Map(images.map(({ name, bytes }) => [name, bytes]));
  for (const name of sizes.keys())
    if (!KNOWN.includes(name)) throw damaged(`it has an image "${name}", which no snapshot has`);
  for (const name of [IMAGES.state, IMAGES.disk])
    if (!sizes.has(name)) throw damaged(`it has no image "${name}"`);
  const { memMib, diskMib } = traveller.snapshot;
  const within = (name: string, mib: number): void => {
    const bytes = sizes.get(name) ?? 0;
    if (bytes > mib * MIB)
      throw damaged(`its image "${name}" has ${bytes} bytes, and the machine has ${mib} MiB of it`);
  };
  within(IMAGES.memory, memMib);
  if (diskMib !== null) within(IMAGES.disk, diskMib);
  return traveller;
}

/** Makes the rows: a VM that sleeps, its snapshot, its files. When it throws, the files are gone too. */
async function giveVm(
  world: World,
  caller: Caller,
  traveller: Traveller,
  files: FetchedFiles,
  { images }: Manifest,
  name: string | undefined,
): Promise<ImportedSnapshot> {
  const { store, settings, flights, driver } = world;
  const { snapshot: saved, vm } = traveller;
  const { newId: make = newId } = caller;
  const [vmId, snapshotId] = [make('vm'), make('snap')];
  try {
    const diskBytes = images.find((image) => image.name === IMAGES.disk)?.bytes ?? 0;
    const diskMib = saved.diskMib ?? Math.max(1, Math.ceil(diskBytes / MIB));
    const imageId = await imageHere(world, caller, saved.imageId);
    const vmName = vm.name !== null && !(await store.vms.find(caller.accountId, vm.name)) ? vm.name : null;
    const free = saved.name !== null && !(await store.snapshots.find(caller.accountId, saved.name));
    const { vcpuCount, memMib, guest } = saved;
    const wanted: Wanted = {
      ...vm,
      idle: vm.idle && mergeIdle(DEFAULT_IDLE, vm.idle),
      accountId: caller.accountId,
      hostId: settings.hostId,
      name: vmName,
      imageId,
      templateId: null,
      vcpuCount,
      memMib,
      diskMib,
      // The image here may be another one, with arguments of its own.
      bootArgs: guest.bootArgs,
      autostart: false,
      instanceId: guest.instanceId,
      network: guest.mac === null ? null : { ip: null, mac: null },
    };
    const snapshot: NewSnapshot = {
      id: snapshotId,
      accountId: caller.accountId,
      vmId,
      name: name ?? (free ? saved.name : null),
      kind: 'manual',
      hostId: settings.hostId,
      imageId,
      vcpuCount,
      memMib,
      diskMib,
      savedOn: saved.savedOn,
      guest: { ...guest, diskFormat: 'raw' },
      parentId: null,
      diskLayerId: files.disk,
      memoryLayerId: files.memory,
      stateLayerId: files.state,
      logicalBytes: memMib * MIB + diskBytes,
    };
    await flights.fly(
      vmId,
      'create',
      () => claim(world, caller, wanted, vmId, { imported: true }),
      (operation) => fallAsleep(world, operation, snapshot, files),
    );
  } catch (error) {
    for (const id of [files.disk, files.memory, files.state])
      if (id !== null && !(await store.layers.get(id))) await remove(layerFolder(settings, id));
    throw error;
  }
  const made = await store.snapshots.get(snapshotId);
  if (!made) throw new Failure('not_found', 'The snapshot was deleted in the moment it was made.');
  return { snapshot: made, differences: differences(driver, saved.savedOn) };
}

/** The VM sleeps as the snapshot, in one transaction; when that cannot be it is gone. */
async function fallAsleep(
  world: World,
  operation: Operation,
  snapshot: NewSnapshot,
  files: FetchedFiles,
): Promise<void> {
  const { store, settings, fleet, log } = world;
  const vm = await mustGet(world, operation);
  const { id, name } = snapshot;
  try {
    await store.snapshots.create(snapshot, {
      layers: layersOf(settings, files),
      freeze: { id: files.disk, path: layerFile(settings, { id: files.disk, kind: 'disk', format: 'raw' }) },
      vm: {
        owner: ownerOf(vm),
        from: ['starting'],
        patch: { state: 'snapshotted', snapshotId: id, layerId: files.disk },
      },
      limit: null,
    });
  } catch (error) {
    await forgetImport(world, operation).catch((left: unknown) =>
      log.error({ vm: vm.id, ...errorFields(left) }, 'an import that failed is left to the next start'),
    );
    throw error instanceof Taken && name !== null ? snapshotNameTaken(name) : error;
  }
  await store.events.add({
    accountId: vm.accountId,
    vmId: vm.id,
    kind: 'snapshot.imported',
    message: `Snapshot ${name ?? id} was imported; the VM sleeps as it.`,
    data: { snapshot: id, name },
  });
  await keepSshPort(world, vm);
  fleet.touch(vm.id);
}

/** Whether this operation makes the rows of an import. */
export function isImport({ verb, args }: Operation): boolean {
  return verb === 'create' && args['imported'] === true;
}

/** Takes back the rows of an import that did not come to its end: the VM is gone, unless it sleeps already. Its files are nobody's then. */
export async function forgetImport({ store }: Pick<World, 'store'>, { vmId }: Operation): Promise<void> {
  const vm = await store.vms.get(vmId);
  if (vm?.state === 'starting') await store.vms.remove(vm.id, ownerOf(vm));
}

/** The image the VM is said to be of: that of the same name, else the default one. Its disk and kernel came along, whole. */
async function imageHere(
  { store, settings, findDefaultImage }: Pick<World, 'store' | 'settings' | 'findDefaultImage'>,
  caller: Caller,
  id: string,
): Promise<ImageId> {
  const visible = visibleAccounts(settings, caller.accountId);
  await findDefaultImage();
  for (const one of [parseImageId(id), parseImageId('img-default')])
    if (one && (await store.images.get(visible, one))) return one;
  throw new Failure(
    'wrong_state',
    `There is neither an image "${id}" here, which the machine was made of, nor a default one: register it, or run \`hatchd image build\`. Any will do; disk and kernel came along.`,
    { details: { image_id: id } },
  );
}
