import { realpath } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { BASE } from '../guest/disk.ts';
import { backingName, readDiskHeader } from '../guest/qcow2.ts';
import { Failure } from '../model/failure.ts';
import type { Layer } from '../model/records.ts';
import type { Store } from '../store/store.ts';

/**
 * Throws Failure `vmm_failed` when a disk that a hypervisor has written, now at `path`, says that it stands on another file than its row does:
 * whoever opens it as root (a copy of it, its snapshot's files) would read that file of the host, and show it. The image is reached by a
 * link beside the disk, which is ours.
 */
export async function mustStandOnItsOwn(
  { store }: { readonly store: { readonly layers: Pick<Store['layers'], 'get'> } },
  { id, format, parentId }: Pick<Layer, 'id' | 'format' | 'parentId'>,
  path: string,
): Promise<void> {
  if (format !== 'qcow2') return;
  const header = await readDiskHeader(path);
  const name = await backingName(path);
  const below = parentId === null ? null : await store.layers.get(parentId);
  const named =
    name === null || name === BASE || (below && (await isSame(join(dirname(path), name), below.path)));
  if (named && !(header.format === 'qcow2' && header.dataFile)) return;
  throw new Failure(
    'vmm_failed',
    `The disk ${id} names a file that it does not stand on: its hypervisor has written that there. It is not used.`,
    { details: { layer: id } },
  );
}

/** Whether two paths lead to one file; a data folder may have been reached by another way when one was written down. */
async function isSame(one: string, other: string): Promise<boolean> {
  try {
    return (await realpath(one)) === (await realpath(other));
  } catch {
    return false;
  }
}
