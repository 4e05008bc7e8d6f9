import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Failure } from '../model/failure.ts';
import { cameOfHangUp, HungUp } from './hung-up.ts';

test('what came of a caller’s going is known, however it was wrapped', () => {
  const wrapped = new Failure('internal', 'Something went wrong.', {
    cause: new Error('the upload broke off', { cause: new HungUp() }),
  });
  assert.deepEqual([new HungUp(), wrapped].map(cameOfHangUp), [true, true]);
  assert.deepEqual([new Error('a defect'), 'text', undefined].map(cameOfHangUp), [false, false, false]);
});
