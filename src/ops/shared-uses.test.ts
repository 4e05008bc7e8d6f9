import assert from 'node:assert/strict';
import { once } from 'node:events';
import { randomInt } from 'node:crypto';
import { test } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { FakeClock, systemClock } from '../base/clock.ts';
import { newId } from '../base/ids.ts';
import { ActivityTracker, Wanted } from './activity.ts';
import { UsesOfThread } from './shared-uses.ts';

function opened(): {
  readonly clock: FakeClock;
  readonly activity: ActivityTracker;
  readonly vm: ReturnType<typeof newId<'vm'>>;
  readonly shared: ReturnType<ActivityTracker['share']>;
  readonly thread: UsesOfThread;
} {
  const clock = new FakeClock();
  const activity = new ActivityTracker({ clock });
  const vm = newId('vm');
  const shared = activity.share(vm);
  shared.open();
  return { clock, activity, vm, shared, thread: new UsesOfThread(shared.memory, clock) };
}

test('a use that a thread begins is one of its VM, until it ends', async () => {
  const { clock, activity, vm, thread } = opened();
  const before = activity.of(vm);
  await clock.advance(1000);
  const [one, other] = [thread.begin('http') ?? assert.fail(), thread.begin('upgrade') ?? assert.fail()];
  const from = clock.steady();
  await clock.advance(5000);
  other.payload();
  assert.deepEqual(activity.of(vm).open, [
    { by: 'http', since: from, lastPayloadAt: from },
    { by: 'upgrade', since: from, lastPayloadAt: from + 5000 },
  ]);
  assert.ok(activity.of(vm).version > before.version);
  one.end();
  one.end();
  assert.deepEqual(
    activity.of(vm).open.map(({ by }) => by),
    ['upgrade'],
  );
  other.end();
  await clock.advance(5000);
  assert.deepEqual([activity.of(vm).open, activity.of(vm).lastUsedAt], [[], from + 5000]);
});

test('a connection is never seen open without a payload that is as new as itself', async () => {
  const { clock, activity, vm, shared } = opened();
  let seen: readonly number[] = [];
  const look = (): void => void (seen = activity.of(vm).open.map(({ lastPayloadAt }) => lastPayloadAt));
  // The tracker looks in the middle of a begin, wherever the thread stands still in it.
  const thread = new UsesOfThread(shared.memory, { steady: () => (look(), clock.steady()) });
  thread.begin('upgrade')?.end();
  await clock.advance(3_600_000);
  const use = thread.begin('upgrade');
  assert.ok(
    seen.every((at) => at === clock.steady()),
    String(seen),
  );
  use?.end();
});

test('its times are drained once, and those that are open until now', async () => {
  const { clock, activity, vm, thread } = opened();
  const from = clock.steady();
  thread.begin('http')?.end();
  await clock.advance(10);
  const long = thread.begin('http');
  await clock.advance(10);
  assert.deepEqual(activity.drain(vm), [{ by: 'http', from, until: from + 20 }]);
  await clock.advance(10);
  long?.end();
  await clock.advance(10);
  assert.deepEqual(activity.drain(vm), [{ by: 'http', from: from + 20, until: from + 30 }]);
  assert.deepEqual(activity.drain(vm), []);
});

test('none begins once the VM falls asleep, an operation begins or its guest is over; one that began before makes it wanted', () => {
  const { activity, vm, shared, thread } = opened();
  const { version } = activity.of(vm);
  const falling = activity.fallAsleep(vm, version);
  assert.equal(thread.begin('http'), undefined);
  assert.doesNotThrow(() => falling.seal());
  falling.end();
  assert.equal(activity.of(vm).open.length, 0, 'what was refused is not open');

  shared.open();
  const decided = activity.of(vm).version;
  thread.begin('http')?.end();
  assert.throws(() => activity.fallAsleep(vm, decided).seal(), Wanted);

  shared.open();
  activity.closeShared(vm);
  assert.equal(thread.begin('http'), undefined);
  shared.retire();
  shared.open();
  assert.equal(thread.isOpen, false, 'it stays closed');
});

test('what came of one that is over stays known, and the uses of a thread that is gone are over', async () => {
  const { clock, activity, vm, shared, thread } = opened();
  const from = clock.steady();
  assert.ok(thread.begin('http'));
  const { version } = activity.of(vm);
  await clock.advance(10);
  shared.retire();
  assert.equal(activity.of(vm).open.length, 1, 'its thread still has it');
  shared.abandon();
  const after = activity.of(vm);
  assert.deepEqual([after.version, after.open, after.lastUsedAt], [version, [], from]);
  assert.deepEqual(activity.drain(vm), [{ by: 'http', from, until: from }]);
});

test('of a thread that comes and a VM that falls asleep at the same moment, one sees the other', async () => {
  const activity = new ActivityTracker({ clock: systemClock });
  const vm = newId('vm');
  const shared = activity.share(vm);
  // How often it came in, how often it was refused, whether it is to end.
  const seen = new Int32Array(new SharedArrayBuffer(12));
  const program = `
    const { workerData: [memory, counts, module] } = require('node:worker_threads');
    import(module).then(({ UsesOfThread }) => {
      const uses = new UsesOfThread(memory, performance.now ? { steady: () => performance.now() } : undefined);
      const seen = new Int32Array(counts);
      const spin = (n) => { for (let i = 0; i < n; i++) Atomics.load(seen, 2); };
      while (Atomics.load(seen, 2) === 0) {
        const use = uses.begin('http');
        if (use) Atomics.add(seen, 0, 1);
        else Atomics.add(seen, 1, 1);
        spin(Math.random() * 200);
        use?.end();
        spin(Math.random() * 5000);
      }
    });`;
  const module = new URL('./shared-uses.ts', import.meta.url).href;
  const worker = new Worker(program, { eval: true, workerData: [shared.memory, seen.buffer, module] });
  const [came, refused, end] = [0, 1, 2];
  const within = AbortSignal.timeout(60_000);
  let [slept, wanted] = [0, 0];
  try {
    while (slept < 600 || wanted < 20) {
      within.throwIfAborted();
      shared.open();
      const { version, open } = activity.of(vm);
      if (open.length > 0) continue;
      for (let i = randomInt(3000); i > 0; i--) Atomics.load(seen, end);
      const falling = activity.fallAsleep(vm, version);
      const before = Atomics.load(seen, came);
      if (falling.signal.aborted) wanted++;
      else {
        const tries = Atomics.load(seen, refused);
        while (Atomics.load(seen, refused) < tries + 2) {
          within.throwIfAborted();
          await setImmediate();
        }
        assert.equal(Atomics.load(seen, came), before, 'it came to a VM that sleeps');
        // One that is just being refused is counted for that moment.
        while (activity.of(vm).open.length > 0) within.throwIfAborted();
        slept++;
      }
      falling.end();
    }
  } finally {
    Atomics.store(seen, end, 1);
    await once(worker, 'exit');
  }
});
