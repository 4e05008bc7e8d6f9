import assert from 'node:assert/strict';
import { test } from 'node:test';
import { FakeClock, systemClock } from '../base/clock.ts';
import { Failure } from '../model/failure.ts';
import type { Vm } from '../model/vm.ts';
import { simulateIdle } from './simulate-idle.ts';
import { Waker } from './waker.ts';
import {
  makeHostFolder,
  openFakeWorld,
  type FakeHostFolder,
  type FakeWorld,
} from '../../test/support/fake-world.ts';

const READY = { until: 'ready', timeoutMs: 10_000 } as const;
const HOUR_MS = 3_600_000;
const { signal } = new AbortController();

interface Awake extends FakeWorld {
  readonly clock: FakeClock;
  readonly vm: Vm;
  readonly host: FakeHostFolder;
}

async function awake(body: (one: Awake) => Promise<void>): Promise<void> {
  const host = await makeHostFolder();
  try {
    const clock = new FakeClock();
    await using fake = await openFakeWorld(host, { activityClock: clock });
    const vm = await fake.hatch.vms.create(fake.caller, {}, READY);
    await body({ ...fake, clock, vm, host });
  } finally {
    await host.remove();
  }
}

const isFailure = (code: Failure['code'], words: RegExp) => (error: unknown) =>
  error instanceof Failure && error.code === code && words.test(error.message);

test('a lease keeps a VM awake until it is over, is renewed and ended, and wakes nothing', () =>
  awake(async ({ hatch, caller, vm, clock, sleeper }) => {
    const state = async (): Promise<string> => (await hatch.vms.get(caller, vm.id)).state;
    const { until } = await hatch.idle.lease(caller, vm.id, 3600);
    assert.ok(until !== null && Math.abs(until - systemClock.now() - HOUR_MS) < 60_000);
    await clock.advance(HOUR_MS - 1);
    await sleeper.round();
    assert.equal(await state(), 'running');
    const { now } = await hatch.idle.why(caller, vm.id);
    assert.deepEqual([now.is, now.reason], ['awake', 'leased']);
    await hatch.idle.lease(caller, vm.id, 3600);
    await clock.advance(HOUR_MS);
    await sleeper.round();
    assert.equal(await state(), 'running', 'its end counts as its last use');
    await hatch.idle.lease(caller, vm.id, 60);
    assert.equal((await hatch.idle.lease(caller, vm.id, 0)).until, null);
    await clock.advance(HOUR_MS);
    await sleeper.round();
    assert.equal(await state(), 'snapshotted');
    await assert.rejects(
      hatch.idle.lease(caller, vm.id, 60),
      isFailure('wrong_state', /is snapshotted; .*Start it first/),
    );
    for (const seconds of [-1, 3601, 1.5])
      await assert.rejects(
        hatch.idle.lease(caller, vm.id, seconds),
        isFailure('invalid_request', /"seconds" must be 0 to 3600/),
      );
  }));

test('a lease outlives the daemon', () =>
  awake(async ({ hatch, caller, vm, clock, host, world }) => {
    await hatch.idle.lease(caller, vm.id, 3600);
    await clock.advance(1000);
    await world.flights.close();
    await world.fleet.releaseAll();
    const again = new FakeClock();
    await using next = await openFakeWorld(host, { activityClock: again });
    await again.advance(HOUR_MS - 60_000);
    await next.sleeper.round();
    assert.equal((await next.hatch.vms.get(next.caller, vm.id)).state, 'running');
    assert.equal((await next.hatch.idle.why(next.caller, vm.id)).now.reason, 'leased');
    await again.advance(HOUR_MS);
    await next.sleeper.round();
    assert.equal((await next.hatch.vms.get(next.caller, vm.id)).state, 'snapshotted');
  }));

