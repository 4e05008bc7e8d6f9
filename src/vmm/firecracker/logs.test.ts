import assert from 'node:assert/strict';
import { mkdtemp, open, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { cutInPlace, cutLogs } from './logs.ts';

const LIMIT = 64 * 1024;
let folder: string;
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'hatch-logs-'));
});
after(() => rm(folder, { recursive: true }));

const room = async (path: string): Promise<number> => (await stat(path)).blocks * 512;
const line = (i: number): string => `line ${String(i).padStart(6, '0')}\n`;

// Firecracker opens its log without O_APPEND, and its output is opened with it.
for (const [how, flags] of [
  ['where it stands', 'w'],
  ['at the end', 'a'],
] as const)
  test(`a log that is written on ${how} stays small for ever, and its last words whole`, async () => {
    const path = join(folder, `log-${flags}`);
    const writer = await open(path, flags);
    try {
      let written = 0;
      for (let round = 0; round < 20; round++) {
        const lines = Array.from({ length: 4000 }, () => line(written++));
        await writer.write(lines.join(''));
        await cutInPlace(path, LIMIT);
        assert.ok((await room(path)) <= LIMIT, `${await room(path)} bytes on the disk`);
        const text = await readFile(path, 'latin1');
        const expected = lines.join('').slice(-LIMIT / 2);
        assert.equal(text.slice(-expected.length), expected);
      }
      await writer.write('the last word\n');
      const text = await readFile(path, 'latin1');
      assert.ok(text.endsWith(`${line(written - 1)}the last word\n`));
    } finally {
      await writer.close();
    }
  });

test('a small log is left as it is, and none is nothing to cut', async () => {
  const path = join(folder, 'small');
  await writeFile(path, 'few words\n');
  await cutInPlace(path, LIMIT);
  assert.equal(await readFile(path, 'utf8'), 'few words\n');
  await cutInPlace(join(folder, 'none'), LIMIT);
  await cutLogs(join(folder, 'no-such-folder'));
});
