import assert from 'node:assert/strict';
import { mkdtemp, open, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { dataExtents } from './extents.ts';
import { CommandFailed } from './run.ts';

async function sparseFile(t: TestContext, size: number, at: readonly number[]): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'hatch-extents-'));
  t.after(() => rm(folder, { recursive: true }));
  const path = join(folder, 'sparse');
  const file = await open(path, 'w');
  await file.truncate(size);
  for (const offset of at) await file.write(Buffer.alloc(4096, 1), 0, 4096, offset);
  await file.close();
  return path;
}

test('a file with holes is told by what lies between them', async (t) => {
  const GIB = 2 ** 30;
  const path = await sparseFile(t, 4 * GIB, [0, 65536, GIB, 3 * GIB + 8192, 3 * GIB + 16384]);
  const extents = await dataExtents(path);
  assert.deepEqual(
    extents.map(({ offset, length }) => [offset, offset + length]),
    [
      [0, 4096],
      [65536, 69632],
      [GIB, GIB + 4096],
      [3 * GIB + 8192, 3 * GIB + 20480],
    ],
  );
});

test('a file of nothing but a hole has no extents, and an empty one none', async (t) => {
  assert.deepEqual(await dataExtents(await sparseFile(t, 2 ** 30, [])), []);
  assert.deepEqual(await dataExtents(await sparseFile(t, 0, [])), []);
});

test('a full file is one extent, and nobody is asked', async (t) => {
  const path = await sparseFile(t, 0, []);
  await writeFile(path, Buffer.alloc(50_000, 1));
  const run = (): Promise<never> => Promise.reject(new Error('asked'));
  assert.deepEqual(await dataExtents(path, { run }), [{ offset: 0, length: 50_000 }]);
});

test('where nobody can say where the holes are, the whole file is one extent', async (t) => {
  const path = await sparseFile(t, 2 ** 20, [0]);
  const run = (): Promise<never> => Promise.reject(new CommandFailed(['perl'], 'is not installed', {}));
  assert.deepEqual(await dataExtents(path, { run }), [{ offset: 0, length: 2 ** 20 }]);
});
