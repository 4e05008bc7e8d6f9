import assert from 'node:assert/strict';
import { newId, type LayerId } from '../../base/ids.ts';
import type { Layer } from '../../model/records.ts';
import type { NewSnapshot, Snapshot } from '../../model/snapshot.ts';
import type { Vm } from '../../model/vm.ts';
import { furnish, NO_LIMITS, type Place } from '../fixtures.ts';
import type { Store } from '../store.ts';
import { fails, isTaken, listsInPages, make, ownerOf, type Declare } from './support.ts';

/** Snapshots: made together with their layers and their VM's sleep, found, listed, let go. */
export function snapshotTests(test: Declare): void {
  test('a snapshot is made with its layers, its disk frozen, and its VM asleep', async ({ store, clock }) => {
    const { place, vm, disk } = await asleepToBe(store);
    const wanted = newSnapshot(vm, disk.id, { name: 'before-upgrade' });
    const made = await seal(store, vm, wanted);
    assert.deepEqual(made, {
      ...wanted,
      state: 'local',
      storedBytes: null,
      manifest: null,
      verifiedAt: null,
      usedAt: clock.now(),
      problem: null,
      createdAt: clock.now(),
    });
    assert.deepEqual(await store.layers.get(disk.id), { ...disk, path: '/layers/disk', frozen: true });
    const sleeping = await store.vms.get(vm.id);
    assert.deepEqual([sleeping?.state, sleeping?.snapshotId], ['snapshotted', made.id]);
    assert.deepEqual(await store.snapshots.find(place.account.id, 'before-upgrade'), made);
    assert.deepEqual(await store.snapshots.find(place.account.id, made.id), made);
    assert.equal(await store.snapshots.find(newId('acct'), made.id), null);
    assert.deepEqual(await store.snapshots.ofVm(vm.id), [made]);
    assert.deepEqual(await store.snapshots.ofHost(place.hostId), [made]);
    assert.deepEqual(await seal(store, vm, wanted), made, 'made twice is made once');
  });

  test('a snapshot whose VM went another way makes nothing', async ({ store }) => {
    const { vm, disk } = await asleepToBe(store);
    await store.vms.update(vm.id, ownerOf(vm), { state: 'error' });
    const wanted = newSnapshot(vm, disk.id);
    await fails(seal(store, vm, wanted), 'wrong_state');
    assert.equal(await store.snapshots.get(wanted.id), null);
    assert.deepEqual(await store.layers.get(disk.id), disk);
    assert.equal(wanted.memoryLayerId && (await store.layers.get(wanted.memoryLayerId)), null);
  });

  test('layers stay while a snapshot names them, or a VM runs on their memory', async ({ store }) => {
    const { vm, disk, place } = await asleepToBe(store);
    const made = await seal(store, vm, newSnapshot(vm, disk.id));
    const ids = [made.memoryLayerId, made.stateLayerId].filter((id) => id !== null);
    for (const id of ids) assert.equal(await store.layers.removeIfUnused(id), false);
    const copy = await make(store, place.newVm());
    await store.vms.update(copy.id, ownerOf(copy), { memoryLayerId: made.memoryLayerId });
    assert.equal(await store.snapshots.remove(made.id), true);
    assert.deepEqual(await Promise.all(ids.map((id) => store.layers.removeIfUnused(id))), [false, true]);
    await store.vms.update(copy.id, ownerOf(copy), { memoryLayerId: null });
    assert.equal(ids[0] && (await store.layers.removeIfUnused(ids[0])), true);
    assert.equal(await store.layers.removeIfUnused(disk.id), false, 'the VM still sleeps on its disk');
  });

  test('a VM goes on in the memory of its snapshot, which is gone, or only in the store', async ({
    store,
  }) => {
    for (const state of ['local', 'durable'] as const) {
      const { vm, disk } = await asleepToBe(store);
      const made = await seal(store, vm, newSnapshot(vm, disk.id, { kind: 'idle' }));
      await store.snapshots.update(made.id, { state });
      const awake = { owner: ownerOf(vm), patch: { state: 'running', snapshotId: null } } as const;
      assert.equal(
        await store.snapshots.goOnIn(made.id, { ...awake, owner: { ...awake.owner, epoch: 9 } }),
        false,
        'it is not that owner’s',
      );
      assert.deepEqual(await store.snapshots.get(made.id), { ...made, state });
      assert.equal(await store.snapshots.goOnIn(made.id, awake), true);
      const now = await store.vms.get(vm.id);
      assert.deepEqual([now?.state, now?.snapshotId], ['running', null]);
      const left = await store.snapshots.get(made.id);
      const nowhere = { hostId: null, diskLayerId: null, memoryLayerId: null, stateLayerId: null };
      assert.deepEqual(left, state === 'local' ? null : { ...made, state, ...nowhere });
      assert.ok(made.memoryLayerId && (await store.layers.get(made.memoryLayerId)), 'its layers stay');
      assert.equal(await store.snapshots.goOnIn(made.id, awake), false, 'it sleeps no more');
    }
  });

  test('nobody goes on in memory that another stands on, or is about to', async ({ store }) => {
    const { vm, disk, place } = await asleepToBe(store);
    const made = await seal(store, vm, newSnapshot(vm, disk.id, { kind: 'idle' }));
    const awake = { owner: ownerOf(vm), patch: { state: 'running', snapshotId: null } } as const;
    const { vm: copy, operation } = await store.vms.create(place.newVm({ parentSnapshotId: made.id }), {
      limits: NO_LIMITS,
      args: {},
    });
    assert.equal(await store.snapshots.goOnIn(made.id, awake), false, 'a copy is being made');
    await store.vms.update(copy.id, ownerOf(copy), { memoryLayerId: made.memoryLayerId });
    await store.operations.finish(operation.id, 'done');
    assert.equal(await store.snapshots.goOnIn(made.id, awake), false, 'the copy runs on it');
    assert.equal((await store.vms.get(vm.id))?.state, 'snapshotted');
    await store.vms.update(copy.id, ownerOf(copy), { memoryLayerId: null });
    assert.equal(await store.snapshots.goOnIn(made.id, awake), true);
  });

  test('a snapshot is not removed while a copy of it is being made', async ({ store }) => {
    const { vm, disk, place } = await asleepToBe(store);
    const made = await seal(store, vm, newSnapshot(vm, disk.id));
    await store.snapshots.update(made.id, { state: 'durable' });
    const { operation } = await store.vms.create(place.newVm({ parentSnapshotId: made.id }), {
      limits: NO_LIMITS,
      args: {},
    });
    assert.equal(await store.snapshots.remove(made.id), false);
    assert.equal(await store.snapshots.dropLocal(made.id, made.hostId ?? ''), false);
    await store.operations.finish(operation.id, 'done');
    assert.equal(await store.snapshots.dropLocal(made.id, made.hostId ?? ''), true);
    assert.equal((await store.snapshots.get(made.id))?.hostId, null);
    await store.snapshots.update(made.id, { hostId: (await furnish(store)).hostId });
    assert.equal(await store.snapshots.dropLocal(made.id, made.hostId ?? ''), false, 'another has its files');
    assert.equal(await store.snapshots.remove(made.id), true);
    assert.equal(await store.snapshots.remove(made.id), true, 'twice is as good as once');
    await fails(
      store.vms.create(place.newVm({ parentSnapshotId: made.id }), { limits: NO_LIMITS, args: {} }),
      'not_found',
    );
  });

  test('only what is durable can be forgotten here', async ({ store }) => {
    const { vm, disk } = await asleepToBe(store);
    const made = await seal(store, vm, newSnapshot(vm, disk.id));
    assert.equal(await store.snapshots.dropLocal(made.id, made.hostId ?? ''), false);
    assert.deepEqual(await store.snapshots.get(made.id), made);
  });

  test('a VM has at most so many manual snapshots, and idle ones do not count', async ({ store }) => {
    const { vm, disk } = await asleepToBe(store);
    const again = async (kind: Snapshot['kind'], limit: number): Promise<Snapshot> => {
      const now = await store.vms.get(vm.id);
      assert.ok(now);
      return seal(store, now, newSnapshot(vm, disk.id, { kind }), limit);
    };
    await again('manual', 2);
    await again('idle', 1);
    await again('manual', 2);
    const failure = await fails(again('manual', 2), 'quota_exceeded');
    assert.deepEqual(failure.details, { quota: 'snapshots_per_vm', used: 2, limit: 2 });
    await again('idle', 2);
    assert.equal((await store.snapshots.ofVm(vm.id)).length, 4);
  });

  test('a name of an account is taken by one snapshot, also when it is changed', async ({ store }) => {
    const { vm, disk } = await asleepToBe(store);
    const first = await seal(store, vm, newSnapshot(vm, disk.id, { name: 'gold' }));
    const now = (await store.vms.get(vm.id)) ?? vm;
    await isTaken(seal(store, now, newSnapshot(vm, disk.id, { name: 'gold' })), 'name');
    const second = await seal(store, now, newSnapshot(vm, disk.id, { name: 'silver' }));
    await isTaken(store.snapshots.update(second.id, { name: 'gold' }), 'name');
    assert.equal((await store.snapshots.update(second.id, { name: null }))?.name, null);
    assert.equal((await store.snapshots.get(first.id))?.name, 'gold');
  });

  test('what is learned of a snapshot is kept with it', async ({ store, clock }) => {
    const { vm, disk } = await asleepToBe(store);
    const made = await seal(store, vm, newSnapshot(vm, disk.id));
    const patch = {
      name: 'kept',
      state: 'durable',
      storedBytes: 5_000_000_000,
      manifest: { name: 'a/acct/m/1', sha256: 'ab'.repeat(32) },
      verifiedAt: clock.now(),
      usedAt: clock.now() + 1,
      problem: 'the store answers "\u0000" no',
    } as const;
    assert.deepEqual(await store.snapshots.update(made.id, patch), {
      ...made,
      ...patch,
      problem: 'the store answers "\uFFFD" no',
    });
    assert.equal(await store.snapshots.update(newId('snap'), { name: 'x' }), null);
  });

  test('snapshots are listed newest first, of a VM or of an account', async ({ store }) => {
    const { vm, disk, place } = await asleepToBe(store);
    const ids: string[] = [];
    for (let i = 0; i < 4; i++) {
      const now = (await store.vms.get(vm.id)) ?? vm;
      ids.unshift((await seal(store, now, newSnapshot(vm, disk.id))).id);
    }
    const { account } = place;
    await listsInPages((page) => store.snapshots.list({ accountId: account.id }, page), ids);
    await listsInPages((page) => store.snapshots.list({ accountId: account.id, vmId: vm.id }, page), ids);
    assert.deepEqual(await store.snapshots.list({ accountId: newId('acct') }, { limit: 10 }), []);
    assert.deepEqual(await store.snapshots.list({ vmId: newId('vm') }, { limit: 10 }), []);
  });
}

