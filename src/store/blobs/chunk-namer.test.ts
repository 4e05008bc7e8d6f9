import assert from 'node:assert/strict';
import { createSecretKey } from 'node:crypto';
import { test } from 'node:test';
import fc from 'fast-check';
import { ChunkNamer } from './chunk-namer.ts';
import { chunkId } from './frame.ts';
import { chunkOf } from './testing/store-world.ts';

test('a chunk is named as HMAC-SHA256 names it, whatever the key and whichever the cell', () => {
  const namer = new ChunkNamer(4);
  const keys = fc.uint8Array({ minLength: 1, maxLength: 64 }).map((raw) => createSecretKey(raw));
  fc.assert(
    fc.property(keys, fc.nat(3), fc.nat(), (key, cell, seed) => {
      namer.use(key);
      const chunk = chunkOf(seed);
      namer.cells[cell]?.set(chunk);
      assert.ok(namer.name(cell).equals(chunkId(key, chunk)));
    }),
  );
});
