import assert from 'node:assert/strict';
import { cp, mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { blobSource } from './byte-source.ts';
import { openFolderHome } from './folder-home.ts';
import { packName } from './format.ts';
import { accountKeys, parseMasterKey } from './keys.ts';
import { decodeManifest } from './manifest.ts';
import { openChunkStore } from './open.ts';
import { verifyPack } from './pack.ts';
import { exampleImages } from './testing/example-images.ts';

interface Example {
  readonly master: string;
  readonly identity: unknown;
  readonly snapshots: readonly {
    readonly account: string;
    readonly secret: string;
    readonly manifest: string;
    readonly sha256: string;
  }[];
}

test('snapshots stored by version 1 are read, sealed and not', async (t) => {
  const stored = join(import.meta.dirname, 'testing/example');
  const example = JSON.parse(await readFile(join(stored, 'example.json'), 'utf8')) as Example;
  const folder = await mkdtemp(join(tmpdir(), 'hatch-example-'));
  t.after(() => rm(folder, { recursive: true }));
  await cp(join(stored, 'home'), join(folder, 'home'), { recursive: true });
  const home = await openFolderHome(join(folder, 'home'));
  const master = parseMasterKey(Buffer.from(example.master));
  assert.equal(example.snapshots.length, 2);
  for (const { account, secret, manifest: name, sha256 } of example.snapshots) {
    const keys = accountKeys(account, secret, account === 'acct-sealed' ? master : undefined);
    const manifest = decodeManifest(await home.get(name, { maxBytes: 100_000 }), keys, sha256);
    assert.deepEqual(manifest.identity, example.identity);
    for (const pack of manifest.packs)
      await verifyPack(await blobSource(home, packName(pack)), pack.id, keys);
    const store = openChunkStore({ home, keys: async () => keys, threads: 1 });
    t.after(() => store.close());
    const images = Object.entries(exampleImages());
    assert.equal(manifest.images.length, images.length);
    for (const [image, bytes] of images) {
      const to = join(folder, `${account}-${image}`);
      await store.load({ manifest, image, to });
      assert.ok((await readFile(to)).equals(bytes), `${image} of ${account}`);
    }
  }
});
