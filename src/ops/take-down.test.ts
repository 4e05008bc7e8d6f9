import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Failure } from '../model/failure.ts';
import type { FakeFailures } from '../net/fake.ts';
import {
  assertNothingLeft,
  makeHostFolder,
  openFakeWorld,
  type FakeWorld,
} from '../../test/support/fake-world.ts';
import { takeDown } from './take-down.ts';
import { ownerOf } from './owner.ts';

async function onFakeHost(body: (fake: FakeWorld, net: FakeFailures) => Promise<void>): Promise<void> {
  const host = await makeHostFolder();
  const net: FakeFailures = {};
  const fake = await openFakeWorld(host, { net });
  try {
    await body(fake, net);
    await fake.close();
  } finally {
    await host.remove();
  }
}

test('every guest that runs is stopped and told of; a stopped one is left alone', () =>
  onFakeHost(async (fake) => {
    const { world, hatch, caller } = fake;
    const [one, two] = [await hatch.vms.create(caller, {}), await hatch.vms.create(caller, {})];
    const resting = await hatch.vms.create(caller, {});
    await hatch.vms.stop(caller, resting.id, { graceSeconds: 1 });
    const told: string[] = [];
    assert.equal(await takeDown(world, 1, (vm) => told.push(vm.id)), 2);
    assert.deepEqual(told.sort(), [one.id, two.id].sort());
    for (const vm of await world.store.vms.ofHost('test-host')) assert.equal(vm.state, 'stopped');
    await assertNothingLeft(fake);
  }));

test('a guest whose reboot an earlier daemon left under way is not booted again', () =>
  onFakeHost(async (fake) => {
    const { world, hatch, caller } = fake;
    const vm = await hatch.vms.create(caller, {}, { until: 'ready', timeoutMs: 10_000 });
    await world.store.operations.begin({ id: vm.id, owner: ownerOf(vm) }, 'reboot', {});
    await takeDown(world, 1, () => undefined);
    assert.equal((await world.store.vms.get(vm.id))?.state, 'stopped');
    await assertNothingLeft(fake);
  }));

test('one that cannot be stopped is named when all others are, and is tried again afterwards', () =>
  onFakeHost(async (fake, net) => {
    const { world, hatch, caller } = fake;
    const stuck = await hatch.vms.create(caller, { name: 'stuck' });
    await hatch.vms.create(caller, { enableNetwork: false });
    net.detach = 'before';
    await assert.rejects(
      takeDown(world, 1, () => undefined),
      (error: unknown) => {
        assert.ok(error instanceof Failure);
        assert.match(error.message, /^stuck could not be stopped: The host's network failed: /);
        return true;
      },
    );
    const states = (await world.store.vms.ofHost('test-host')).map((vm) => [vm.id === stuck.id, vm.state]);
    assert.deepEqual(states.sort(), [
      [false, 'stopped'],
      [true, 'stopping'],
    ]);
    delete net.detach;
    await takeDown(world, 1, () => undefined);
    assert.equal((await world.store.vms.get(stuck.id))?.state, 'stopped');
    await assertNothingLeft(fake);
  }));
