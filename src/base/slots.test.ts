import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Slots } from './slots.ts';

test('never more run at once than there are slots, and all run in order', async () => {
  const slots = new Slots(2);
  const begun: number[] = [];
  let running = 0;
  let most = 0;
  const results = await Promise.allSettled(
    Array.from({ length: 7 }, (_, i) =>
      slots.run(async () => {
        begun.push(i);
        most = Math.max(most, ++running);
        await new Promise((resolve) => setImmediate(resolve));
        running -= 1;
        if (i === 3) throw new Error('it failed');
        return i;
      }),
    ),
  );
  assert.deepEqual(begun, [0, 1, 2, 3, 4, 5, 6]);
  assert.equal(most, 2);
  assert.equal(results.filter((result) => result.status === 'rejected').length, 1);
});

test('who is told to stop while waiting leaves, and takes nobody’s turn', async () => {
  const slots = new Slots(1);
  const held = Promise.withResolvers<void>();
  const first = slots.run(() => held.promise);
  const why = new Error('enough');
  const stop = new AbortController();
  const second = slots.run(async () => assert.fail('it ran'), stop.signal);
  const third = slots.run(async () => 'third');
  stop.abort(why);
  await assert.rejects(second, why);
  await assert.rejects(
    slots.run(async () => assert.fail('it ran'), stop.signal),
    why,
  );
  held.resolve();
  await first;
  assert.equal(await third, 'third');
});
