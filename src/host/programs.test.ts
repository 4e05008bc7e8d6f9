import assert from 'node:assert/strict';
import { copyFile, mkdtemp, open, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { isForeignProgram } from './programs.ts';

let folder: string;
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'programs-'));
});
after(() => rm(folder, { recursive: true }));

/** Our own program with some of its header written over. */
async function altered(name: string, at: number, bytes: readonly number[]): Promise<string> {
  const path = join(folder, name);
  await copyFile(process.execPath, path);
  const file = await open(path, 'r+');
  await file.write(Buffer.from(bytes), 0, bytes.length, at);
  await file.close();
  return path;
}

test('a program of another architecture, word size or byte order is foreign; our own is not', async () => {
  assert.equal(await isForeignProgram(process.execPath), false);
  // EM_S390, which Node.js on no machine of ours is.
  assert.equal(await isForeignProgram(await altered('s390', 18, [22, 0])), true);
  assert.equal(await isForeignProgram(await altered('32-bit', 4, [1])), true);
  assert.equal(await isForeignProgram(await altered('big-endian', 5, [2])), true);
});

test('a script, an empty file and one cut short are of no machine', async () => {
  for (const [name, text] of [
    ['script', '#!/bin/sh\nexit 0\n'],
    ['empty', ''],
    ['cut', '\x7fELF'],
  ] as const) {
    await writeFile(join(folder, name), text);
    assert.equal(await isForeignProgram(join(folder, name)), false, name);
  }
});
