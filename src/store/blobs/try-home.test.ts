import assert from 'node:assert/strict';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { BlobError, isBlobError } from './blob-error.ts';
import { openFolderHome } from './folder-home.ts';
import { listAll, type BlobHome } from './home.ts';
import { tryHome } from './try-home.ts';

let folder: string;
let home: BlobHome;
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'hatch-try-'));
  home = await openFolderHome(folder);
});
after(() => rm(folder, { recursive: true }));

/** The home, with some of it otherwise. */
function but(other: Partial<BlobHome>): BlobHome {
  return {
    put: (...args) => home.put(...args),
    get: (...args) => home.get(...args),
    getRange: (...args) => home.getRange(...args),
    head: (...args) => home.head(...args),
    list: (...args) => home.list(...args),
    remove: (...args) => home.remove(...args),
    ...other,
  };
}

test('a home that works is left as it was', async () => {
  await tryHome(home);
  assert.deepEqual(await listAll(home, ''), []);
  assert.deepEqual(await readdir(folder), ['.incoming']);
});

test('whatever does not work is told, and nothing stays', async () => {
  const cases: [Partial<BlobHome>, RegExp][] = [
    [{ getRange: async () => Buffer.alloc(1023) }, /came back as other bytes/],
    [{ list: (name) => home.list(`${name}x`) }, /is not in the list/],
    [{ getRange: () => Promise.reject(new BlobError('throttled', 'not now')) }, /^BlobError: not now$/],
  ];
  for (const [other, says] of cases) {
    await assert.rejects(tryHome(but(other)), says);
    assert.deepEqual(await listAll(home, ''), []);
  }
  await assert.rejects(tryHome(but({ remove: async () => undefined })), /removed and is still there/);
  await assert.rejects(tryHome(but({ put: () => Promise.reject(new BlobError('refused', 'no')) })), (error) =>
    isBlobError(error, 'refused'),
  );
});
