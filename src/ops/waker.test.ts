import assert from 'node:assert/strict';
import { test } from 'node:test';
import { FakeClock } from '../base/clock.ts';
import { newId } from '../base/ids.ts';
import { Failure } from '../model/failure.ts';
import type { Vm } from '../model/vm.ts';
import { VmmError, type Driver } from '../vmm/driver.ts';
import { makeHostFolder, openFakeWorld, over, type FakeWorld } from '../../test/support/fake-world.ts';
import type { Visitor } from './hatch.ts';
import { MOST_WAITING, Waker } from './waker.ts';

const READY = { until: 'ready', timeoutMs: 10_000 } as const;
const VISITOR: Visitor = { by: 'http', from: '203.0.113.9' };
const { signal } = new AbortController();

interface Asleep extends FakeWorld {
  readonly vm: Vm;
  readonly waker: Waker;
  readonly clock: FakeClock;
  readonly loads: () => number;
  /** What happens at each load from now on. */
  readonly atLoad: (work: () => Promise<void>) => void;
}

/** A VM that sleeps, and a waker with a clock of its own. */
async function asleep(body: (one: Asleep) => Promise<void>): Promise<void> {
  const host = await makeHostFolder();
  let loads = 0;
  let work = async (): Promise<void> => undefined;
  const wrapDriver = (driver: Driver): Driver =>
    over(driver, {
      load: async (...how) => {
        loads++;
        await work();
        return driver.load(...how);
      },
    });
  const fake = await openFakeWorld(host, { wrapDriver });
  try {
    const vm = await fake.hatch.vms.create(fake.caller, {}, READY);
    await fake.hatch.vms.snapshot(fake.caller, vm.id, { keepRunning: false });
    loads = 0;
    const clock = new FakeClock();
    const waker = new Waker({ ...fake.world, clock });
    await body({ ...fake, vm, waker, clock, loads: () => loads, atLoad: (next) => (work = next) });
  } finally {
    await fake.close();
    await host.remove();
  }
}

function isFailure(code: Failure['code'], words: RegExp): (error: unknown) => boolean {
  return (error) => error instanceof Failure && error.code === code && words.test(error.message);
}

test('however many touch a sleeping VM, it is woken once for all, and one that runs is not waited for', async () => {
  await asleep(async ({ waker, vm, loads, hatch, caller, world }) => {
    await Promise.all(Array.from({ length: MOST_WAITING.vm }, () => waker.wake(vm.id, VISITOR, signal)));
    assert.equal(loads(), 1);
    assert.equal((await hatch.vms.get(caller, vm.id)).state, 'running');
    assert.equal(waker.waiting, 0);
    assert.equal(await waker.wake(vm.id, VISITOR, signal), 0);
    const events = await world.store.events.list({ vmId: vm.id }, { limit: 100 });
    const woken = events.filter(({ kind }) => kind === 'vm.woken');
    assert.deepEqual(
      woken.map(({ message, data }) => [message, data['was'], data['by']]),
      [['Woken by http from 203.0.113.9.', 'snapshotted', 'http']],
    );
  });
});

test('so many may wait and no more, and who goes away leaves the wake to the others', async () => {
  await asleep(async ({ waker, vm, atLoad, hatch, caller }) => {
    const { promise: held, resolve: letGo } = Promise.withResolvers<void>();
    atLoad(() => held);
    const leaving = new AbortController();
    const gone = waker.wake(vm.id, VISITOR, leaving.signal);
    const others = Array.from({ length: MOST_WAITING.vm - 1 }, () => waker.wake(vm.id, VISITOR, signal));
    while (waker.waiting < MOST_WAITING.vm) await new Promise((resolve) => setImmediate(resolve));
    await assert.rejects(
      waker.wake(vm.id, VISITOR, signal),
      isFailure('unavailable', /Too many wait for this VM/),
    );
    leaving.abort(new Error('hung up'));
    await assert.rejects(gone, /hung up/);
    const another = waker.wake(vm.id, VISITOR, signal);
    letGo();
    await Promise.all([...others, another]);
    assert.equal((await hatch.vms.get(caller, vm.id)).state, 'running');
    assert.equal(waker.waiting, 0);
  });
});

