import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Failure } from '../model/failure.ts';
import type { Vm } from '../model/vm.ts';
import type { Driver, Machine } from '../vmm/driver.ts';
import {
  assertNothingLeft,
  makeHostFolder,
  openFakeWorld,
  over,
  type FakeWorld,
} from '../../test/support/fake-world.ts';

/** Two things are wanted of a VM and its snapshots at once: each is done, or refused saying why, and what is left is whole. */

const READY = { until: 'ready', timeoutMs: 10_000 } as const;

interface Busy extends FakeWorld {
  readonly vm: Vm;
  /** How often a machine was loaded. */
  readonly loads: () => number;
  /** Holds up the next load: resolves with what lets it go on, once it is reached. */
  readonly holdLoad: () => Promise<() => void>;
  /** Holds up the next save of a guest that runs on, likewise. */
  readonly holdSave: () => Promise<() => void>;
}

async function busy(body: (one: Busy) => Promise<void>): Promise<void> {
  const host = await makeHostFolder();
  let loads = 0;
  let atLoad: (() => Promise<void>) | undefined;
  let atSave: (() => Promise<void>) | undefined;
  const held = (one: Machine): Machine =>
    over(one, {
      saveRunning: async (to, still) => {
        const wait = atSave;
        atSave = undefined;
        await wait?.();
        return one.saveRunning(to, still);
      },
    });
  const wrapDriver = (driver: Driver): Driver =>
    over(driver, {
      load: async (...how) => {
        loads++;
        const wait = atLoad;
        atLoad = undefined;
        await wait?.();
        return held(await driver.load(...how));
      },
      launch: async (...how) => held(await driver.launch(...how)),
    });
  const holdAt = (set: (wait: () => Promise<void>) => void): Promise<() => void> =>
    new Promise((resolve) => {
      const { promise, resolve: letGo } = Promise.withResolvers<void>();
      set(() => {
        resolve(letGo);
        return promise;
      });
    });
  const holdLoad = (): Promise<() => void> => holdAt((wait) => (atLoad = wait));
  const holdSave = (): Promise<() => void> => holdAt((wait) => (atSave = wait));
  try {
    await using one = await openFakeWorld(host, { wrapDriver });
    const vm = await one.hatch.vms.create(one.caller, {}, READY);
    await body({ ...one, vm, loads: () => loads, holdLoad, holdSave });
    await assertNothingLeft(one);
    for (const left of await one.hatch.vms.list(one.caller, {}, { limit: 100 }))
      await one.hatch.vms.delete(one.caller, left.id);
    await assertNothingLeft(one);
    assert.deepEqual(await one.hatch.snapshots.list(one.caller, {}, { limit: 10 }), []);
  } finally {
    await host.remove();
  }
}

async function refusal(call: Promise<unknown>): Promise<Failure> {
  const error: unknown = await call.then(
    () => assert.fail('was not refused'),
    (thrown: unknown) => thrown,
  );
  assert.ok(error instanceof Failure, String(error));
  return error;
}

test('two restores at once are one wake', () =>
  busy(async ({ hatch, caller, vm, loads }) => {
    await hatch.vms.snapshot(caller, vm.id, { keepRunning: false });
    const woken = await Promise.all([
      hatch.vms.restore(caller, vm.id, {}, READY),
      hatch.vms.restore(caller, vm.id, {}, READY),
      hatch.vms.start(caller, vm.id, READY).catch((error: unknown) => error),
    ]);
    assert.equal(woken[0].state, 'running');
    assert.equal(woken[1].state, 'running');
    assert.equal(loads(), 1);
  }));

test('a VM deleted while it wakes is gone with its snapshots, and the restore is told', () =>
  busy(async ({ hatch, caller, vm, holdLoad }) => {
    await hatch.vms.snapshot(caller, vm.id, { keepRunning: false });
    const reached = holdLoad();
    const woken = refusal(hatch.vms.restore(caller, vm.id, {}));
    const letGo = await reached;
    const deleted = hatch.vms.delete(caller, vm.id);
    letGo();
    await deleted;
    assert.match((await woken).message, /being deleted/);
    assert.deepEqual(await hatch.vms.list(caller, {}, { limit: 10 }), []);
  }));

