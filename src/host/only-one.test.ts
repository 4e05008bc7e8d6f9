import assert from 'node:assert/strict';
import { test } from 'node:test';
import { FakeClock } from '../base/clock.ts';
import { onlyOne } from './only-one.ts';

const name = `hatch-test-${process.pid}`;

test('those of one name come one after the other, also when one fails; those of others do not wait', async () => {
  let inside = 0;
  const enter = (fail: boolean) => async (): Promise<string> => {
    assert.equal(++inside, 1);
    await new Promise((resolve) => setImmediate(resolve));
    inside--;
    if (fail) throw new Error('it failed');
    return 'done';
  };
  const all = await Promise.allSettled([false, true, false].map((fail) => onlyOne(name, enter(fail))));
  assert.deepEqual(all.map(({ status }) => status).sort(), ['fulfilled', 'fulfilled', 'rejected']);
  assert.equal(await onlyOne(name, () => onlyOne(`${name}-2`, async () => 'both')), 'both');
});

test('one that is held too long is given up on', async () => {
  const clock = new FakeClock();
  await onlyOne(name, async () => {
    const waiting = onlyOne(name, async () => assert.fail('let in'), { clock, waitMs: 20 });
    const over = assert.rejects(waiting, /another process has held hatch-test-\d+ for 0\.02 s/);
    while (clock.sleepers === 0) await new Promise((resolve) => setImmediate(resolve));
    await clock.advance(20);
    await over;
  });
});
