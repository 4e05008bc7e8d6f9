import assert from 'node:assert/strict';
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { newId } from '../base/ids.ts';
import { Failure } from '../model/failure.ts';
import { readFakeHost } from '../net/fake.ts';
import type { Driver } from '../vmm/driver.ts';
import { reconcile } from './reconcile.ts';
import { proveAll, proveSnapshot } from './verify-snapshot.ts';
import type { World } from './world.ts';
import {
  assertNothingLeft,
  makeHostFolder,
  openFakeWorld,
  over,
  type FakeHostFolder,
  type FakeWorld,
} from '../../test/support/fake-world.ts';
import { SCRATCH_FILE, vmFolder } from './settings.ts';

const READY = { until: 'ready', timeoutMs: 10_000 } as const;
const ASLEEP = { keepRunning: false, storedWithinMs: 10_000 };

async function inWorld(body: (world: FakeWorld, host: FakeHostFolder) => Promise<void>): Promise<void> {
  const host = await makeHostFolder();
  try {
    const one = await openFakeWorld(host);
    try {
      await body(one, host);
    } finally {
      await one.close();
    }
  } finally {
    await host.remove();
  }
}

/** The world with a driver that does some things differently. */
function withDriver(world: World, instead: Partial<Driver>): World {
  return over(world, { driver: over(world.driver, instead) });
}

test('a stored snapshot is proven by its durable copy: apart from all networks, and nothing is left of it', () =>
  inWorld(async ({ world, hatch, caller }, host) => {
    const vm = await hatch.vms.create(caller, {}, READY);
    const snapshot = await hatch.vms.snapshot(caller, vm.id, ASLEEP);
    const before = await readdir(world.settings.layersFolder);
    let looked = 0;
    const watched = withDriver(world, {
      load: async (spec, saved, options, signal) => {
        looked++;
        assert.notEqual(spec.vmId, vm.id);
        assert.ok(world.flights.has(spec.vmId), 'reconciling is told to leave it alone');
        const { taps, filters, reservations } = await readFakeHost(host.net);
        assert.equal(spec.network?.tap, spec.vmId);
        assert.deepEqual(taps[spec.vmId]?.joined, false);
        assert.deepEqual([filters[spec.vmId], reservations[spec.vmId]], [undefined, undefined]);
        assert.ok(!before.some((id) => saved.statePath.includes(id)), 'its files are not those here');
        const machine = await world.driver.load(spec, saved, options, signal);
        await reconcile(world);
        assert.ok(
          (await world.driver.observe()).some(({ vmId }) => vmId === spec.vmId),
          'it runs on',
        );
        return machine;
      },
    });
    const proven = await proveSnapshot(watched, snapshot);
    assert.equal(looked, 1);
    assert.ok((proven.verifiedAt ?? 0) >= snapshot.createdAt);
    assert.equal(
      (await hatch.events.list(caller, { vm: vm.id, kind: 'snapshot.verified' }, { limit: 5 })).length,
      1,
    );
    assert.deepEqual((await readdir(world.settings.layersFolder)).sort(), [...before].sort());
    await assertNothingLeft({ world });
    assert.equal((await hatch.vms.get(caller, vm.id)).state, 'snapshotted');
  }));

test('the API verifies a snapshot that is only here by its files here, while its VM runs', () =>
  inWorld(async ({ world, hatch, caller }) => {
    const vm = await hatch.vms.create(caller, { enableNetwork: false }, READY);
    const { id } = await hatch.vms.snapshot(caller, vm.id, { ...ASLEEP, keepRunning: true });
    await world.store.snapshots.update(id, { state: 'local', manifest: null });
    const [one, two] = await Promise.all([
      hatch.snapshots.verify(caller, id),
      hatch.snapshots.verify(caller, id),
    ]);
    assert.ok(one.verifiedAt);
    assert.equal(one.verifiedAt, two.verifiedAt, 'who asks for the same waits for the same');
    await assertNothingLeft({ world });
  }));

