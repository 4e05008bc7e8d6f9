import { join } from 'node:path';
import type { LayerId } from '../base/ids.ts';
import { remove } from '../host/files.ts';
import type { Layer } from '../model/records.ts';
import type { Store } from '../store/store.ts';
import type { Settings } from './settings.ts';

/** The folder of a frozen layer: its file, and for a disk the link to its image. */
export function layerFolder(settings: Pick<Settings, 'layersFolder'>, id: LayerId): string {
  return join(settings.layersFolder, id);
}

/** The file of a frozen layer. */
export function layerFile(
  settings: Pick<Settings, 'layersFolder'>,
  { id, kind, format }: Pick<Layer, 'id' | 'kind' | 'format'>,
): string {
  return join(layerFolder(settings, id), kind === 'disk' ? `disk.${format}` : `${kind}.bin`);
}

/**
 * Lets go of layers somebody has stopped using: those nobody else uses are forgotten and their files removed, and so on down their
 * chains. Twice is as good as once; what a crash leaves of a folder is found by reconciling.
 */
export async function releaseLayers(
  { store, settings }: { readonly store: Store; readonly settings: Pick<Settings, 'layersFolder'> },
  ids: readonly (LayerId | null)[],
): Promise<void> {
  const left = ids.filter((id) => id !== null);
  for (let id = left.pop(); id !== undefined; id = left.pop()) {
    const layer = await store.layers.get(id);
    if (layer === null || !(await store.layers.removeIfUnused(id))) continue;
    await remove(layerFolder(settings, id));
    if (layer.parentId !== null) left.push(layer.parentId);
  }
}
