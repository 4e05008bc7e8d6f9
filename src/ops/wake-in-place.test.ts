import assert from 'node:assert/strict';
import { readdir } from 'node:fs/promises';
import { test } from 'node:test';
import type { VmId } from '../base/ids.ts';
import { VmmError, type LoadOptions } from '../vmm/driver.ts';
import { Tender } from './archive/tend.ts';
import { sleepVm } from './snapshot-vm.ts';
import {
  assertNothingLeft,
  makeHostFolder,
  openFakeWorld,
  over,
  type FakeWorld,
} from '../../test/support/fake-world.ts';

const READY = { until: 'ready', timeoutMs: 10_000 } as const;

/** A world, and how each machine in it was loaded. */
async function inWorld(
  body: (world: FakeWorld, loads: LoadOptions['mapping'][]) => Promise<void>,
): Promise<void> {
  const host = await makeHostFolder();
  const loads: LoadOptions['mapping'][] = [];
  try {
    await using one = await openFakeWorld(host, {
      wrapDriver: (driver) =>
        over(driver, {
          load: (spec, saved, options, signal) => {
            loads.push(options.mapping);
            return driver.load(spec, saved, options, signal);
          },
        }),
    });
    await body(one, loads);
    await assertNothingLeft(one);
  } finally {
    await host.remove();
  }
}

async function say({ hatch, caller }: FakeWorld, id: VmId, command: string): Promise<string> {
  const exec = { command, cwd: null, env: {}, stdin: null, timeoutMs: 5000 };
  return (await hatch.vms.exec(caller, id, exec)).stdout.trim();
}

test('a VM that slept because nobody used it goes on in its memory, again and again', () =>
  inWorld(async (one, loads) => {
    const { world, hatch, caller } = one;
    const { id } = await hatch.vms.create(caller, {}, READY);
    for (let i = 0; i < 3; i++) {
      await say(one, id, `echo round-${i} > /run/word`);
      const slept = await sleepVm(world, { id });
      // Its upload is not waited for.
      await hatch.vms.start(caller, id, READY);
      assert.equal(await say(one, id, 'cat /run/word'), `round-${i}`);
      const kept = await world.store.snapshots.get(slept.id);
      assert.ok(kept === null || kept.hostId === null, 'nothing is left of it here');
      const layer = (await world.store.vms.get(id))?.memoryLayerId;
      assert.equal(layer, slept.memoryLayerId);
      assert.equal(
        world.fleet.get(id)?.machine.ramFile,
        (layer && (await world.store.layers.get(layer)))?.path,
      );
    }
    assert.deepEqual(loads, ['shared', 'shared', 'shared']);
  }));

test('an idle snapshot that is in the store stays there when its VM goes on in its memory here', () =>
  inWorld(async (one, loads) => {
    const { world, hatch, caller } = one;
    const { id } = await hatch.vms.create(caller, {}, READY);
    await say(one, id, 'echo stored > /run/word');
    const slept = await sleepVm(world, { id });
    await hatch.snapshots.get(caller, slept.id, 10_000);
    await hatch.vms.start(caller, id, READY);
    await say(one, id, 'echo later > /run/word');
    const kept = await world.store.snapshots.get(slept.id);
    assert.deepEqual([kept?.state, kept?.hostId, kept?.memoryLayerId], ['durable', null, null]);
    await new Tender(world).round(new AbortController().signal);
    await hatch.vms.stop(caller, id, { graceSeconds: 1 });
    await hatch.vms.restore(caller, id, { snapshot: slept.id, discard: true }, READY);
    assert.equal(await say(one, id, 'cat /run/word'), 'stored', 'it is as it was');
    assert.equal(loads[0], 'shared');
  }));

test('a snapshot that was asked for is not woken in: it stays as it is', () =>
  inWorld(async (one, loads) => {
    const { world, hatch, caller } = one;
    const { id } = await hatch.vms.create(caller, {}, READY);
    await say(one, id, 'echo kept > /run/word');
    const named = await hatch.vms.snapshot(caller, id, { name: 'kept', keepRunning: false });
    await hatch.vms.start(caller, id, READY);
    await say(one, id, 'echo changed > /run/word');
    await hatch.vms.stop(caller, id, { graceSeconds: 1 });
    await hatch.vms.restore(caller, id, { snapshot: named.id, discard: true }, READY);
    assert.equal(await say(one, id, 'cat /run/word'), 'kept');
    assert.deepEqual(loads, ['private', 'private']);
    assert.ok((await world.store.snapshots.get(named.id))?.memoryLayerId);
  }));

test('memory that a copy runs on is not gone on in', () =>
  inWorld(async (one, loads) => {
    const { world, hatch, caller } = one;
    const { id } = await hatch.vms.create(caller, {}, READY);
    await say(one, id, 'echo both > /run/word');
    await sleepVm(world, { id });
    const [copy] = await hatch.vms.fork(caller, id, { count: 1, keepRunning: true }, READY);
    assert.ok(copy);
    await hatch.vms.start(caller, id, READY);
    await say(one, id, 'echo mine > /run/word');
    assert.equal(await say(one, copy.id, 'cat /run/word'), 'both');
    assert.deepEqual(loads, ['private', 'private']);
  }));

test('a VM that cannot be loaded in its memory sleeps on, whole', async () => {
  const host = await makeHostFolder();
  let broken = true;
  try {
    await using one = await openFakeWorld(host, {
      wrapDriver: (driver) =>
        over(driver, {
          load: async (...args) => {
            const machine = await driver.load(...args);
            if (!broken) return machine;
            await machine.kill();
            throw new VmmError('the hypervisor broke while it loaded');
          },
        }),
    });
    const { world, hatch, caller } = one;
    const { id } = await hatch.vms.create(caller, {}, READY);
    await say(one, id, 'echo whole > /run/word');
    const slept = await sleepVm(world, { id });
    await assert.rejects(hatch.vms.start(caller, id), /broke while it loaded/);
    const asleep = await hatch.vms.get(caller, id);
    assert.deepEqual([asleep.state, asleep.snapshotId], ['snapshotted', slept.id]);
    await assertNothingLeft(one);
    broken = false;
    await hatch.vms.start(caller, id, READY);
    assert.equal(await say(one, id, 'cat /run/word'), 'whole');
    assert.deepEqual(await readdir(world.settings.layersFolder), [slept.memoryLayerId]);
    await assertNothingLeft(one);
  } finally {
    await host.remove();
  }
});

test('a guest that does not go on after its snapshot was given up is an error with its disk whole', async () => {
  const host = await makeHostFolder();
  try {
    await using one = await openFakeWorld(host, {
      wrapDriver: (driver) =>
        over(driver, {
          load: async (...args) =>
            over(await driver.load(...args), {
              resume: () => Promise.reject(new VmmError('it does not go on')),
            }),
        }),
    });
    const { world, hatch, caller } = one;
    const { id } = await hatch.vms.create(caller, {}, READY);
    await sleepVm(world, { id });
    await assert.rejects(hatch.vms.start(caller, id), /it does not go on/);
    const lost = await hatch.vms.get(caller, id);
    assert.equal(lost.state, 'error');
    assert.match(lost.stateReason?.message ?? '', /Start it again; its disk is whole/);
    await assertNothingLeft(one);
    await hatch.vms.start(caller, id, READY);
    await assertNothingLeft(one);
  } finally {
    await host.remove();
  }
});
