import assert from 'node:assert/strict';
import { mkdir, mkdtemp, readdir, rm, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { openFolderHome } from './folder-home.ts';
import { listAll } from './home.ts';
import { homeSuite } from './home-suite.ts';

homeSuite('a folder', async () => {
  const root = await mkdtemp(join(tmpdir(), 'hatch-folder-'));
  return {
    home: await openFolderHome(join(root, 'snapshots')),
    close: () => rm(root, { recursive: true }),
  };
});

test('what a killed process left half is never listed, and removed a day later', async (t) => {
  const root = await mkdtemp(join(tmpdir(), 'hatch-folder-'));
  t.after(() => rm(root, { recursive: true }));
  await mkdir(join(root, '.incoming'));
  const [old, young] = ['old', 'young'].map((name) => join(root, '.incoming', name));
  assert.ok(old && young);
  await writeFile(old, 'half');
  await writeFile(young, 'half');
  await utimes(old, 1_000_000, 1_000_000);
  await utimes(young, 1_080_000, 1_080_000);
  const home = await openFolderHome(root, 1_090_000_000);
  assert.deepEqual(await readdir(join(root, '.incoming')), ['young']);
  assert.deepEqual(await listAll(home, ''), []);
});