test('a snapshot is not deleted while its VM wakes from it, nor while a copy of it is made', () =>
  busy(async ({ hatch, caller, vm, holdLoad }) => {
    const snapshot = await hatch.vms.snapshot(caller, vm.id, { keepRunning: false });
    assert.equal((await refusal(hatch.snapshots.delete(caller, snapshot.id))).code, 'in_use');
    let reached = holdLoad();
    const woken = hatch.vms.restore(caller, vm.id, {}, READY);
    let letGo = await reached;
    assert.match((await refusal(hatch.snapshots.delete(caller, snapshot.id))).code, /in_use|busy/);
    letGo();
    await woken;
    reached = holdLoad();
    const copied = hatch.vms.create(caller, { snapshotId: snapshot.id }, READY);
    letGo = await reached;
    const refused = await refusal(hatch.snapshots.delete(caller, snapshot.id));
    assert.equal(refused.code, 'busy');
    assert.match(refused.message, /is being copied; ask again/);
    letGo();
    assert.equal((await copied).state, 'running');
    await hatch.snapshots.delete(caller, snapshot.id);
  }));

test('a stop, a fork or another verb while a VM is saved is told it is busy; a second snapshot joins the first', () =>
  busy(async ({ hatch, caller, vm, holdSave }) => {
    const reached = holdSave();
    const saved = hatch.vms.snapshot(caller, vm.id, { keepRunning: true });
    const joined = hatch.vms.snapshot(caller, vm.id, { keepRunning: true });
    const letGo = await reached;
    for (const asked of [
      hatch.vms.stop(caller, vm.id, { graceSeconds: 0 }),
      hatch.vms.restore(caller, vm.id, {}),
      hatch.vms.reboot(caller, vm.id),
    ])
      assert.match((await refusal(asked)).message, /The VM is \w+; wait until that is done|VM .* is /);
    // A fork wants a copy of what is then: it is refused, or waits for its turn.
    const forked = hatch.vms
      .fork(caller, vm.id, { count: 1, keepRunning: true })
      .catch((error: unknown) => error);
    letGo();
    assert.equal((await saved).id, (await joined).id);
    const outcome = await forked;
    if (outcome instanceof Failure) assert.match(outcome.code, /busy|wrong_state|no_guest_agent/);
    else assert.ok(Array.isArray(outcome) && outcome.length === 1);
    assert.equal((await hatch.vms.get(caller, vm.id)).state, 'running');
  }));

test('a stop and a snapshot asked for at the same moment: one is done, the other told so', () =>
  busy(async ({ hatch, caller, vm }) => {
    const [stopped, saved] = await Promise.allSettled([
      hatch.vms.stop(caller, vm.id, { graceSeconds: 1 }),
      hatch.vms.snapshot(caller, vm.id, { keepRunning: false }),
    ]);
    assert.equal([stopped, saved].filter(({ status }) => status === 'fulfilled').length, 1);
    const { state, snapshotId } = await hatch.vms.get(caller, vm.id);
    assert.equal(state, stopped.status === 'fulfilled' ? 'stopped' : 'snapshotted');
    assert.equal(snapshotId === null, state === 'stopped');
  }));

test('a VM deleted while it is saved, or while it is forked, is gone whole', () =>
  busy(async ({ hatch, caller, vm, holdSave }) => {
    const reached = holdSave();
    const saved = refusal(hatch.vms.snapshot(caller, vm.id, { keepRunning: true }));
    const letGo = await reached;
    const deleted = hatch.vms.delete(caller, vm.id);
    letGo();
    await deleted;
    await saved;
    const other = await hatch.vms.create(caller, {}, READY);
    const forked = hatch.vms
      .fork(caller, other.id, { count: 2, keepRunning: true })
      .catch((error: unknown) => error);
    await hatch.vms.delete(caller, other.id).catch((error: unknown) => assert.ok(error instanceof Failure));
    await forked;
  }));
