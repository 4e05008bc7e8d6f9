import assert from 'node:assert/strict';
import { test } from 'node:test';
import { FakeClock } from '../../base/clock.ts';
import { VmmError } from '../driver.ts';
import { isNoSpace, NoSpace } from './no-space.ts';

const timestamp = { seconds: 1, microseconds: 0 };

/** A guest whose QEMU answers `cont` as told. */
function guest(cont: () => Promise<boolean>): {
  readonly noSpace: NoSpace;
  readonly clock: FakeClock;
  readonly heard: readonly boolean[];
  readonly end: () => void;
} {
  const clock = new FakeClock();
  const ended = new AbortController();
  const noSpace = new NoSpace(cont, ended.signal, clock);
  const heard: boolean[] = [];
  noSpace.listen((lacking) => heard.push(lacking));
  return { noSpace, clock, heard, end: () => ended.abort(new Error('QEMU has ended')) };
}

/** Lets time pass a second at a time, as the one who tries again sleeps. */
async function pass(clock: FakeClock, seconds: number): Promise<void> {
  for (let i = 0; i < seconds; i++) {
    await clock.advance(1000);
    await new Promise((resolve) => setImmediate(resolve));
  }
}

test('only a write without room that stopped the guest is one', () => {
  const data = { action: 'stop', nospace: true, operation: 'write', device: 'disk0' };
  assert.equal(isNoSpace({ event: 'BLOCK_IO_ERROR', data, timestamp }), true);
  for (const other of [{ action: 'report' }, { nospace: false }])
    assert.equal(isNoSpace({ event: 'BLOCK_IO_ERROR', data: { ...data, ...other }, timestamp }), false);
  assert.equal(isNoSpace({ event: 'STOP', data: {}, timestamp }), false);
});

test('a guest is let try again every five seconds, and has room once it has gone on for ten', async () => {
  let tries = 0;
  let room = false;
  const { noSpace, clock, heard } = guest(async () => {
    tries++;
    if (!room) queueMicrotask(() => noSpace.stopped());
    return true;
  });
  noSpace.stopped();
  noSpace.stopped();
  assert.deepEqual(heard, [true]);
  await pass(clock, 4);
  assert.equal(tries, 0);
  await pass(clock, 30);
  assert.ok(tries >= 4 && tries <= 7, `${tries} tries`);
  assert.deepEqual(heard, [true], 'it is told once');
  room = true;
  await pass(clock, 6);
  const then = tries;
  await pass(clock, 3);
  assert.deepEqual(heard, [true]);
  await pass(clock, 10);
  assert.deepEqual([heard, tries], [[true, false], then]);
  assert.equal(clock.sleepers, 0);
  noSpace.stopped();
  assert.deepEqual(heard, [true, false, true]);
});

test('one that is paused, or whose QEMU does not answer, is tried later, and one that has ended no more', async () => {
  const answers = [false, new VmmError('no answer', { kind: 'timeout' }), false] as const;
  let tries = 0;
  const { noSpace, clock, heard, end } = guest(async () => {
    const answer = answers[tries++ % answers.length] ?? false;
    if (answer instanceof VmmError) throw answer;
    return answer;
  });
  noSpace.stopped();
  await pass(clock, 31);
  assert.equal(tries, 6);
  end();
  await pass(clock, 31);
  assert.equal(tries, 6);
  noSpace.stopped();
  assert.deepEqual([heard, clock.sleepers], [[true], 0]);
});

test('who listens late hears that it stands still already', () => {
  const noSpace = new NoSpace(async () => true, AbortSignal.abort(), new FakeClock());
  const other = new NoSpace(async () => true, new AbortController().signal, new FakeClock());
  const heard: boolean[] = [];
  for (const one of [noSpace, other]) {
    one.stopped();
    one.listen((lacking) => heard.push(lacking));
  }
  assert.deepEqual(heard, [true], 'of the one that has not ended');
});
