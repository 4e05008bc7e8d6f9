import { join } from 'node:path';
import { newId, type LayerId } from '../../base/ids.ts';
import { makeFolder, remove } from '../../host/files.ts';
import { Failure } from '../../model/failure.ts';
import type { Layer } from '../../model/records.ts';
import type { Snapshot } from '../../model/snapshot.ts';
import type { Manifest } from '../../store/blobs/manifest.ts';
import { layerFile, layerFolder, releaseLayers } from '../layers.ts';
import type { Settings } from '../settings.ts';
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
  try {
    return await underLease(deps, lease.id, signal, async (within) => {
      const manifest = await readManifest(deps, snapshot, within);
      return loadFiles({ settings, chunks }, manifest, within, onProgress, hold);
    });
  } finally {
    await store.ledger.release(lease.id);
  }
}

/**
 * Writes a manifest's images into layers of fresh names that nobody knows yet. Throws BlobError or the signal's reason; nothing is left
 * then.
 */
export async function loadFiles(
  { settings, chunks }: Pick<ArchiveDeps, 'settings' | 'chunks'>,
  manifest: Manifest,
  signal: AbortSignal,
  onProgress: (done: number, total: number) => void,
  hold: (id: LayerId) => void,
): Promise<FetchedFiles> {
  const folders: string[] = [];
  const total = manifest.images.reduce((sum, { bytes }) => sum + bytes, 0);
  const has = (name: string): boolean => manifest.images.some((image) => image.name === name);
  let before = 0;
  const load = async (image: string, to: string): Promise<void> => {
    let now = 0;
    await chunks.load({
      manifest,
      image,
      to,
      signal,
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
  try {
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
  } catch (error) {
    for (const folder of folders) await remove(folder);
    throw error;
  }
}

/** Makes what was fetched the snapshot's files on this host. */
export async function adoptFiles(
  { store, settings }: Pick<ArchiveDeps, 'store' | 'settings'>,
  snapshot: Snapshot,
  { disk, memory, state }: FetchedFiles,
): Promise<Snapshot> {
  for (const layer of layersOf(settings, { disk, memory, state })) await store.layers.create(layer);
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

/** The rows of fetched files. */
export function layersOf(
  settings: Pick<Settings, 'layersFolder' | 'hostId'>,
  { disk, memory, state }: FetchedFiles,
): readonly Omit<Layer, 'createdAt'>[] {
  const layer = (id: LayerId, kind: Layer['kind']) => ({
    id,
    hostId: settings.hostId,
    kind,
    path: layerFile(settings, { id, kind, format: 'raw' }),
    format: 'raw' as const,
    parentId: null,
    imageAccountId: null,
    imageId: null,
    frozen: true,
  });
  return [layer(disk, 'disk'), layer(state, 'state'), ...(memory === null ? [] : [layer(memory, 'memory')])];
}
