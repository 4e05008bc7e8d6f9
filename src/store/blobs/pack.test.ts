import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { test } from 'node:test';
import fc from 'fast-check';
import { isBlobError } from './blob-error.ts';
import { bufferSource } from './byte-source.ts';
import { compact, LiveChunks, relocate } from './compact.ts';
import { CHUNK, CHUNK_ID, newManifestId, newPackId } from './format.ts';
import { chunkId } from './frame.ts';
import type { AccountKeys } from './keys.ts';
import { ChunkIndex } from './lookup.ts';
import { encodeManifest, decodeManifest } from './manifest.ts';
import { openPack, readPackIndex, verifyPack } from './pack.ts';
import { chunkOf, openKeys, sealedKeys, storeWorld, type StoreWorld } from './testing/store-world.ts';

const SEEDS = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20];

async function onePack(world: StoreWorld, keys: AccountKeys, seeds: readonly number[] = SEEDS) {
  const path = await world.image('disk', seeds);
  const { saved, manifest } = await world.keep({ keys, images: [{ name: 'disk.0', path }] });
  const [pack] = saved.packs;
  assert.ok(pack);
  return { manifest, pack, bytes: await readFile(pack.file) };
}

test('a pack says by itself which chunks it holds, and where', async (t) => {
  const world = await storeWorld(t);
  for (const keys of [openKeys, sealedKeys]) {
    const { pack, bytes } = await onePack(world, keys);
    const index = new ChunkIndex();
    const found = await verifyPack(bufferSource(bytes), pack.pack.id, keys);
    assert.deepEqual(await readPackIndex(bufferSource(bytes), pack.pack.id, keys), found);
    index.add(found);
    index.add(found);
    assert.equal(index.chunks, SEEDS.length);
    const open = await openPack(bufferSource(bytes), pack.pack.id, keys);
    const ids = Buffer.concat(SEEDS.map((seed) => chunkId(keys.dedup, chunkOf(seed))));
    const places = await index.find(Buffer.concat([ids, Buffer.alloc(CHUNK_ID, 1)]));
    assert.equal(places.length, SEEDS.length + 1);
    assert.equal(places.at(-1), undefined);
    for (const [i, seed] of SEEDS.entries()) {
      const place = places[i];
      assert.ok(place);
      const plain = await open.frame(place.frame);
      assert.ok(plain.subarray(place.slot * CHUNK, (place.slot + 1) * CHUNK).equals(chunkOf(seed)));
    }
  }
});

test('any changed bit, cut or addition of a pack is found by verifying it', async (t) => {
  const world = await storeWorld(t);
  for (const keys of [openKeys, sealedKeys]) {
    const { pack, bytes } = await onePack(world, keys, [1, 3, 5]);
    const verify = (changed: Buffer): Promise<unknown> =>
      verifyPack(bufferSource(changed), pack.pack.id, keys);
    const refused = (error: unknown): boolean => isBlobError(error, 'damaged', 'wrong_key');
    await fc.assert(
      fc.asyncProperty(fc.nat(bytes.length - 1), fc.nat(7), async (at, bit) => {
        const changed = Buffer.from(bytes);
        changed[at] = (changed[at] ?? 0) ^ (1 << bit);
        await assert.rejects(verify(changed), refused);
      }),
    );
    await assert.rejects(verify(bytes.subarray(0, -1)), refused);
    await assert.rejects(verify(bytes.subarray(1)), refused);
    await assert.rejects(verify(Buffer.concat([bytes, Buffer.alloc(1)])), refused);
    await assert.rejects(verifyPack(bufferSource(bytes), newPackId(1), keys), /holds another pack/);
  }
});

test('bytes that are no pack are refused', async () => {
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ maxLength: 300 }), async (bytes) => {
      await assert.rejects(verifyPack(bufferSource(Buffer.from(bytes)), newPackId(1), openKeys), (error) =>
        isBlobError(error, 'damaged'),
      );
    }),
  );
});

test('a pack sealed under another key says which one it wants', async (t) => {
  const world = await storeWorld(t);
  const { pack, bytes } = await onePack(world, sealedKeys);
  await assert.rejects(verifyPack(bufferSource(bytes), pack.pack.id, openKeys), (error) =>
    isBlobError(error, 'wrong_key'),
  );
});

test('what is live of packs is copied into a new one, and the snapshots are the same there', async (t) => {
  const world = await storeWorld(t);
  for (const keys of [openKeys, sealedKeys]) {
    const first = await onePack(world, keys, SEEDS);
    const second = await onePack(world, keys, [100, 102, 104]);
    const kept = await onePack(world, keys, [200]);
    // Of the first pack three chunks are used, of the second one; the third is not compacted.
    const path = await world.image('disk', [3, 0, 7, 102, 200, 18, 3]);
    const { saved, manifest } = await world.keep({ keys, images: [{ name: 'disk.0', path }] });
    assert.equal(saved.reused.length, 3);
    const live = new LiveChunks();
    live.add(manifest);
    const packs = await Promise.all(
      [first, second].map(({ bytes, pack }) => openPack(bufferSource(bytes), pack.pack.id, keys)),
    );
    assert.deepEqual(
      packs.map(({ index }) => live.share(index)),
      [3 / 20, 1 / 3],
    );
    const order = { keys, packs, live, spool: world.fresh(), now: () => 1_700_000_000_000 };
    const { packs: made, moved } = await compact(order);
    assert.equal(made.length, 1);
    const [small] = made;
    assert.ok(small && small.bytes < first.pack.bytes);
    // Going on in the same spool makes nothing new.
    assert.deepEqual((await compact(order)).packs, made);

    const id = newManifestId(1);
    const { bytes } = encodeManifest(relocate(manifest, moved, { id, createdAt: 1 }), keys);
    const there = decodeManifest(bytes, keys);
    assert.deepEqual(there.packs.map((pack) => pack.id).sort(), [kept.pack.pack.id, small.pack.id].sort());
    assert.deepEqual(there.identity, manifest.identity);
    await world.home.put(
      `a/${keys.account}/p/${small.pack.id}`,
      { file: small.file },
      { sha256: small.sha256 },
    );
    await verifyPack(bufferSource(await readFile(small.file)), small.pack.id, keys);
    for (const { pack } of [first, second]) await world.home.remove(`a/${keys.account}/p/${pack.pack.id}`);
    assert.ok((await world.load(there, 'disk.0')).equals(await readFile(path)));
  }
});
