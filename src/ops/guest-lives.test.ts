import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import type { Verb, Vm } from '../model/vm.ts';
import { makeHostFolder, openFakeWorld, over, type FakeWorld } from '../../test/support/fake-world.ts';
import { GuestLives } from './guest-lives.ts';

interface Lived extends FakeWorld {
  readonly vm: Vm;
  readonly lives: GuestLives;
  /** What is said to be under way on the VM, until `land`. */
  underWay: Verb | undefined;
  land: () => void;
}

async function lived(body: (one: Lived) => Promise<void>): Promise<void> {
  const host = await makeHostFolder();
  const fake = await openFakeWorld(host);
  try {
    const vm = await fake.hatch.vms.create(fake.caller, {}, { until: 'ready', timeoutMs: 10_000 });
    const { promise, resolve } = Promise.withResolvers<void>();
    const one: Lived = {
      ...fake,
      vm,
      underWay: undefined,
      land: resolve,
      lives: new GuestLives({
        ...fake.world,
        flights: over(fake.world.flights, { verbOf: () => one.underWay, landed: () => promise }),
      }),
    };
    await body(one);
  } finally {
    await fake.close();
    await host.remove();
  }
}

test('a guest lives until its machine ends, and what is done then is done once', async () => {
  await lived(async ({ lives, vm, hatch, caller, world }) => {
    const life = lives.of(vm.id);
    assert.ok(life && !life.isOver);
    assert.equal(lives.of(vm.id), life);
    let times = 0;
    life.whenOver(() => times++);
    await hatch.vms.stop(caller, vm.id, { graceSeconds: 0 });
    assert.deepEqual([life.isOver, times, lives.of(vm.id)], [true, 1, undefined]);
    life.whenOver(() => times++);
    assert.equal(times, 2, 'one that is over is over at once');
    await hatch.vms.start(caller, vm.id, { until: 'running', timeoutMs: 10_000 });
    assert.notEqual(lives.of(vm.id), life);
    assert.ok(world.fleet.get(vm.id));
  });
});

test('one whose machine is exchanged for what was just saved of it lives on, and ends with the next', async () => {
  await lived(async (one) => {
    const { lives, vm, world } = one;
    const { fleet } = world;
    const life = lives.of(vm.id);
    const machine = fleet.get(vm.id)?.machine;
    assert.ok(life && machine);
    one.underWay = 'snapshot';
    fleet.drop(vm.id);
    assert.equal(lives.of(vm.id), life, 'it is not known yet');
    assert.ok(!life.hasMachine);
    fleet.add(vm, machine, { ready: true });
    one.land();
    await setImmediate();
    await setImmediate();
    assert.ok(!life.isOver && life.hasMachine);
    one.underWay = 'reboot';
    fleet.add(vm, machine, { ready: true });
    assert.ok(life.isOver);
  });
});
