import assert from 'node:assert/strict';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import type { VmId } from '../base/ids.ts';
import type { Store } from '../store/store.ts';
import { endFakeGuest } from '../vmm/fake/state.ts';
import { reconcile } from './reconcile.ts';
import { settle } from './recover.ts';
import { sleepVm } from './snapshot-vm.ts';
import {
  assertNothingLeft,
  makeHostFolder,
  openFakeWorld,
  over,
  type FakeHostFolder,
  type FakeWorld,
} from '../../test/support/fake-world.ts';

const READY = { until: 'ready', timeoutMs: 10_000 } as const;

async function say({ hatch, caller }: FakeWorld, id: VmId, command: string): Promise<string> {
  const exec = { command, cwd: null, env: {}, stdin: null, timeoutMs: 5000 };
  return (await hatch.vms.exec(caller, id, exec)).stdout.trim();
}

async function onHost(body: (host: FakeHostFolder) => Promise<void>): Promise<void> {
  const host = await makeHostFolder();
  try {
    await body(host);
  } finally {
    await host.remove();
  }
}

for (const qcow2 of [false, true]) {
  const how = qcow2 ? 'with an overlay' : 'with a copy of its disk';
  test(`a VM that is saved while it runs goes on in the same process, ${how}`, () =>
    onHost(async (host) => {
      await using one = await openFakeWorld(host, { qcow2 });
      const { world, hatch, caller } = one;
      const { id } = await hatch.vms.create(caller, {}, READY);
      const process = (await world.store.vms.get(id))?.process;
      await say(one, id, 'echo first > /run/word');
      const first = await hatch.vms.snapshot(caller, id, { name: 'first', keepRunning: true });
      await say(one, id, 'echo second > /run/word');
      const second = await hatch.vms.snapshot(caller, id, { name: 'second', keepRunning: true });
      await say(one, id, 'echo third > /run/word');
      const now = await world.store.vms.get(id);
      assert.deepEqual([now?.state, now?.process, now?.readyAt !== null], ['running', process, true]);
      assert.notEqual(now?.layerId, first.diskLayerId);
      assert.notEqual(first.diskLayerId, second.diskLayerId);
      await assertNothingLeft(one);
      await hatch.vms.stop(caller, id, { graceSeconds: 1 });
      for (const snapshot of ['first', 'second']) {
        await hatch.vms.restore(
          caller,
          id,
          { snapshot: (await hatch.snapshots.get(caller, snapshot)).id, discard: true },
          READY,
        );
        assert.equal(await say(one, id, 'cat /run/word'), snapshot);
        await hatch.vms.stop(caller, id, { graceSeconds: 1 });
      }
      await hatch.vms.start(caller, id, READY);
      await hatch.vms.delete(caller, id);
      await assertNothingLeft(one);
    }));
}

test('a disk that has become a long chain is made short: its VM goes to sleep for that save', () =>
  onHost(async (host) => {
    await using one = await openFakeWorld(host, { qcow2: true });
    const { world, hatch, caller } = one;
    const { id } = await hatch.vms.create(caller, {}, READY);
    const process = (await world.store.vms.get(id))?.process;
    let saves = 0;
    while ((await world.store.vms.get(id))?.process?.pid === process?.pid) {
      assert.ok(++saves < 20, 'it never slept');
      const { id: made } = await hatch.vms.snapshot(caller, id, { keepRunning: true });
      await hatch.snapshots.delete(caller, made);
    }
    assert.equal(saves, 8);
    const layer = (await world.store.vms.get(id))?.layerId;
    assert.ok(layer && (await world.store.layers.chain(layer)).length < 3);
  }));

/** Ends a world where the journal says that a step is done: as a kill of the daemon would. */
async function killedAfter(
  host: FakeHostFolder,
  step: string,
  phase: 'begun' | 'done',
  ask: (world: FakeWorld, id: VmId) => Promise<unknown>,
  prepare: (world: FakeWorld, id: VmId) => Promise<unknown> = async () => undefined,
): Promise<VmId> {
  const { promise: reached, resolve } = Promise.withResolvers<void>();
  let armed = false;
  const wrapStore = (store: Store): Store =>
    over(store, {
      operations: over(store.operations, {
        record: async (id, name, what, ended = []) => {
          const row = await store.operations.record(id, name, what, ended);
          const written = [...ended, { step: name, phase: what }];
          if (!armed || !written.some((one) => one.step === step && one.phase === phase)) return row;
          resolve();
          return new Promise(() => undefined);
        },
      }),
    });
  const doomed = await openFakeWorld(host, { qcow2: true, wrapStore });
  const { id } = await doomed.hatch.vms.create(doomed.caller, {}, READY);
  await prepare(doomed, id);
  armed = true;
  ask(doomed, id).catch(() => undefined);
  await reached;
  doomed.world.fleet.onExit = () => undefined;
  doomed.world.fleet.drop(id);
  await doomed.world.archive.close();
  await doomed.world.store.close();
  return id;
}

const CRASH = { kind: 'crashed', exitCode: null, signal: 'SIGKILL', message: 'killed' } as const;

for (const [step, phase] of [
  ['disk', 'done'],
  ['save', 'done'],
] as const) {
  test(`killed ${phase === 'done' ? 'after' : 'before'} the step "${step}" with its hypervisor, a VM starts again on all it wrote`, () =>
    onHost(async (host) => {
      const id = await killedAfter(host, step, phase, ({ hatch, caller }, vm) =>
        hatch.vms.snapshot(caller, vm, { keepRunning: true }),
      );
      await endFakeGuest(join(host.vms, id), CRASH);
      await using next = await openFakeWorld(host, { qcow2: true });
      await settle(next.world);
      await reconcile(next.world);
      const lost = await next.hatch.vms.get(next.caller, id);
      assert.deepEqual([lost.state, lost.stateReason?.code], ['error', 'lost']);
      assert.deepEqual(await next.world.store.snapshots.ofVm(id), []);
      await assertNothingLeft(next);
      await next.hatch.vms.start(next.caller, id, READY);
      await next.hatch.vms.delete(next.caller, id);
      await assertNothingLeft(next);
      assert.deepEqual(await readdir(next.world.settings.layersFolder), []);
    }));
}

test('killed with its hypervisor when its snapshot was given up, a VM that woke in its memory is lost, its disk whole', () =>
  onHost(async (host) => {
    const id = await killedAfter(
      host,
      'running',
      'done',
      ({ hatch, caller }, vm) => hatch.vms.restore(caller, vm, {}),
      ({ world }, vm) => sleepVm(world, { id: vm }),
    );
    await endFakeGuest(join(host.vms, id), CRASH);
    await using next = await openFakeWorld(host, { qcow2: true });
    await settle(next.world);
    await reconcile(next.world);
    const lost = await next.hatch.vms.get(next.caller, id);
    assert.deepEqual([lost.state, lost.stateReason?.code], ['error', 'lost']);
    await assertNothingLeft(next);
    await next.hatch.vms.start(next.caller, id, READY);
    await assertNothingLeft(next);
  }));
