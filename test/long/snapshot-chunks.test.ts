import assert from 'node:assert/strict';
import { randomFillSync } from 'node:crypto';
import { mkdtemp, open, readdir, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { isBlobError } from '../../src/store/blobs/blob-error.ts';
import { openFolderHome } from '../../src/store/blobs/folder-home.ts';
import { knowsNothing } from '../../src/store/blobs/lookup.ts';
import { chunkOf, openKeys, sealedKeys, storeWorld } from '../../src/store/blobs/testing/store-world.ts';
import { makeSmallDisk } from '../support/small-disk.ts';
import { run } from '../../src/host/run.ts';

const MIB = 2 ** 20;
const GIB = 2 ** 30;

/** A guest's memory as it mostly is: a file of `size` bytes with `data` bytes in it here and there, a third of which compresses. */
async function memoryFile(path: string, size: number, data: number): Promise<void> {
  const file = await open(path, 'wx');
  const piece = Buffer.alloc(MIB);
  await file.truncate(size);
  const step = Math.floor(size / (data / MIB) / 4096) * 4096;
  for (let i = 0; i < data / MIB; i++) {
    randomFillSync(piece, 0, (MIB * 2) / 3);
    await file.write(piece, 0, MIB, i * step);
  }
  await file.close();
}

async function folderFor(t: TestContext): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'hatch-chunks-'));
  t.after(() => rm(folder, { recursive: true }));
  return folder;
}

test('a guest of 4 GiB is saved and brought back with less than 200 MB of memory more', async (t) => {
  const world = await storeWorld(t, 2);
  const path = world.fresh();
  await memoryFile(path, 4 * GIB, 256 * MIB);
  const before = process.memoryUsage.rss();
  let most = 0;
  const onProgress = (): void => {
    most = Math.max(most, process.memoryUsage.rss() - before);
  };
  const images = [{ name: 'memory', path }];
  const { saved, manifest } = await world.keep({ keys: sealedKeys, images, onProgress });
  assert.ok(saved.sizes.data > 170 * MIB);
  t.diagnostic(`saving took ${Math.round(most / 1e6)} MB`);
  assert.ok(most < 200e6, `saving took ${most} bytes of memory`);
  most = 0;
  const to = world.fresh();
  await world.store.load({ manifest, image: 'memory', to, onProgress });
  t.diagnostic(`loading took ${Math.round(most / 1e6)} MB`);
  assert.ok(most < 200e6, `loading took ${most} bytes of memory`);
  await run(['cmp', path, to], { timeoutMs: 120_000 });
  assert.ok((await stat(to)).blocks * 512 < 300 * MIB);
});

test('a save into a spool that is full says so, and goes on when there is room', async (t) => {
  const world = await storeWorld(t);
  const disk = await makeSmallDisk(join(await folderFor(t), 'small'), 40);
  t.after(() => disk.dispose());
  const chunks = Array.from({ length: 1280 }, (_, i) => (i + 1) * 2);
  const images = [{ name: 'memory', path: await world.image('memory', chunks) }];
  const spool = join(disk.inside, 'spool');
  const order = { keys: openKeys, images, identity: {}, known: knowsNothing, spool };
  await disk.fill(10 * MIB);
  await assert.rejects(world.store.save(order), (error) => isBlobError(error, 'no_space'));
  assert.deepEqual(
    (await readdir(spool)).filter((name) => name !== 'journal'),
    [],
  );
  await disk.makeRoom();
  const manifest = await world.put(await world.store.save(order), openKeys);
  const view = world.store.look(manifest, 'memory');
  assert.ok((await view.read(1279 * 16384, 16384)).equals(chunkOf(2560)));

  // Neither does a load or a put leave anything on a disk that is full.
  await disk.fill(10 * MIB);
  const to = join(disk.inside, 'memory');
  await assert.rejects(world.store.load({ manifest, image: 'memory', to }), (error) =>
    isBlobError(error, 'no_space'),
  );
  await assert.rejects(stat(to), /ENOENT/);
  const home = await openFolderHome(join(disk.inside, 'home'));
  const bytes = Buffer.alloc(12 * MIB, 1);
  await assert.rejects(home.put('a/large', { bytes }, { sha256: '0' }), (error) =>
    isBlobError(error, 'no_space'),
  );
  assert.deepEqual(await readdir(join(disk.inside, 'home/.incoming')), []);
});
