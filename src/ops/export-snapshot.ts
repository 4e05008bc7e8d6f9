import { Readable } from 'node:stream';
import { pack } from 'tar-stream';
import { newId } from '../base/ids.ts';
import { errorFields } from '../base/logger.ts';
import { makeFolder, remove } from '../host/files.ts';
import { Failure, invalid, notFound } from '../model/failure.ts';
import type { Snapshot } from '../model/snapshot.ts';
import { travellerOf } from '../model/traveller.ts';
import type { ImageFile } from '../store/blobs/chunk-store.ts';
import { accountKeys, newAccountSecret } from '../store/blobs/keys.ts';
import { knowsNothing } from '../store/blobs/lookup.ts';
import { FILE_ACCOUNT, FileWriter } from '../store/blobs/snapshot-file.ts';
import { imageFiles, imagesOf } from './archive/store-snapshot.ts';
import { mustBeWithinReach } from './elsewhere.ts';
import type { Caller, ExportedSnapshot, ExportRequest } from './hatch.ts';
import { layerFile } from './layers.ts';
import { findSnapshot } from './snapshots.ts';
import { inTravelFolder, KEY_HEADER, noSpaceOr, readFileKey } from './travel.ts';
import type { World } from './world.ts';

/**
 * A snapshot as one file, as it comes: its images cut, packed and perhaps sealed anew under keys of the file's own, so that it says
 * nothing of this installation's. Resolves when its first bytes are there; what goes wrong afterwards breaks the content off. Throws
 * Failure; `invalid_request` where snapshots are encrypted and neither a key is given nor `plain` said.
 */
export async function exportSnapshot(
  world: World,
  caller: Caller,
  idOrName: string,
  { key, plain }: ExportRequest,
  signal: AbortSignal,
): Promise<ExportedSnapshot> {
  const { store, archive, flights, log } = world;
  const master = readFileKey(key);
  const snapshot = await findSnapshot(world, caller, idOrName);
  const vm = await store.vms.get(snapshot.vmId);
  if (!vm) throw notFound('snapshot', idOrName);
  mustBeWithinReach(world, snapshot);
  if (master && plain)
    throw invalid('plain', `"plain" and a key ("${KEY_HEADER}") do not go together: leave one out.`);
  const { seal } = await archive.deps.keys(snapshot.accountId);
  if (seal && !master && !plain)
    throw invalid(
      KEY_HEADER,
      `Snapshots are encrypted here: give a key for the file ("${KEY_HEADER}", --key-file), or say "plain" (--plain) if anybody who has the file may read the guest's memory and disk.`,
    );
  const secret = newAccountSecret(FILE_ACCOUNT, master);
  const keys = accountKeys(FILE_ACCOUNT, secret, master);
  const identity = travellerOf(snapshot, vm, await store.vms.userData(vm.id));
  const tar = pack();
  // Whoever reads it hears of its end by what it gives.
  tar.on('error', () => undefined);
  const begun = Promise.withResolvers<void>();
  const stop = new AbortController();
  const work = flights.aside(newId('vm'), snapshot.id, (closing) =>
    inTravelFolder(world, 'export-', async (folder) => {
      const within = AbortSignal.any([signal, closing, stop.signal]);
      await makeFolder(folder);
      const writer = new FileWriter(tar, secret);
      let writing = writer.begin();
      const then = (next: () => Promise<void>): void => {
        writing = writing.then(next);
        writing.catch((error: unknown) => stop.abort(error));
        begun.resolve();
      };
      await withImages(world, snapshot, folder, within, async (images) => {
        const saved = await archive.deps.chunks.save({
          keys,
          images,
          identity,
          known: knowsNothing,
          spool: `${folder}/packs`,
          onPack: (one) =>
            then(async () => {
              await writer.pack(one);
              await remove(one.file);
            }),
          signal: within,
        });
        then(() => writer.end(saved.manifest));
        await writing;
      });
    }),
  );
  work.catch((error: unknown) => {
    const failure = noSpaceOr(error);
    begun.reject(failure);
    tar.destroy(failure);
    if (!signal.aborted) log.warn({ snapshot: snapshot.id, ...errorFields(error) }, 'an export broke off');
  });
  await begun.promise;
  return { snapshot, content: Readable.from(tar, { objectMode: false }) };
}

/** Works with a snapshot's files: those on this host, else brought here for this alone. */
async function withImages(
  world: World,
  snapshot: Snapshot,
  folder: string,
  signal: AbortSignal,
  work: (images: readonly ImageFile[]) => Promise<void>,
): Promise<void> {
  const { archive, settings } = world;
  if (snapshot.hostId === settings.hostId && snapshot.stateLayerId !== null) {
    const images = await imagesOf(archive.deps, snapshot, folder, signal);
    if (images.length < 2)
      throw new Failure('unavailable', `The files of snapshot ${snapshot.id} were moved; ask again.`);
    return work(images);
  }
  return archive.lend(snapshot, signal, async ({ disk, memory, state }) =>
    work(
      await imageFiles(archive.deps, {
        memory:
          memory === null ? undefined : layerFile(settings, { id: memory, kind: 'memory', format: 'raw' }),
        state: layerFile(settings, { id: state, kind: 'state', format: 'raw' }),
        disk: layerFile(settings, { id: disk, kind: 'disk', format: 'raw' }),
        stateId: state,
      }),
    ).catch((error: unknown) => {
      // What is wrong with the file is not wrong with the store.
      throw noSpaceOr(error);
    }),
  );
}
