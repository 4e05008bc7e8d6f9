import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { systemClock } from '../base/clock.ts';
import type { VmId } from '../base/ids.ts';
import { until } from '../base/until.ts';
import { CLOCK_PATH } from '../vmm/fake/identity.ts';
import { readGuest, writeGuest } from '../vmm/fake/state.ts';
import { makeHostFolder, openFakeWorld, type FakeHostFolder } from '../../test/support/fake-world.ts';

const READY = { until: 'ready', timeoutMs: 10_000 } as const;
const HOOK = '/etc/hatch/after-restore.d/note';
/** Half past ten on a day in spring, in seconds. */
const LONG_AGO = 1_772_793_000;

/** Gives the guest a hook that notes that it ran, and a clock that stands where it did when it was saved. */
async function leaveBehind({ vms }: FakeHostFolder, id: VmId): Promise<void> {
  const folder = join(vms, id);
  const guest = (await readGuest(folder)) ?? assert.fail('no guest');
  const memory = { ...guest.memory, [HOOK]: 'echo ran > /run/hooked', [CLOCK_PATH]: `${LONG_AGO}\n` };
  await writeGuest(folder, { ...guest, memory });
}

async function inside({ vms }: FakeHostFolder, id: VmId, path: string): Promise<string | undefined> {
  return (await readGuest(join(vms, id)))?.memory[path];
}

test('the next daemon does what a wake owed its guest, and nothing to one that was booted', async () => {
  const host = await makeHostFolder();
  try {
    const first = await openFakeWorld(host);
    const ids: VmId[] = [];
    for (const name of ['woken', 'booted', 'again']) {
      const { id } = await first.hatch.vms.create(first.caller, { name }, READY);
      if (name !== 'booted') {
        await first.hatch.vms.snapshot(first.caller, id, { keepRunning: false });
        await first.hatch.vms.start(first.caller, id, READY);
      }
      if (name === 'again') await first.hatch.vms.reboot(first.caller, id, READY);
      ids.push(id);
    }
    const [woken, ...others] = ids;
    assert.ok(woken);
    // What its wake did itself is over.
    await until({ clock: systemClock, signal: AbortSignal.timeout(10_000) }, async () =>
      (await inside(host, woken, CLOCK_PATH)) === undefined ? undefined : true,
    );
    await first.close();
    for (const id of ids) await leaveBehind(host, id);
    const from = systemClock.now();
    await using second = await openFakeWorld(host);
    await until({ clock: systemClock, signal: AbortSignal.timeout(10_000) }, async () =>
      (await inside(host, woken, '/run/hooked')) === undefined ? undefined : true,
    );
    const set = Number(await inside(host, woken, CLOCK_PATH)) * 1000;
    assert.ok(set >= from - 1000 && set <= systemClock.now(), `its clock is ${set}`);
    for (const id of others) {
      assert.equal((await second.hatch.vms.get(second.caller, id)).state, 'running');
      assert.equal(Number(await inside(host, id, CLOCK_PATH)), LONG_AGO);
      assert.equal(await inside(host, id, '/run/hooked'), undefined);
    }
  } finally {
    await host.remove();
  }
});

test('a copy of which nothing was made is not started as a VM of its image', async () => {
  const host = await makeHostFolder();
  try {
    const vmm: { load?: 'before' } = {};
    await using one = await openFakeWorld(host, { vmm });
    const { hatch, caller, world } = one;
    const { id } = await hatch.vms.create(caller, { name: 'source' }, READY);
    const { name } = await hatch.vms.snapshot(caller, id, { keepRunning: true, name: 'golden' });
    vmm.load = 'before';
    await assert.rejects(hatch.vms.create(caller, { name: 'copy', snapshotId: name ?? '' }, READY));
    delete vmm.load;
    const copy = await hatch.vms.get(caller, 'copy');
    assert.equal(copy.state, 'error');
    await assert.rejects(hatch.vms.start(caller, 'copy'), /a copy that could not be made: .* delete it/);
    assert.equal((await hatch.vms.get(caller, 'copy')).state, 'error');
    assert.equal(await world.store.vms.get(copy.id).then((vm) => vm?.layerId), null);
    await hatch.vms.delete(caller, 'copy');
    assert.equal((await hatch.vms.create(caller, { name: 'copy', snapshotId: 'golden' })).state, 'running');
  } finally {
    await host.remove();
  }
});
