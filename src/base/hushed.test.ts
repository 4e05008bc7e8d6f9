import assert from 'node:assert/strict';
import { test } from 'node:test';
import { allDone } from './all-done.ts';
import { Hushed } from './hushed.ts';

test('what comes again is told of once in a while, with how many came meanwhile', () => {
  const hushed = new Hushed<string>(1000);
  assert.deepEqual(
    [0, 1, 999, 1000, 1001, 5000].map((now) => hushed.times('a', now)),
    [1, 0, 0, 3, 0, 2],
  );
  assert.equal(hushed.times('b', 5001), 1, 'each key is told of by itself');
  assert.equal(hushed.times('a', 9000), 1);
  hushed.forget('a');
  assert.equal(hushed.times('a', 9001), 1);
});

test('all are waited for, and the first that failed is told of', async () => {
  await allDone([Promise.resolve(1), Promise.resolve(2)]);
  let ended = false;
  const slow = Promise.withResolvers<void>();
  const fails = Promise.reject(new Error('first'));
  const all = allDone([fails, slow.promise.then(() => (ended = true))]);
  setImmediate(slow.resolve);
  await assert.rejects(all, /first/);
  assert.equal(ended, true);
});
