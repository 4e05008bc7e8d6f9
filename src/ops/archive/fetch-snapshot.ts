import { join } from 'node:path';
import { newId, type LayerId } from '../../base/ids.ts';
import { makeFolder, remove } from '../../host/files.ts';
import { Failure } from '../../model/failure.ts';
import type { Layer } from '../../model/records.ts';
import type { Snapshot } from '../../model/snapshot.ts';
import { layerFile, layerFolder, releaseLayers } from '../layers.ts';
import { IMAGES, LEASE_MS, readManifest, underLease, type ArchiveDeps } from './deps.ts';

/** The layers of a snapshot that was brought here. */
export interface FetchedFiles {
  readonly disk: LayerId;
  readonly memory: LayerId | null;
  readonly state: LayerId;
}

/**
 * Brings a stored snapshot's files to this host, into layers of fresh names that nobody knows yet. Throws BlobError, Failure or the
 * signal's reason; nothing is left then.
 */
export async function fetchFiles(
  deps: ArchiveDeps,
  snapshot: Snapshot,
  signal: AbortSignal,
  onProgress: (done: number, total: number) => void,
  /** Told of each layer before its folder is made, so that nobody takes it for a leftover. */
  hold: (id: LayerId) => void,
): Promise<FetchedFiles> {
  const { store, settings, chunks } = deps;
  const lease = await store.ledger.beginReading(snapshot.id, settings.hostId, LEASE_MS);
  if (lease === null)
    throw new Failure('unavailable', `Snapshot ${snapshot.id} is neither on this host nor in the store.`, {
      details: { snapshot: snapshot.id },
    });
  const folders: string[] = [];
  try {
    return await underLease(deps, lease.id, signal, async (within) => {
      const manifest = await readManifest(deps, snapshot, within);
      const total = manifest.images.reduce((sum, { bytes }) => sum + bytes, 0);
      const has = (name: string): boolean => manifest.images.some((image) => image.name === name);
      let before = 0;
      const load = async (image: string, to: string): Promise<void> => {
        let now = 0;
        await chunks.load({
          manifest,
          image,
          to,
          signal: within,
          onProgress: ({ done }) => onProgress(before + (now = done), total),
        });
        before += now;
      };
      const place = async (): Promise<LayerId> => {
        const id = newId('layer');
        hold(id);
        folders.push(layerFolder(settings, id));
        await makeFolder(layerFolder(settings, id));
        return id;
      };
      const state = await place();
      await load(IMAGES.state, layerFile(settings, { id: state, kind: 'state', format: 'raw' }));
      for (const name of [IMAGES.kernel, IMAGES.vmlinux, IMAGES.initrd]) {
        if (has(name)) await load(name, join(layerFolder(settings, state), name));
      }
      const disk = await place();
      await load(IMAGES.disk, layerFile(settings, { id: disk, kind: 'disk', format: 'raw' }));
      let memory: LayerId | null = null;
      if (has(IMAGES.memory)) {
        memory = await place();
        await load(IMAGES.memory, layerFile(settings, { id: memory, kind: 'memory', format: 'raw' }));
      }
      return { disk, memory, state };
    });
  } catch (error) {
    for (const folder of folders) await remove(folder);
    throw error;
  } finally {
    await store.ledger.release(lease.id);
  }
}

/** Makes what was fetched the snapshot's files on this host. */
export async function adoptFiles(
  { store, settings }: Pick<ArchiveDeps, 'store' | 'settings'>,
  snapshot: Snapshot,
  { disk, memory, state }: FetchedFiles,
): Promise<Snapshot> {
  const layer = (id: LayerId, kind: Layer['kind']) =>
    store.layers.create({
      id,
      hostId: settings.hostId,
      kind,
      path: layerFile(settings, { id, kind, format: 'raw' }),
      format: 'raw',
      parentId: null,
      imageAccountId: null,
      imageId: null,
      frozen: true,
    });
  await layer(disk, 'disk');
  await layer(state, 'state');
  if (memory !== null) await layer(memory, 'memory');
  const now = await store.snapshots.update(snapshot.id, {
    hostId: settings.hostId,
    diskLayerId: disk,
    memoryLayerId: memory,
    stateLayerId: state,
  });
  if (!now) {
    await releaseLayers({ store, settings }, [disk, memory, state]);
    throw new Failure('not_found', `Snapshot ${snapshot.id} was deleted while its files were brought here.`);
  }
  return now;
}
