import { Failure } from '../model/failure.ts';
import type { Layer } from '../model/records.ts';
import type { Snapshot } from '../model/snapshot.ts';
import type { SavedMachine } from '../vmm/driver.ts';
import type { World } from './world.ts';

/** The files of a snapshot on this host. */
export interface LocalSnapshot {
  readonly disk: Layer;
  readonly saved: SavedMachine;
}

/** Where a snapshot's files are on this host. Throws `unavailable` when they are not here. */
export async function localFiles(
  { store }: Pick<World, 'store'>,
  snapshot: Snapshot,
): Promise<LocalSnapshot> {
  const [disk, memory, state] = await Promise.all(
    [snapshot.diskLayerId, snapshot.memoryLayerId, snapshot.stateLayerId].map(async (id) =>
      id === null ? null : store.layers.get(id),
    ),
  );
  if (!disk || !state)
    throw new Failure('unavailable', `The files of snapshot ${snapshot.id} are not on this host.`, {
      details: { snapshot: snapshot.id },
    });
  return { disk, saved: machineSavedIn(snapshot, state.path, memory?.path ?? null) };
}

/** The machine in a snapshot, with its files where they are now. */
export function machineSavedIn(
  { savedOn, vcpuCount, memMib }: Snapshot,
  statePath: string,
  memoryPath: string | null,
): SavedMachine {
  const { driver, version, machineType, accel } = savedOn;
  return { driver, version, machineType, accel, vcpuCount, memMib, statePath, memoryPath };
}