test('why says what keeps a VM awake and until when, what happened to it, and what its sleep saved', () =>
  awake(async ({ hatch, caller, vm, clock, sleeper, world }) => {
    const why = () => hatch.idle.why(caller, vm.id);
    const before = world.activity.of(vm.id);
    const first = await why();
    assert.deepEqual([first.now.is, first.now.reason, first.events], ['awake', 'used', []]);
    assert.match(first.now.message, /^It was last used 0 s ago, and is idle after 2700 s: in 2700 s\.$/);
    assert.ok(Math.abs((first.now.until ?? 0) - systemClock.now() - 2_700_000) < 60_000);
    assert.deepEqual(world.activity.of(vm.id), before, 'asking is no use');
    const use = world.activity.begin(vm.id, 'upgrade');
    assert.equal((await why()).now.message, 'It is in use by a WebSocket or another upgraded connection.');
    use.end();
    await clock.advance(HOUR_MS);
    assert.equal((await why()).now.is, 'idle');
    await sleeper.round();
    const asleep = await why();
    assert.deepEqual([asleep.now.is, asleep.asleep.times], ['asleep', 1]);
    const waker = new Waker(world);
    const visitor = { by: 'http', from: '203.0.113.9' } as const;
    await Promise.all([waker.wake(vm.id, visitor, signal), waker.wake(vm.id, visitor, signal)]);
    await hatch.vms.snapshot(caller, vm.id, { keepRunning: false });
    await hatch.vms.start(caller, vm.id, READY);
    const { events, waits, now } = await why();
    assert.deepEqual(
      events.map(({ kind, data }) => [kind, data['reason'] ?? data['by']]),
      [
        ['vm.woken', 'api'],
        ['vm.slept', 'asked'],
        ['vm.woken', 'http'],
        ['vm.slept', 'idle'],
      ],
    );
    assert.deepEqual([waits.wakes, waits.visitors], [2, 3]);
    assert.ok(waits.meanMs !== null && waits.longestMs !== null && waits.longestMs >= waits.meanMs);
    assert.equal(now.reason, 'used');
    const { asleep: sum } = await why();
    assert.equal(sum.times, 2);
    assert.ok(Math.abs(sum.gibHours - (sum.ms / HOUR_MS) * 0.5) < 1e-9);
    await hatch.vms.stop(caller, vm.id, { graceSeconds: 0 });
    assert.equal((await why()).now.is, 'off');
  }));

test('that somebody does not wake a VM is told with the rest, once for many', () =>
  awake(async ({ hatch, caller, vm }) => {
    const command = { command: 'true', cwd: null, env: {}, stdin: null, timeoutMs: 1000 } as const;
    const visitor = { by: 'exec', from: '203.0.113.9' } as const;
    await hatch.vms.stop(caller, vm.id, { graceSeconds: 0 });
    for (let knock = 0; knock < 3; knock++)
      await assert.rejects(hatch.vms.exec(caller, vm.id, command, visitor));
    const { events } = await hatch.idle.why(caller, vm.id);
    assert.deepEqual(
      events.map(({ kind, message }) => [kind, message]),
      [
        [
          'vm.wake_refused',
          `Not woken by exec from 203.0.113.9: VM ${vm.id} is stopped, and only a start by its owner brings it up.`,
        ],
      ],
    );
  }));

test('what the sleeper writes down of uses is what another timeout is simulated with', () =>
  awake(async ({ hatch, caller, vm, sleeper, world }) => {
    const use = world.activity.begin(vm.id, 'http');
    await sleeper.round();
    use.end();
    const [stored] = await world.store.history.uses(vm.id, 0);
    assert.equal(stored?.by, 'http');
    assert.ok(Math.abs(stored.until - systemClock.now()) < 60_000);
    const hour = (at: number): number => vm.createdAt + at * HOUR_MS;
    await world.store.history.addUses([{ vmId: vm.id, by: 'ssh', from: hour(3), until: hour(4) }], 60_000);
    const later = { ...world, clock: { ...systemClock, now: () => hour(10) } };
    const [one] = await simulateIdle(later, caller, { timeoutSeconds: 3600 });
    assert.deepEqual([one?.vm.id, one?.from, one?.until], [vm.id, hour(0), hour(10)]);
    assert.deepEqual([one?.was.times, one?.would.times, one?.would.wakes], [0, 2, 1]);
    // From the first hour to the third, and from the fifth on; half a GiB of memory.
    assert.ok(Math.abs((one?.would.gibHours ?? 0) - (2 + 5) / 2) < 0.05);
    const [long] = await simulateIdle(later, caller, { timeoutSeconds: 36_000, vm: vm.id });
    assert.deepEqual([long?.would.times, long?.would.ms], [0, 0]);
    await assert.rejects(
      hatch.idle.simulate(caller, { timeoutSeconds: 1, vm: 'nobody' }),
      isFailure('not_found', /nobody/),
    );
  }));