test('a machine that does not load fails the proof, says so, leaves nothing and marks nothing', () =>
  inWorld(async ({ world, hatch, caller }) => {
    const vm = await hatch.vms.create(caller, {}, READY);
    const snapshot = await hatch.vms.snapshot(caller, vm.id, ASLEEP);
    const broken = withDriver(world, {
      load: async () => {
        throw new Error('it does not load today');
      },
    });
    await assert.rejects(proveSnapshot(broken, snapshot), (error: unknown) => {
      assert.ok(error instanceof Failure);
      assert.match(error.message, /could not be verified: loading the machine failed/);
      return true;
    });
    const now = await hatch.snapshots.get(caller, snapshot.id);
    assert.deepEqual([now.state, now.verifiedAt, now.problem], ['durable', null, null]);
    const events = await hatch.events.list(
      caller,
      { vm: vm.id, kind: 'snapshot.verify_failed' },
      { limit: 5 },
    );
    assert.equal(events.length, 1);
    await assertNothingLeft({ world });
  }));

test('bytes that do not read fail the proof and mark the snapshot damaged; put right, the next proof heals it', () =>
  inWorld(async ({ world, hatch, caller }, host) => {
    const vm = await hatch.vms.create(caller, {}, READY);
    const snapshot = await hatch.vms.snapshot(caller, vm.id, ASLEEP);
    assert.ok(await world.store.snapshots.dropLocal(snapshot.id, 'test-host'));
    await world.store.vms.update(vm.id, { hostId: vm.hostId ?? '', epoch: vm.epoch }, { layerId: null });
    await reconcile(world);
    const manifest = join(host.root, 'snapshots', snapshot.manifest?.name ?? '');
    const good = await readFile(manifest);
    await writeFile(manifest, good.subarray(1));
    await assert.rejects(hatch.snapshots.verify(caller, snapshot.id), /fetching it from the store failed/);
    assert.equal((await hatch.snapshots.get(caller, snapshot.id)).state, 'damaged');
    await writeFile(manifest, good);
    assert.ok((await hatch.snapshots.verify(caller, snapshot.id)).verifiedAt);
    assert.equal((await hatch.snapshots.get(caller, snapshot.id)).state, 'durable');
    await assertNothingLeft({ world });
  }));

test('what a crash left of a proof is removed by reconciling, disk and process and tap', () =>
  inWorld(async ({ world, hatch, caller }) => {
    await hatch.vms.create(caller, {}, READY);
    const scratch = newId('vm');
    const folder = vmFolder(world.settings, scratch);
    await mkdir(folder, { recursive: true });
    for (const name of [SCRATCH_FILE, 'kernel', 'disk.raw']) await writeFile(join(folder, name), '');
    await world.net.attachApart({ vmId: scratch });
    await world.driver.launch(
      {
        vmId: scratch,
        folder,
        vcpuCount: 1,
        memMib: 512,
        kernel: 'kernel',
        initrd: null,
        bootArgs: '',
        disks: [{ path: 'disk.raw', format: 'raw', readOnly: false }],
        network: { tap: scratch, mac: '02:fc:00:00:00:01' },
        machineType: null,
      },
      new AbortController().signal,
    );
    await reconcile(world);
    await assertNothingLeft({ world });
  }));

test("the schedule proves every VM's newest stored snapshot, and goes on after one that fails", () =>
  inWorld(async ({ world, hatch, caller }, host) => {
    const [one, two] = [await hatch.vms.create(caller, {}, READY), await hatch.vms.create(caller, {}, READY)];
    const older = await hatch.vms.snapshot(caller, one.id, { ...ASLEEP, keepRunning: true });
    const newest = await hatch.vms.snapshot(caller, one.id, ASLEEP);
    const bad = await hatch.vms.snapshot(caller, two.id, ASLEEP);
    await writeFile(join(host.root, 'snapshots', bad.manifest?.name ?? ''), 'nothing of it');
    await proveAll(world, new AbortController().signal);
    const proven = async (id: string): Promise<boolean> =>
      (await hatch.snapshots.get(caller, id)).verifiedAt !== null;
    assert.deepEqual(await Promise.all([older.id, newest.id, bad.id].map(proven)), [false, true, false]);
  }));
