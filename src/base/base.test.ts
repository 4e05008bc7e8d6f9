import assert from 'node:assert/strict';
import { test } from 'node:test';
import { FakeClock } from './clock.ts';
import { deadline, DeadlineExceeded } from './deadline.ts';
import { looksLikeId, newId, parseId, parseImageId, parseTemplateId } from './ids.ts';
import { KeyedLock } from './keyed-lock.ts';
import { SingleFlight } from './single-flight.ts';
import { until } from './until.ts';

test('ids carry their kind and parse back only as that kind', () => {
  const id = newId('vm');
  assert.match(id, /^vm-[a-z0-9]{12}$/);
  assert.equal(parseId('vm', id), id);
  assert.equal(parseId('key', id), undefined);
  assert.equal(parseId('vm', id + '\n'), undefined);
  assert.equal(parseId('vm', 'vm-ABCDEFGHIJKL'), undefined);
  assert.equal(parseImageId('img-default'), 'img-default');
  assert.equal(parseImageId('img-'), undefined);
  assert.equal(parseTemplateId('tpl-a-'), undefined);
  assert.equal(looksLikeId('vm-web'), true);
  assert.equal(looksLikeId('web'), false);
});

test('a fake clock wakes sleepers in the order of their time', async () => {
  const clock = new FakeClock(0);
  const woken: number[] = [];
  for (const ms of [30, 10, 20]) void clock.sleep(ms).then(() => woken.push(ms));
  await clock.advance(25);
  assert.deepEqual(woken, [10, 20]);
  assert.equal(clock.sleepers, 1);
});

test('an aborted sleeper is woken with the reason', async () => {
  const clock = new FakeClock(0);
  const stop = new AbortController();
  const asleep = clock.sleep(1000, stop.signal);
  stop.abort(new Error('enough'));
  await assert.rejects(asleep, /enough/);
  assert.equal(clock.sleepers, 0);
});

test('a deadline names what was too slow', async () => {
  await assert.rejects(
    deadline('the guest', 5, () => new Promise(() => undefined)),
    (error: unknown) =>
      error instanceof DeadlineExceeded && /the guest took longer than 5 ms/.test(error.message),
  );
});

test('a keyed lock runs one at a time per key, also after a failure, and forgets the key', async () => {
  const lock = new KeyedLock();
  const seen: string[] = [];
  const first = lock.run('a', async () => {
    seen.push('a1');
    await new Promise((resolve) => setImmediate(resolve));
    seen.push('a1 done');
    throw new Error('broken');
  });
  const second = lock.run('a', async () => seen.push('a2'));
  await assert.rejects(first, /broken/);
  await second;
  assert.deepEqual(seen, ['a1', 'a1 done', 'a2']);
  assert.equal(lock.size, 0);
});

test('single flight joins callers and starts anew afterwards', async () => {
  const flight = new SingleFlight<number>();
  let runs = 0;
  const work = async (): Promise<number> => ++runs;
  assert.deepEqual(await Promise.all([flight.run('x', work), flight.run('x', work)]), [1, 1]);
  assert.equal(await flight.run('x', work), 2);
});

test('until waits longer and longer up to its most', async () => {
  const clock = new FakeClock(0);
  const times: number[] = [];
  const found = until(
    { clock, signal: new AbortController().signal },
    () => {
      times.push(clock.now());
      return times.length === 5 ? 'there' : undefined;
    },
    { firstMs: 10, mostMs: 40 },
  );
  for (let i = 0; i < 5; i++) await clock.advance(40);
  assert.equal(await found, 'there');
  assert.equal(times.length, 5);
});
