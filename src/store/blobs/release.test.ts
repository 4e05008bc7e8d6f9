import assert from 'node:assert/strict';
import { test } from 'node:test';
import { release } from './release.ts';

test('a buffer that is given back takes no memory any more, and one of the shared pool is left alone', () => {
  const large = Buffer.alloc(256 * 1024, 1);
  const { buffer } = large;
  release(large.subarray(1000));
  assert.equal(buffer.byteLength, 0);
  assert.equal(large.length, 0);

  const small = Buffer.from('what lies in the pool with what others have there');
  release(small);
  assert.equal(small.toString(), 'what lies in the pool with what others have there');
  const shared = new Uint8Array(new SharedArrayBuffer(256 * 1024)).fill(7);
  release(shared);
  assert.equal(shared[0], 7);
});
