import assert from 'node:assert/strict';
import { readdir, readFile, stat, utimes, writeFile, appendFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import fc from 'fast-check';
import { isBlobError } from './blob-error.ts';
import type { ImageFile, Progress, SpooledPack } from './chunk-store.ts';
import { CHUNK, packName } from './format.ts';
import { accountKeys, newAccountSecret } from './keys.ts';
import { knowsNothing } from './lookup.ts';
import { openChunkStore } from './open.ts';
import { chunkOf, master, openKeys, sealedKeys, storeWorld } from './testing/store-world.ts';

/** Images of a few chunks out of few kinds, so that there are holes and repetitions, and a size that is no multiple. */
const images = fc.array(
  fc.record({
    chunks: fc.array(
      fc.oneof(fc.constant(0), fc.integer({ min: 1, max: 12 }), fc.integer({ min: 1, max: 9999 })),
      {
        maxLength: 80,
      },
    ),
    cut: fc.nat(CHUNK - 1),
  }),
  { minLength: 1, maxLength: 3 },
);

test('any images come back as they were, through holes, repetitions, generations and seals', async (t) => {
  const world = await storeWorld(t, 2);
  await fc.assert(
    fc.asyncProperty(images, fc.boolean(), async (wanted, secret) => {
      const keys = secret ? sealedKeys : openKeys;
      const files: ImageFile[] = [];
      for (const [i, { chunks, cut }] of wanted.entries()) {
        const bytes = Math.max(0, chunks.length * CHUNK - cut);
        files.push({ name: `disk.${i}`, path: await world.image('any', chunks, bytes) });
      }
      const { saved, manifest } = await world.keep({ keys, images: files });
      for (const { name, path } of files) {
        const original = await readFile(path);
        assert.ok((await world.load(manifest, name)).equals(original));
        const view = world.store.look(manifest, name);
        assert.ok((await view.read(0, original.length)).equals(original));
      }
      const again = await world.keep({ keys, images: files });
      assert.equal(again.saved.sizes.fresh, 0);
      assert.deepEqual(again.saved.packs, []);
      assert.equal(again.saved.sizes.data, saved.sizes.data);
    }),
    { numRuns: 15 },
  );
});

test('any part of a saved image is read without restoring it', async (t) => {
  const world = await storeWorld(t);
  const path = await world.image(
    'disk',
    [1, 2, 0, 0, 3, 1, 4, ...Array.from({ length: 40 }, (_, i) => i * 7)],
    45 * CHUNK + 9,
  );
  const { manifest } = await world.keep({ keys: sealedKeys, images: [{ name: 'disk.0', path }] });
  const original = await readFile(path);
  const view = world.store.look(manifest, 'disk.0');
  assert.equal(view.bytes, original.length);
  await fc.assert(
    fc.asyncProperty(fc.nat(original.length), fc.nat(5 * CHUNK), async (offset, length) => {
      const wanted = Math.min(length, original.length - offset);
      assert.ok((await view.read(offset, wanted)).equals(original.subarray(offset, offset + wanted)));
    }),
  );
  await assert.rejects(view.read(original.length, 1), RangeError);
  assert.throws(
    () => world.store.look(manifest, 'disk.7'),
    (error) => isBlobError(error, 'missing'),
  );
});

test('a hole costs nothing: neither stored bytes nor blocks of the file that comes back', async (t) => {
  const world = await storeWorld(t);
  const path = await world.image('memory', [5, 0, 7], 4 * 2 ** 30);
  const { saved, manifest } = await world.keep({ keys: openKeys, images: [{ name: 'memory', path }] });
  assert.equal(saved.sizes.data, 2 * CHUNK);
  assert.ok(saved.sizes.stored < 2 * CHUNK + 1500);
  const to = world.fresh();
  const seen: Progress[] = [];
  await world.store.load({ manifest, image: 'memory', to, onProgress: (p) => seen.push(p) });
  const there = await stat(to);
  assert.equal(there.size, 4 * 2 ** 30);
  assert.ok(there.blocks * 512 <= 4 * CHUNK);
  assert.deepEqual(seen.at(-1), { done: there.size, total: there.size });
});

test('two accounts share nothing, and an id of one says nothing to the other', async (t) => {
  const world = await storeWorld(t);
  const path = await world.image('disk', [1, 2, 3]);
  const one = await world.keep({ keys: openKeys, images: [{ name: 'disk.0', path }] });
  const other = await world.keep({ keys: sealedKeys, images: [{ name: 'disk.0', path }] });
  assert.equal(one.saved.sizes.fresh, 3 * CHUNK);
  assert.equal(other.saved.sizes.fresh, 3 * CHUNK);
  assert.equal(other.saved.packs[0]?.pack.sealed, true);
  const stored = await readFile(other.saved.packs[0]?.file ?? '');
  assert.ok(!stored.includes(chunkOf(2).subarray(0, 64)));
});

/** 20 MiB that cannot be compressed: more than one pack, whatever the number of threads. */
const LARGE = Array.from({ length: 1280 }, (_, i) => (i + 1) * 2);

test('a save that ended in the middle goes on with the packs that were shown, under the same ids', async (t) => {
  const world = await storeWorld(t);
  const images = [{ name: 'memory', path: await world.image('memory', LARGE) }];
  const order = { keys: sealedKeys, images, identity: {}, known: knowsNothing, spool: world.fresh() };
  const stop = new AbortController();
  const shown: SpooledPack[] = [];
  const onPack = (pack: SpooledPack): void => {
    shown.push(pack);
    stop.abort(new Error('killed'));
  };
  await assert.rejects(world.store.save({ ...order, onPack, signal: stop.signal }), /killed/);
  assert.ok(shown.length >= 1);
  // What a kill leaves: a pack without its end, and half a line.
  await writeFile(join(order.spool, '01890000-0000-7000-8000-000000000000.part'), 'half');
  await appendFile(join(order.spool, 'journal'), '{"kind":"pack","pa');

  const again: SpooledPack[] = [];
  const saved = await world.store.save({ ...order, onPack: (pack) => again.push(pack) });
  assert.deepEqual(again.slice(0, shown.length), shown);
  assert.deepEqual(again, saved.packs);
  assert.deepEqual(saved.reused, []);
  const files = ['journal', 'manifest', ...saved.packs.map(({ pack }) => `${pack.id}.pack`)];
  assert.deepEqual((await readdir(order.spool)).sort(), files.sort());
  const manifest = await world.put(saved, sealedKeys);
  assert.ok((await world.load(manifest, 'memory')).equals(await readFile(images[0]?.path ?? '')));

  // Once it is done it is done: nothing is read again.
  const counted = { count: 0, find: (): never => assert.fail('asked') };
  assert.deepEqual(await world.store.save({ ...order, known: counted }), saved);
});

test('a spool is not taken for another save', async (t) => {
  const world = await storeWorld(t);
  const order = { keys: openKeys, identity: {}, known: knowsNothing, spool: world.fresh() };
  await world.store.save({ ...order, images: [{ name: 'memory', path: await world.image('memory', [1]) }] });
  const other = [{ name: 'memory', path: await world.image('memory', [1, 2]) }];
  await assert.rejects(world.store.save({ ...order, images: other }), (error) =>
    isBlobError(error, 'refused'),
  );
});

test('an image that changes while it is saved fails the save', async (t) => {
  const world = await storeWorld(t);
  const path = await world.image('memory', LARGE);
  let touched = false;
  const save = world.store.save({
    keys: openKeys,
    images: [{ name: 'memory', path }],
    identity: {},
    spool: world.fresh(),
    known: {
      find: async (ids) => {
        if (!touched) await utimes(path, 1, 1);
        touched = true;
        return knowsNothing.find(ids);
      },
    },
  });
  await assert.rejects(save, /memory was changed while it was saved/);
});

test('a lookup that fails fails the save, and what was written is removed', async (t) => {
  const world = await storeWorld(t);
  const spool = world.fresh();
  let asked = 0;
  const known = {
    find: (ids: Uint8Array) =>
      ++asked > 3 ? Promise.reject(new Error('no answer')) : knowsNothing.find(ids),
  };
  const images = [{ name: 'memory', path: await world.image('memory', LARGE) }];
  await assert.rejects(world.store.save({ keys: openKeys, images, identity: {}, spool, known }), /no answer/);
  assert.deepEqual(
    (await readdir(spool)).filter((name) => name.endsWith('.part')),
    [],
  );
});

test('an image of a name that cannot be, or that is not there, is refused', async (t) => {
  const world = await storeWorld(t);
  const order = { keys: openKeys, identity: {}, known: knowsNothing, spool: world.fresh() };
  const path = await world.image('disk', [1]);
  for (const names of [['../x'], [''], ['disk.0', 'disk.0']])
    await assert.rejects(
      world.store.save({ ...order, images: names.map((name) => ({ name, path })) }),
      (error) => isBlobError(error, 'refused'),
    );
  await assert.rejects(
    world.store.save({ ...order, images: [{ name: 'disk.0', path: world.fresh() }] }),
    (error) => isBlobError(error, 'missing'),
  );
});

test('a pack with one bit changed is found out, and no file stays', async (t) => {
  const world = await storeWorld(t);
  for (const keys of [openKeys, sealedKeys]) {
    const path = await world.image('disk', [1, 2, 3, 4]);
    const { saved, manifest } = await world.keep({ keys, images: [{ name: 'disk.0', path }] });
    const [pack] = saved.packs;
    assert.ok(pack);
    const file = join(world.folder, 'home', packName(pack.pack));
    const bytes = await readFile(file);
    bytes[2000] = (bytes[2000] ?? 0) ^ 1;
    await writeFile(file, bytes);
    const to = world.fresh();
    const loading = world.store.load({ manifest, image: 'disk.0', to });
    await assert.rejects(
      loading,
      (error) => isBlobError(error, 'damaged') && /frame 0 of pack/.test(error.message),
    );
    await assert.rejects(stat(to), /ENOENT/);
    await assert.rejects(world.store.look(manifest, 'disk.0').read(0, 1), (error) =>
      isBlobError(error, 'damaged'),
    );
  }
});

test('with another key a snapshot is refused, never read wrongly', async (t) => {
  const world = await storeWorld(t);
  const path = await world.image('disk', [1, 2, 3]);
  const { manifest } = await world.keep({ keys: sealedKeys, images: [{ name: 'disk.0', path }] });
  const { account } = sealedKeys;
  const others = [
    accountKeys(account, newAccountSecret(account, master), master),
    { ...sealedKeys, seal: undefined },
  ];
  for (const other of others) {
    const store = openChunkStore({ home: world.home, keys: async () => other, threads: 1 });
    t.after(() => store.close());
    const loading = store.load({ manifest, image: 'disk.0', to: world.fresh() });
    await assert.rejects(loading, (error) => isBlobError(error, 'wrong_key'));
  }
});

test('a load stops when it is told to, and leaves no file; a file that is there is not touched', async (t) => {
  const world = await storeWorld(t);
  const path = await world.image('memory', LARGE);
  const { manifest } = await world.keep({ keys: openKeys, images: [{ name: 'memory', path }] });
  const stop = new AbortController();
  const to = world.fresh();
  const loading = world.store.load({
    manifest,
    image: 'memory',
    to,
    signal: stop.signal,
    onProgress: () => stop.abort(new Error('enough')),
  });
  await assert.rejects(loading, /enough/);
  await assert.rejects(stat(to), /ENOENT/);
  await writeFile(to, 'mine');
  await assert.rejects(world.store.load({ manifest, image: 'memory', to }), (error) => isBlobError(error));
  assert.equal(await readFile(to, 'utf8'), 'mine');
});

test('a pack that is gone is said to be missing', async (t) => {
  const world = await storeWorld(t);
  const path = await world.image('disk', [1]);
  const { saved, manifest } = await world.keep({ keys: openKeys, images: [{ name: 'disk.0', path }] });
  for (const { pack } of saved.packs) await world.home.remove(packName(pack));
  const loading = world.store.load({ manifest, image: 'disk.0', to: world.fresh() });
  await assert.rejects(loading, (error) => isBlobError(error, 'missing'));
});

test('a store that is closed ends what runs in it', async (t) => {
  const world = await storeWorld(t);
  const images = [{ name: 'memory', path: await world.image('memory', LARGE) }];
  const order = { keys: openKeys, images, identity: {}, known: knowsNothing, spool: world.fresh() };
  const saving = world.store.save({ ...order, onProgress: () => void world.store.close() });
  await assert.rejects(saving, (error) => isBlobError(error, 'failed'));
  await assert.rejects(world.store.save({ ...order, spool: world.fresh() }), /the chunk store is closed/);
});