test('after a wake that failed a VM is left alone, longer each time, until one works', async () => {
  await asleep(async ({ waker, vm, atLoad, clock, loads, hatch, caller }) => {
    atLoad(() => Promise.reject(new VmmError('no memory left')));
    for (const seconds of [1, 2, 4, 8, 16, 32, 60, 60]) {
      await assert.rejects(waker.wake(vm.id, VISITOR, signal), isFailure('vmm_failed', /no memory left/));
      const before = loads();
      await assert.rejects(waker.wake(vm.id, VISITOR, signal), (error) => {
        assert.ok(error instanceof Failure && error.code === 'unavailable', String(error));
        assert.equal(error.details['retry_after_seconds'], seconds);
        return error.message.includes('no memory left');
      });
      assert.equal(loads(), before, 'nothing was tried');
      await clock.advance(seconds * 1000);
    }
    assert.equal((await hatch.vms.get(caller, vm.id)).state, 'snapshotted', 'it sleeps as before');
    atLoad(async () => undefined);
    await waker.wake(vm.id, VISITOR, signal);
    await hatch.vms.snapshot(caller, vm.id, { keepRunning: false });
    atLoad(() => Promise.reject(new VmmError('no memory left')));
    await assert.rejects(waker.wake(vm.id, VISITOR, signal));
    await clock.advance(1000);
    await assert.rejects(waker.wake(vm.id, VISITOR, signal), isFailure('vmm_failed', /no memory/));
  });
});

test('a VM that is left alone after a failure is so no longer, nor shorter, when the time of day is set', async () => {
  await asleep(async ({ waker, vm, atLoad, clock, loads }) => {
    atLoad(() => Promise.reject(new VmmError('no memory left')));
    await assert.rejects(waker.wake(vm.id, VISITOR, signal), isFailure('vmm_failed', /no memory left/));
    const before = loads();
    for (const jump of [24 * 3_600_000, -48 * 3_600_000]) {
      clock.jump(jump);
      await assert.rejects(waker.wake(vm.id, VISITOR, signal), isFailure('unavailable', /no memory left/));
    }
    assert.equal(loads(), before, 'nothing was tried');
    atLoad(async () => undefined);
    await clock.advance(1000);
    await waker.wake(vm.id, VISITOR, signal);
  });
});

test('a VM that falls asleep is woken when it sleeps; one that a person stopped, and one that is not there, are not', async () => {
  await asleep(async ({ waker, vm, hatch, caller, loads }) => {
    await waker.wake(vm.id, VISITOR, signal);
    const saving = hatch.vms.snapshot(caller, vm.id, { keepRunning: false });
    while ((await hatch.vms.get(caller, vm.id)).operation === null)
      await new Promise((resolve) => setImmediate(resolve));
    await waker.wake(vm.id, VISITOR, signal);
    await saving;
    assert.equal((await hatch.vms.get(caller, vm.id)).state, 'running');
    assert.equal(loads(), 2);
    await hatch.vms.stop(caller, vm.id, { graceSeconds: 0 });
    await assert.rejects(
      waker.wake(vm.id, VISITOR, signal),
      isFailure('wrong_state', /only a start by its owner/),
    );
    await assert.rejects(waker.wake(newId('vm'), VISITOR, signal), isFailure('not_found', /There is no vm/));
  });
});

test('a command wakes nothing, unless it is told to: then the VM is woken for it, by one that comes with others', async () => {
  await asleep(async ({ vm, hatch, caller, loads }) => {
    const command = { command: 'true', cwd: null, env: {}, stdin: null, timeoutMs: 1000 } as const;
    await assert.rejects(
      hatch.vms.exec(caller, vm.id, command),
      isFailure('wrong_state', /is snapshotted; .* "wake=true" wakes it/),
    );
    assert.equal(loads(), 0);
    const visitor: Visitor = { by: 'exec', from: '127.0.0.1' };
    const results = await Promise.all(
      Array.from({ length: 5 }, () => hatch.vms.exec(caller, vm.id, command, visitor)),
    );
    assert.deepEqual(
      results.map(({ exitCode }) => exitCode),
      [0, 0, 0, 0, 0],
    );
    assert.equal(loads(), 1);
  });
});