/** A running VM whose disk can be frozen. */
export async function asleepToBe(store: Store): Promise<{ place: Place; vm: Vm; disk: Layer }> {
  const place = await furnish(store);
  const vm = await make(store, place.newVm());
  const disk = await store.layers.create({
    id: newId('layer'),
    hostId: place.hostId,
    kind: 'disk',
    path: '/vms/disk',
    format: 'raw',
    parentId: null,
    imageAccountId: place.image.accountId,
    imageId: place.image.id,
    frozen: false,
  });
  const running = await store.vms.update(vm.id, ownerOf(vm), { state: 'running', layerId: disk.id });
  assert.ok(running);
  return { place, vm: running, disk };
}

/** A snapshot of a VM to make, its memory and state in layers of their own. */
export function newSnapshot(vm: Vm, diskLayerId: LayerId, overrides: Partial<NewSnapshot> = {}): NewSnapshot {
  return {
    id: newId('snap'),
    accountId: vm.accountId,
    vmId: vm.id,
    name: null,
    kind: 'manual',
    hostId: vm.hostId,
    imageId: vm.imageId,
    vcpuCount: vm.vcpuCount,
    memMib: vm.memMib,
    diskMib: vm.diskMib,
    savedOn: {
      driver: 'qemu',
      version: '7.2.0',
      machineType: 'pc-q35-7.2',
      accel: 'tcg',
      cpu: { model: 'max', flags: [] },
      kernelSha256: null,
      imageSha256: null,
    },
    guest: {
      hostname: 'web',
      mac: '02:fc:00:00:00:01',
      diskFormat: 'qcow2',
      bootArgs: 'quiet',
      hasInitrd: true,
      instanceId: vm.instanceId,
      agent: true,
    },
    parentId: vm.snapshotId,
    diskLayerId,
    memoryLayerId: newId('layer'),
    stateLayerId: newId('layer'),
    logicalBytes: 5 * 1024 ** 3,
    ...overrides,
  };
}

/** Makes the snapshot with its layers, and its VM asleep as it. */
export async function seal(
  store: Store,
  vm: Vm,
  snapshot: NewSnapshot,
  limit: number | null = null,
): Promise<Snapshot> {
  const files = [
    { id: snapshot.memoryLayerId, kind: 'memory' },
    { id: snapshot.stateLayerId, kind: 'state' },
  ] as const;
  const layers = files.flatMap(({ id, kind }) =>
    id === null || snapshot.hostId === null
      ? []
      : [
          {
            id,
            kind,
            hostId: snapshot.hostId,
            path: `/layers/${kind}`,
            format: 'raw' as const,
            parentId: null,
            imageAccountId: null,
            imageId: null,
            frozen: true,
          },
        ],
  );
  assert.ok(snapshot.diskLayerId);
  return store.snapshots.create(snapshot, {
    layers,
    freeze: { id: snapshot.diskLayerId, path: '/layers/disk' },
    vm: {
      owner: ownerOf(vm),
      from: ['running', 'snapshotted'],
      patch: { state: 'snapshotted', snapshotId: snapshot.id },
    },
    limit,
  });
}
