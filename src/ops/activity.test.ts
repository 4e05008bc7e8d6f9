import assert from 'node:assert/strict';
import { test } from 'node:test';
import { FakeClock } from '../base/clock.ts';
import { newId } from '../base/ids.ts';
import { ActivityTracker } from './activity.ts';

test('a use is open until it ends, and its end is when the VM was last used', async () => {
  const clock = new FakeClock();
  const activity = new ActivityTracker({ clock });
  const vm = newId('vm');
  const from = clock.steady();
  const use = activity.begin(vm, 'ssh');
  await clock.advance(5000);
  use.payload();
  await clock.advance(5000);
  assert.deepEqual(activity.of(vm).open, [{ by: 'ssh', since: from, lastPayloadAt: from + 5000 }]);
  use.end();
  await clock.advance(5000);
  use.end();
  const { open, lastUsedAt } = activity.of(vm);
  assert.deepEqual(open, []);
  assert.equal(lastUsedAt, from + 10_000);
});

test('what was decided before a use, a lease or a wake is void: the version has gone up', () => {
  const activity = new ActivityTracker({ clock: new FakeClock() });
  const vm = newId('vm');
  const versions = [activity.of(vm).version];
  for (const happen of [
    () => activity.begin(vm, 'http'),
    () => activity.lease(vm, 1000),
    () => activity.touch(vm),
    () => activity.awake(vm),
    () => activity.answered(vm),
  ]) {
    happen();
    versions.push(activity.of(vm).version);
  }
  assert.deepEqual(
    versions.map((version, i) => version > (versions[i - 1] ?? -1)),
    [true, true, true, true, true, true],
  );
});

test('a lease holds for as long as was said last, and 0 ends it', () => {
  const clock = new FakeClock();
  const activity = new ActivityTracker({ clock });
  const vm = newId('vm');
  activity.lease(vm, 60_000);
  assert.equal(activity.of(vm).leasedUntil, clock.steady() + 60_000);
  activity.lease(vm, 1000);
  assert.equal(activity.of(vm).leasedUntil, clock.steady() + 1000);
  activity.lease(vm, 0);
  assert.equal(activity.of(vm).leasedUntil, null);
});

test('uses are told when they have ended, and until now while they are open; close ones are one', async () => {
  const clock = new FakeClock();
  const activity = new ActivityTracker({ clock });
  const vm = newId('vm');
  const start = clock.steady();
  const seen = (): unknown =>
    activity.drain(vm).map(({ by, from, until }) => [by, (from - start) / 1000, (until - start) / 1000]);
  const ssh = activity.begin(vm, 'ssh');
  for (let request = 0; request < 3; request++) {
    const use = activity.begin(vm, 'http');
    await clock.advance(10_000);
    use.end();
    await clock.advance(40_000);
  }
  activity.touch(vm);
  assert.deepEqual(seen(), [
    ['http', 0, 110],
    ['api', 150, 150],
    ['ssh', 0, 150],
  ]);
  ssh.end();
  activity.lease(vm, 60_000);
  await clock.advance(30_000);
  assert.deepEqual(seen(), [
    ['ssh', 0, 150],
    ['lease', 150, 180],
  ]);
  await clock.advance(60_000);
  assert.deepEqual(seen(), [['lease', 150, 210]]);
  assert.deepEqual(seen(), []);
});
