import { isErrno } from '../base/errno.ts';
import { Failure, notFound } from '../model/failure.ts';
import { firstOf } from '../model/saved-files.ts';
import type { Snapshot } from '../model/snapshot.ts';
import type { DiskToRead } from '../guest/saved-disk/open-disk.ts';
import type { Caller, Hatch } from './hatch.ts';
import { findSnapshot } from './snapshots.ts';
import type { World } from './world.ts';

/** What is on the disks of snapshots, seen without waking anything, wherever their bytes are. */
export function savedFiles(world: World): Pick<Hatch['snapshots'], 'files' | 'readFile' | 'diff'> {
  const { disks } = world;
  return {
    files: (caller, idOrName, wanted, signal) =>
      inside(world, caller, [idOrName], async (disk) => disks.listFiles(disk, wanted, signal)),
    readFile: (caller, idOrName, path, signal) =>
      inside(world, caller, [idOrName], async (disk) => disks.readFile(disk, path, signal)),
    diff: (caller, before, after, { path, limit }, signal) =>
      inside(world, caller, [before, after], async (old, now) => {
        const { first, more } = await firstOf(disks.diffDisks(old, now, { path }, signal), limit);
        return { changes: first, truncated: more };
      }),
  };
}

/** Does something with the disks of snapshots; the last one serves for those that were not named. */
async function inside<T>(
  world: World,
  caller: Caller,
  names: readonly [string, string?],
  work: (one: DiskToRead, other: DiskToRead) => Promise<T>,
): Promise<T> {
  const one = await findSnapshot(world, caller, names[0]);
  const other = names[1] === undefined ? one : await findSnapshot(world, caller, names[1]);
  try {
    return await work(await diskOf(world, one), await diskOf(world, other));
  } catch (error) {
    if (error instanceof Failure) throw error;
    // Files may be removed in the moment they are opened: with their snapshot, or because there is a copy in the store.
    for (const { id } of [one, other])
      if (!(await world.store.snapshots.get(id))) throw notFound('snapshot', id);
    if (isErrno(error, 'ENOENT'))
      throw new Failure(
        'unavailable',
        'The files of the snapshot were moved while they were opened; ask again.',
        { details: { snapshot: one.id, retry_after_seconds: 1 }, cause: error },
      );
    throw error;
  }
}

/** Where a snapshot's disk is read: from its file on this host, else in the store, where only what is looked at is fetched. */
async function diskOf({ store, archive, settings }: World, snapshot: Snapshot): Promise<DiskToRead> {
  const layer =
    snapshot.hostId === settings.hostId && snapshot.diskLayerId !== null
      ? await store.layers.get(snapshot.diskLayerId)
      : null;
  if (layer) return { path: layer.path, format: layer.format };
  return { open: (signal) => archive.openDisk(snapshot, signal) };
}
