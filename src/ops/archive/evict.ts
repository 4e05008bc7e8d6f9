import { lstat, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { isErrno } from '../../base/errno.ts';
import type { LayerId, SnapshotId } from '../../base/ids.ts';
import type { Layer } from '../../model/records.ts';
import type { Snapshot } from '../../model/snapshot.ts';
import type { Vm } from '../../model/vm.ts';
import { layerFolder, releaseLayers } from '../layers.ts';
import type { World } from '../world.ts';
import { ownerOf } from '../owner.ts';

/** Sizes of a stat are counted in these, whatever the file system's own blocks are. */
const BLOCK = 512;

/**
 * Forgets local files of snapshots that are safe in the store, the longest unused first, until what is kept for them alone takes at
 * most `budget` bytes of the disk. What a running VM, or a snapshot that is nowhere else, stands on is not counted: it stays
 * whatever is forgotten. Gives those that were forgotten.
 */
export async function evict(
  world: World,
  budget: number,
  signal: AbortSignal,
): Promise<readonly SnapshotId[]> {
  const { store, settings, flights, log } = world;
  const vms = await store.vms.ofHost(settings.hostId);
  const snapshots = await store.snapshots.ofHost(settings.hostId);
  const layers = new Map((await store.layers.ofHost(settings.hostId)).map((layer) => [layer.id, layer]));
  const stored = snapshots.filter(({ state, vmId }) => state === 'durable' && !flights.has(vmId));
  const pinned = new Set([
    ...vms
      .filter((vm) => !stored.some((one) => sleepsAs(vm, one)))
      .flatMap((vm) => reach(layers, layersOf(vm))),
    ...snapshots.filter((one) => !stored.includes(one)).flatMap((one) => reach(layers, filesOf(one))),
  ]);
  const own = new Map(
    stored.map((one) => [one.id, reach(layers, filesOf(one)).filter((id) => !pinned.has(id))]),
  );
  const users = new Map<LayerId, number>();
  for (const ids of own.values()) for (const id of ids) users.set(id, (users.get(id) ?? 0) + 1);
  const bytes = new Map<LayerId, number>();
  for (const id of users.keys()) bytes.set(id, await allocated(layerFolder(settings, id)));
  let kept = [...bytes.values()].reduce((sum, one) => sum + one, 0);
  const forgotten: SnapshotId[] = [];
  for (const snapshot of stored) {
    if (kept <= budget) break;
    signal.throwIfAborted();
    const alone = (own.get(snapshot.id) ?? []).filter((id) => users.get(id) === 1);
    const freed = alone.reduce((sum, id) => sum + (bytes.get(id) ?? 0), 0);
    // What frees nothing by itself may once another is gone; it is looked at again the next time.
    if (freed === 0 || !(await forgetLocal(world, snapshot))) continue;
    for (const id of own.get(snapshot.id) ?? []) users.set(id, (users.get(id) ?? 1) - 1);
    kept -= freed;
    forgotten.push(snapshot.id);
    log.info({ snapshot: snapshot.id, bytes: freed }, 'the local files of a stored snapshot were forgotten');
  }
  return forgotten;
}

/**
 * Forgets the files here of a snapshot that is durable; its VM, when it sleeps, wakes by download then. false: it is not durable, or
 * its VM or a copy of it has an operation under way.
 */
export async function forgetLocal(world: World, { id, vmId }: Snapshot): Promise<boolean> {
  const { store, flights, settings } = world;
  const files = await flights.hold(async (flying) => {
    const now = await store.snapshots.get(id);
    if (flying.has(vmId) || now?.state !== 'durable' || now.hostId !== settings.hostId) return undefined;
    const vm = await store.vms.get(vmId);
    if (vm && vm.operation !== null) return undefined;
    // The row first: a VM without a disk that sleeps as a snapshot with files wakes all the same.
    if (vm && vm.hostId === settings.hostId && sleepsAs(vm, now))
      await store.vms.update(vm.id, ownerOf(vm), { layerId: null });
    return (await store.snapshots.dropLocal(id, settings.hostId)) ? filesOf(now) : undefined;
  });
  if (files === undefined) return false;
  await releaseLayers(world, files);
  return true;
}

function sleepsAs(vm: Vm, { id, diskLayerId }: Snapshot): boolean {
  return (
    vm.state === 'snapshotted' && vm.snapshotId === id && (vm.layerId === null || vm.layerId === diskLayerId)
  );
}

function layersOf({ layerId, memoryLayerId }: Vm): readonly (LayerId | null)[] {
  return [layerId, memoryLayerId];
}

function filesOf({ diskLayerId, memoryLayerId, stateLayerId }: Snapshot): readonly (LayerId | null)[] {
  return [diskLayerId, memoryLayerId, stateLayerId];
}

/** Layers with all they stand on, each once. */
function reach(layers: ReadonlyMap<LayerId, Layer>, from: readonly (LayerId | null)[]): readonly LayerId[] {
  const found = new Set<LayerId>();
  for (const start of from) {
    for (let at = start; at !== null && !found.has(at); at = layers.get(at)?.parentId ?? null) found.add(at);
  }
  return [...found];
}

/** What a layer's files really take of the disk. */
async function allocated(folder: string): Promise<number> {
  try {
    let bytes = 0;
    for (const name of await readdir(folder)) bytes += (await lstat(join(folder, name))).blocks * BLOCK;
    return bytes;
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return 0;
    throw error;
  }
}
