import assert from 'node:assert/strict';
import { getEventListeners } from 'node:events';
import { test } from 'node:test';
import { FakeClock } from '../base/clock.ts';
import { newId } from '../base/ids.ts';
import { silent } from '../base/logger.ts';
import { makeHostFolder, openFakeWorld } from '../../test/support/fake-world.ts';
import { Fleet } from './fleet.ts';

test('that a guest answers is told again until it is heard, and no more once it is let go', async () => {
  const host = await makeHostFolder();
  const fake = await openFakeWorld(host);
  try {
    const vm = await fake.hatch.vms.create(fake.caller, {});
    const live = fake.world.fleet.get(vm.id);
    assert.ok(live);
    const clock = new FakeClock();
    const fleet = new Fleet({
      clock,
      log: silent,
      openAgent: () => live.agent,
      waitReady: async () => 'agent',
    });
    const told: string[] = [];
    fleet.onReady = async (vmId, by) => {
      told.push(`${vmId} ${by}`);
      if (told.length < 3) throw new Error('the disk of the database is full');
    };
    const asleep = async (): Promise<void> => {
      while (clock.sleepers === 0) await new Promise((resolve) => setImmediate(resolve));
    };
    fleet.add(vm, live.machine, { ready: false });
    for (let times = 1; times < 3; times++) {
      await asleep();
      assert.equal(told.length, times);
      await clock.advance(1000);
    }
    assert.deepEqual(told, Array(3).fill(`${vm.id} agent`));
    assert.equal(clock.sleepers, 0);

    told.length = 0;
    fleet.add(vm, live.machine, { ready: false });
    await asleep();
    fleet.drop(vm.id);
    assert.equal(clock.sleepers, 0);
    assert.equal(told.length, 1);
  } finally {
    await fake.close();
    await host.remove();
  }
});

test('a long wait looks again at each change, and leaves nothing on its signal', async () => {
  const fleet = new Fleet({
    clock: new FakeClock(),
    log: silent,
    openAgent: () => assert.fail('no guest here'),
    waitReady: () => assert.fail('no guest here'),
  });
  const vmId = newId('vm');
  const { signal } = new AbortController();
  let looks = 0;
  const seen = fleet.watch(vmId, async () => (++looks === 20 ? looks : undefined), signal);
  while (looks < 20) {
    assert.ok(getEventListeners(signal, 'abort').length <= 1);
    fleet.touch(vmId);
    await new Promise((resolve) => setImmediate(resolve));
  }
  assert.equal(await seen, 20);
  assert.equal(getEventListeners(signal, 'abort').length, 0);
});
