import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { unpackLz4Legacy } from './lz4.ts';
import { lz4Frame, lz4Literals } from './testing.ts';

test('a block with literals and matches unpacks', () => {
  // "abcd", then 9 bytes from 4 back, then "xyz": abcdabcdabcdaxyz
  const block = Buffer.from([0x45, ...Buffer.from('abcd'), 4, 0, 0x30, ...Buffer.from('xyz')]);
  assert.equal(unpackLz4Legacy(lz4Frame([block]), 16).toString(), 'abcdabcdabcdaxyz');
});

test('a match that overlaps what it writes repeats it', () => {
  const block = Buffer.from([0x1f, 0x61, 1, 0, 1, 0x10, 0x62]);
  assert.equal(unpackLz4Legacy(lz4Frame([block]), 22).toString(), `${'a'.repeat(21)}b`);
});

test('long literals and several blocks unpack to what was packed', () => {
  fc.assert(
    fc.property(
      fc.array(fc.uint8Array({ minLength: 1, maxLength: 700 }), { minLength: 1, maxLength: 4 }),
      (parts) => {
        const whole = Buffer.concat(parts);
        assert.deepEqual(unpackLz4Legacy(lz4Frame(parts.map(lz4Literals)), whole.length), whole);
      },
    ),
  );
});

test('damaged data throws a RangeError and never anything else', () => {
  const good = lz4Frame([
    lz4Literals(Buffer.from('abcdefgh'.repeat(9))),
    Buffer.from([0x41, 1, 2, 3, 4, 2, 0, 0x10, 9]),
  ]);
  fc.assert(
    fc.property(fc.nat(good.length - 1), fc.nat(255), fc.nat(200), (at, value, size) => {
      const bad = Buffer.from(good);
      bad[at] = value;
      try {
        assert.equal(unpackLz4Legacy(bad, size).length, size);
      } catch (error) {
        assert.ok(error instanceof RangeError, String(error));
      }
    }),
  );
});

test('what is cut off, or no frame at all, is refused', () => {
  const frame = lz4Frame([lz4Literals(Buffer.from('abcdefgh'))]);
  assert.throws(() => unpackLz4Legacy(frame.subarray(0, -2), 8), RangeError);
  assert.throws(() => unpackLz4Legacy(frame, 9), RangeError);
  assert.throws(() => unpackLz4Legacy(Buffer.from('nothing at all'), 8), RangeError);
  assert.throws(() => unpackLz4Legacy(Buffer.alloc(0), 8), RangeError);
});
