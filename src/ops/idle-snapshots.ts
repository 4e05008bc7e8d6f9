import type { VmId } from '../base/ids.ts';
import type { Snapshot } from '../model/snapshot.ts';
import type { Vm } from '../model/vm.ts';
import { dropSnapshot } from './save-vm.ts';
import type { World } from './world.ts';

/**
 * Forgets the idle snapshots of a VM that a later one has taken the place of. Until that one is in the store, the last one that is
 * stays: it is the only copy that outlives the host, and what the later one's upload builds on. For whoever has the VM's operation.
 */
export async function dropIdle(
  world: Pick<World, 'store' | 'settings' | 'archive'>,
  vmId: VmId,
): Promise<void> {
  const vm = await world.store.vms.get(vmId);
  if (!vm) return;
  for (const one of replaced(vm, await world.store.snapshots.ofVm(vmId))) await dropSnapshot(world, one);
}

/** Forgets them of every VM of this host that has no operation under way. */
export async function dropIdleOfAll(world: World): Promise<void> {
  const { store, flights, settings } = world;
  for (const { id } of await store.vms.ofHost(settings.hostId)) {
    if ((await store.snapshots.ofVm(id)).filter(({ kind }) => kind === 'idle').length < 2) continue;
    await flights.hold(async (flying) => {
      const vm = await store.vms.get(id);
      if (vm && vm.operation === null && !flying.has(id)) await dropIdle(world, id);
    });
  }
}

/** The idle snapshots of a VM that nobody needs any more; `all` of its snapshots, newest first. */
export function replaced(vm: Pick<Vm, 'snapshotId'>, all: readonly Snapshot[]): readonly Snapshot[] {
  const [newest, ...older] = all.filter(({ kind }) => kind === 'idle');
  const fallback = newest?.state === 'durable' ? undefined : older.find(({ state }) => state === 'durable');
  const proven = lastVerified(all);
  return older.filter((one) => one.id !== vm.snapshotId && one !== fallback && one !== proven);
}

/** The snapshot of a VM that was proven last: it is never deleted unasked. */
export function lastVerified(all: readonly Snapshot[]): Snapshot | undefined {
  return all
    .filter(({ verifiedAt }) => verifiedAt !== null)
    .toSorted((a, b) => (b.verifiedAt ?? 0) - (a.verifiedAt ?? 0))[0];
}
