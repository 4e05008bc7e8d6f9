import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import { newId } from '../base/ids.ts';
import { Muster } from './muster.ts';

test('those on the way are waited for, and one alone waits for nobody', async () => {
  const muster = new Muster();
  const [a, b, c] = [newId('vm'), newId('vm'), newId('vm')];
  muster.come(a);
  await muster.arrive(a);
  for (const id of [a, b, c]) muster.come(id);
  const there = new Set<string>();
  const first = muster.arrive(a).then(() => there.add('a'));
  await turn();
  assert.equal(there.size, 0);
  muster.leave(b);
  const last = muster.arrive(c).then(() => there.add('c'));
  await Promise.all([first, last]);
  assert.deepEqual([...there].sort(), ['a', 'c']);
});

test('who does not come is waited for a moment only, and who never came leaves nothing', async () => {
  const muster = new Muster();
  const [a, b] = [newId('vm'), newId('vm')];
  muster.come(a);
  muster.come(b);
  await muster.arrive(a);
  muster.leave(newId('vm'));
  muster.leave(b);
  await muster.arrive(newId('vm'));
});
