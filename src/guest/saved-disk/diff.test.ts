import assert from 'node:assert/strict';
import { mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { run } from '../../host/run.ts';
import { Failure } from '../../model/failure.ts';
import type { FileChange } from '../../model/saved-files.ts';
import { openSavedDisks } from './inside.ts';
import type { SavedDisk } from './open-disk.ts';
import { debugfs, makeExt4 } from './testing.ts';

const top = await mkdtemp(join(tmpdir(), 'hatch-diff-'));
after(() => rm(top, { recursive: true }));
const disks = openSavedDisks({ run, tmp: top });
const signal = new AbortController().signal;

const tree = join(top, 'tree');
await mkdir(join(tree, 'a/deep/er'), { recursive: true });
await mkdir(join(tree, 'gone/with/all'), { recursive: true });
for (const name of [
  'a/same',
  'a/grows',
  'a/content',
  'a/touched',
  'a/mode',
  'a/owner',
  'a/becomes',
  'gone/with/all/x',
  'a-b',
])
  await writeFile(join(tree, name), 'as it was');
await symlink('a/same', join(tree, 'link'));
const before = await makeExt4(join(top, 'before'), { from: tree });
const patch = async (name: string, content: string): Promise<string> => {
  await writeFile(join(top, name), content);
  return join(top, name);
};

/** A copy of the first disk on which commands were done. */
async function changedBy(name: string, commands: readonly string[]): Promise<SavedDisk> {
  const path = join(top, name);
  await run(['cp', before.path, path]);
  await debugfs(path, commands);
  return { path, format: 'raw' };
}

async function diff(from: SavedDisk, to: SavedDisk, path = '/'): Promise<readonly FileChange[]> {
  const found = [];
  for await (const change of disks.diffDisks(from, to, { path }, signal)) found.push(change);
  return found;
}
const told = (found: readonly FileChange[]): readonly string[] =>
  found.map(({ path, change, differences }) => [change, path.text, ...differences].join(' '));

const after1 = await changedBy('after', [
  'rm /a/grows',
  `write ${await patch('grows', 'as it was and more')} /a/grows`,
  'rm /a/content',
  `write ${await patch('content', 'as it WAS')} /a/content`,
  // debugfs has only seconds, and it was made in this one.
  'sif /a/content ctime @2000000000',
  'sif /a/touched mtime @2000000000',
  'sif /a/mode mode 0100600',
  'sif /a/owner uid 70000',
  'rm /a/becomes',
  'mkdir /a/becomes',
  `write ${await patch('in', 'in')} /a/becomes/in`,
  'rm /gone/with/all/x',
  'rmdir /gone/with/all',
  'rmdir /gone/with',
  'rmdir /gone',
  'mkdir /new',
  'mkdir /new/folder',
  `write ${await patch('x', 'x')} /new/folder/x`,
  'rm /link',
  'symlink /link a/content',
]);

test('what was added, removed and changed is told, with in what, folders before what is in them', async () => {
  assert.deepEqual(told(await diff(before, after1)), [
    'changed /a/becomes kind',
    'added /a/becomes/in',
    'changed /a/content content',
    'changed /a/grows content size',
    'changed /a/mode mode',
    'changed /a/owner owner',
    'changed /a/touched times',
    'removed /gone',
    'removed /gone/with',
    'removed /gone/with/all',
    'removed /gone/with/all/x',
    'changed /link content',
    'added /new',
    'added /new/folder',
    'added /new/folder/x',
  ]);
});

test('the other way round, what was added was removed', async () => {
  const there = await diff(before, after1);
  const back = await diff(after1, before);
  const turned = { added: 'removed', removed: 'added', changed: 'changed' } as const;
  assert.deepEqual(
    back.map(({ path, change }) => `${change} ${path.text}`),
    there.map(({ path, change }) => `${turned[change]} ${path.text}`),
  );
  assert.deepEqual(
    back.map((one) => one.before),
    there.map((one) => one.after),
  );
});

test('each change carries what the file was and is', async () => {
  const found = await diff(before, after1);
  const of = (path: string) => found.find((one) => one.path.text === path);
  assert.equal(of('/a/grows')?.before?.sizeBytes, 9);
  assert.equal(of('/a/grows')?.after?.sizeBytes, 18);
  assert.equal(of('/a/owner')?.after?.uid, 70_000);
  assert.equal(of('/a/touched')?.after?.modifiedAt, 2_000_000_000_000);
  assert.equal(of('/link')?.before?.target?.text, 'a/same');
  assert.equal(of('/new')?.before, null);
  assert.equal(of('/gone')?.after, null);
});

test('a part of the disks is compared alone, also one that is on only one of them', async () => {
  assert.deepEqual(told(await diff(before, after1, '/a/becomes/')), [
    'changed /a/becomes kind',
    'added /a/becomes/in',
  ]);
  assert.deepEqual(told(await diff(before, after1, '/new/folder')), [
    'added /new/folder',
    'added /new/folder/x',
  ]);
  assert.deepEqual(told(await diff(before, after1, '/a/content')), ['changed /a/content content']);
  await assert.rejects(diff(before, after1, '/never'), /nothing at "\/never"/);
});

test('a file that is another inode of the same content only has other times', async () => {
  const replaced = await changedBy('replaced', [
    'rm /a/same',
    `write ${await patch('same', 'as it was')} /a/same`,
    'sif /a/same ctime @2000000000',
  ]);
  assert.deepEqual(told(await diff(before, replaced)), ['changed /a/same times']);
});

test('a comparison that is left early lets go of both disks', async () => {
  const one = openSavedDisks({ run, tmp: top, mostOpen: 2 });
  for (let i = 0; i < 3; i++) {
    for await (const change of one.diffDisks(before, after1, { path: '/' }, signal)) {
      assert.equal(change.path.text, '/a/becomes');
      break;
    }
  }
});

test('folders that lead to themselves are told as damage, and listed as they are', async () => {
  const round = await changedBy('round', ['ln /a /a/deep/er/round']);
  await assert.rejects(diff(before, round), (error) => {
    assert(error instanceof Failure);
    assert.equal(error.code, 'invalid_request');
    assert.match(error.message, /damaged: a folder is in two places/);
    return true;
  });
  const path = '/a/deep/er/round/deep/er/round/deep';
  const { entries } = await disks.listFiles(round, { path, limit: 10 }, signal);
  assert.deepEqual(
    entries.map(({ name }) => name.text),
    ['er'],
  );
});
