import assert from 'node:assert/strict';
import { mkdir, symlink } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { systemClock } from '../../src/base/clock.ts';
import { until } from '../../src/base/until.ts';
import { Failure } from '../../src/model/failure.ts';
import { forgetLocal } from '../../src/ops/archive/evict.ts';
import { assertNothingLeft, makeHostFolder, openFakeWorld } from '../support/fake-world.ts';
import { makeSmallDisk } from '../support/small-disk.ts';

/** What is on the small disk, and how much room it is left with: what waits to be put, or what was put. */
const CASES = [
  ['the spool', 'spool', 0],
  ['the spool', 'spool', 4096],
  ['the spool', 'spool', 8192],
  ['the store, a folder,', 'snapshots', 0],
  ['the store, a folder,', 'snapshots', 4096],
] as const;

for (const [what, folder, leave] of CASES) {
  test(`${what} on a disk that is full (but ${leave} bytes) leaves a snapshot here, saying so; its VM wakes, and it is stored once there is room`, async () => {
    const host = await makeHostFolder();
    const disk = await makeSmallDisk(`${host.root}-disk`, 4);
    try {
      await symlink(disk.inside, join(host.root, folder));
      // A clock that makes the wait for the next try short.
      const archiveClock = {
        now: () => systemClock.now(),
        steady: () => systemClock.steady(),
        sleep: (ms: number, signal?: AbortSignal) => systemClock.sleep(Math.min(ms, 50), signal),
      };
      await using one = await openFakeWorld(host, { archiveClock });
      const { hatch, caller, world } = one;
      const vm = await hatch.vms.create(caller, {}, { until: 'ready', timeoutMs: 10_000 });
      await disk.fill(leave);
      const { id } = await hatch.vms.snapshot(caller, vm.id, { keepRunning: false });
      const local = await until({ clock: systemClock, signal: AbortSignal.timeout(20_000) }, async () => {
        const now = await world.store.snapshots.get(id);
        return now?.state === 'local' && now.problem !== null ? now : undefined;
      });
      assert.match(local.problem ?? '', /the disk is full.*Make room: it is tried again/);
      assert.equal((await hatch.vms.restore(caller, vm.id, {})).state, 'running');
      await assertNothingLeft(one);
      await disk.makeRoom();
      const stored = await world.archive.stored(id, AbortSignal.timeout(20_000));
      assert.equal(stored.problem, null);
      await hatch.vms.delete(caller, vm.id);
      await assertNothingLeft(one);
    } finally {
      await host.remove();
      await disk.dispose();
    }
  });
}

test('a disk of layers that is full lets nothing be saved and nothing be brought back, says so, and is no matter once there is room', async () => {
  const host = await makeHostFolder();
  const disk = await makeSmallDisk(`${host.root}-disk`, 128);
  try {
    // Both: a disk that is frozen moves from the one to the other.
    for (const folder of ['layers', 'vms']) {
      await mkdir(join(disk.inside, folder));
      await symlink(join(disk.inside, folder), join(host.root, folder));
    }
    await using one = await openFakeWorld(host);
    const { hatch, caller, world } = one;
    const full = (asked: Promise<unknown>) =>
      assert.rejects(asked, (error: unknown) => {
        assert.ok(error instanceof Failure, String(error));
        assert.equal(error.code, 'no_space', error.message);
        return true;
      });
    const vm = await hatch.vms.create(caller, {}, { until: 'ready', timeoutMs: 10_000 });
    await disk.fill();
    await full(hatch.vms.snapshot(caller, vm.id, { keepRunning: false }));
    assert.equal((await hatch.vms.get(caller, vm.id)).state, 'running');
    await disk.makeRoom();
    const { id } = await hatch.vms.snapshot(caller, vm.id, { keepRunning: false });
    const stored = await world.archive.stored(id, AbortSignal.timeout(20_000));

    assert.ok(await forgetLocal(world, stored));
    await disk.fill();
    await full(hatch.vms.restore(caller, vm.id, {}));
    const asleep = await hatch.vms.get(caller, vm.id);
    assert.deepEqual([asleep.state, asleep.stateReason?.code], ['snapshotted', 'no_space']);
    assert.equal((await hatch.snapshots.get(caller, id)).state, 'durable');
    await disk.makeRoom();
    assert.equal((await hatch.vms.restore(caller, vm.id, {})).state, 'running');
    await hatch.vms.delete(caller, vm.id);
  } finally {
    await host.remove();
    await disk.dispose();
  }
});
