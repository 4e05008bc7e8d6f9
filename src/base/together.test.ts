import assert from 'node:assert/strict';
import { test } from 'node:test';
import { KeyedLock } from './keyed-lock.ts';
import { Together } from './together.ts';

function rounds(work: (items: readonly string[]) => Promise<void>): {
  readonly together: Together<string>;
  readonly lock: KeyedLock;
} {
  const lock = new KeyedLock();
  return { lock, together: new Together((round) => lock.run('one', round), work) };
}

test('who comes while another is at work shares the next round', async () => {
  const seen: (readonly string[])[] = [];
  const first = Promise.withResolvers<void>();
  const { together } = rounds(async (items) => {
    seen.push(items);
    if (seen.length === 1) await first.promise;
  });
  const all = [together.do('a')];
  await new Promise((resolve) => setImmediate(resolve));
  all.push(together.do('b'), together.do('c'), together.do('d'));
  first.resolve();
  await Promise.all(all);
  assert.deepEqual(seen, [['a'], ['b', 'c', 'd']]);
  await together.do('e');
  assert.deepEqual(seen.at(-1), ['e']);
});

test('a round that fails is done one by one, and only who is at fault is told', async () => {
  const seen: (readonly string[])[] = [];
  const { together, lock } = rounds(async (items) => {
    seen.push(items);
    if (items.includes('bad')) throw new Error(`not ${items.join()}`);
  });
  const before = Promise.withResolvers<void>();
  const held = lock.run('one', () => before.promise);
  const results = Promise.allSettled(['a', 'bad', 'c'].map((item) => together.do(item)));
  before.resolve();
  await held;
  assert.deepEqual(
    (await results).map((one) => (one.status === 'fulfilled' ? 'done' : String(one.reason))),
    ['done', 'Error: not bad', 'done'],
  );
  assert.deepEqual(seen, [['a', 'bad', 'c'], ['a'], ['bad'], ['c']]);
});

test('one that fails by itself is done once', async () => {
  let times = 0;
  const { together } = rounds(async () => {
    times++;
    throw new Error('no');
  });
  await assert.rejects(together.do('a'), /no/);
  assert.equal(times, 1);
});

test('a round that cannot begin is told to all who wait for it', async () => {
  const together = new Together<string>(
    async () => {
      await Promise.resolve();
      throw new Error('closed');
    },
    async () => undefined,
  );
  const results = await Promise.allSettled([together.do('a'), together.do('b')]);
  assert.deepEqual(
    results.map((one) => one.status === 'rejected' && String(one.reason)),
    ['Error: closed', 'Error: closed'],
  );
});
