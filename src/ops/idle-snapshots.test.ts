import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Snapshot } from '../model/snapshot.ts';
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
const NEVER = new AbortController().signal;

async function inWorld(
  options: Parameters<typeof openFakeWorld>[1],
  body: (world: FakeWorld) => Promise<void>,
): Promise<void> {
  const host = await makeHostFolder();
  try {
    const one = await openFakeWorld(host, options);
    try {
      await body(one);
    } finally {
      await one.close();
    }
  } finally {
    await host.remove();
  }
}

const idsOf = (all: readonly Snapshot[]): readonly string[] => all.map(({ id }) => id);

test('a VM that is put to sleep has an idle snapshot, and the next one takes its place once it is stored', () =>
  inWorld({}, async (one) => {
    const { world, hatch, caller } = one;
    const vm = await hatch.vms.create(caller, {}, READY);
    const first = await sleepVm(world, vm);
    assert.deepEqual([first.kind, first.name, first.vmId], ['idle', null, vm.id]);
    assert.equal((await hatch.vms.get(caller, vm.id)).state, 'snapshotted');
    await hatch.snapshots.get(caller, first.id, 10_000);
    await hatch.vms.start(caller, vm.id, READY);
    assert.deepEqual(
      idsOf(await world.store.snapshots.ofVm(vm.id)),
      [first.id],
      'it is in the store, and stays',
    );
    const second = await sleepVm(world, vm);
    await hatch.snapshots.get(caller, second.id, 10_000);
    await new Tender(world).round(NEVER);
    assert.deepEqual(idsOf(await world.store.snapshots.ofVm(vm.id)), [second.id]);
    await hatch.vms.start(caller, vm.id, READY);
    await assertNothingLeft(one);
  }));

test('idle snapshots do not count, and named ones are not replaced by them', () =>
  inWorld({}, async (one) => {
    const { world, hatch, caller } = one;
    const vm = await hatch.vms.create(caller, {}, READY);
    const named = await hatch.vms.snapshot(caller, vm.id, { name: 'kept', keepRunning: true });
    for (let i = 0; i < 2; i++) {
      const slept = await sleepVm(world, vm);
      await hatch.snapshots.get(caller, slept.id, 10_000);
      await hatch.vms.start(caller, vm.id, READY);
    }
    await new Tender(world).round(NEVER);
    const left = await world.store.snapshots.ofVm(vm.id);
    assert.deepEqual(
      left.map(({ kind }) => kind),
      ['idle', 'manual'],
    );
    assert.equal(left[1]?.id, named.id);
  }));

test('the last snapshot that was proven stays, though later idle ones came', () =>
  inWorld({}, async (one) => {
    const { world, hatch, caller } = one;
    const vm = await hatch.vms.create(caller, {}, READY);
    const ids: string[] = [];
    for (let i = 0; i < 3; i++) {
      const slept = await sleepVm(world, vm);
      await hatch.snapshots.get(caller, slept.id, 10_000);
      if (i === 0) await hatch.snapshots.verify(caller, slept.id);
      await hatch.vms.start(caller, vm.id, READY);
      ids.unshift(slept.id);
    }
    await new Tender(world).round(NEVER);
    assert.deepEqual(idsOf(await world.store.snapshots.ofVm(vm.id)), [ids[0], ids[2]]);
    await assertNothingLeft(one);
  }));

test('until the later one is in the store the last stored one stays; one that wakes before it is stored is dropped', async () => {
  let open = true;
  const wait = async (signal: AbortSignal | undefined): Promise<void> => {
    if (open) return;
    await new Promise((_, reject) => signal?.addEventListener('abort', () => reject(new Error('cut off'))));
  };
  await inWorld(
    {
      wrapHome: (home) =>
        over(home, {
          put: async (name, source, options) => {
            await wait(options.signal);
            return home.put(name, source, options);
          },
        }),
    },
    async (one) => {
      const { world, hatch, caller } = one;
      const vm = await hatch.vms.create(caller, {}, READY);
      const stored = await sleepVm(world, vm);
      await hatch.snapshots.get(caller, stored.id, 10_000);
      await hatch.vms.start(caller, vm.id, READY);
      open = false;
      const second = await sleepVm(world, vm);
      await new Tender(world).round(NEVER);
      assert.deepEqual(idsOf(await world.store.snapshots.ofVm(vm.id)), [second.id, stored.id]);
      await hatch.vms.start(caller, vm.id, READY);
      assert.deepEqual(idsOf(await world.store.snapshots.ofVm(vm.id)), [stored.id]);
      await assertNothingLeft(one);
    },
  );
});
