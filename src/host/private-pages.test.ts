import assert from 'node:assert/strict';
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { copyFile, mkdtemp, open, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { copyPrivatePages, privateMapOf } from './private-pages.ts';

const PAGE = 4096;
const PAGES = 1024;
/** Some next to each other, some apart, the first and the last. */
const WRITTEN = [0, 1, 2, 40, 300, 301, 700, PAGES - 1];
/** Maps a file privately and writes a byte to some of its pages, then stands still until its input ends. */
const PROGRAM = `
import mmap, sys
with open(sys.argv[1], 'r+b') as f:
    m = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_COPY)
for page in map(int, sys.argv[2].split(',')):
    m[page * ${PAGE} + 7] = 0x42
print(m[5 * ${PAGE}], flush=True)
sys.stdin.read()
`;

let folder: string;
let base: string;
let writer: ChildProcess;
let pid: number;

before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'pages-'));
  base = join(folder, 'base');
  const file = await open(base, 'w');
  await file.write(Buffer.alloc(PAGE, 'a'), 0, PAGE, 300 * PAGE);
  await file.truncate(PAGES * PAGE);
  await file.close();
  writer = spawn('python3', ['-c', PROGRAM, base, WRITTEN.join(',')]);
  assert(writer.pid !== undefined && writer.stdout, 'python3 is installed');
  pid = writer.pid;
  await once(writer.stdout, 'data');
});
after(async () => {
  writer.stdin?.end();
  await once(writer, 'exit');
  await rm(folder, { recursive: true });
});

test('the private map of a file is found by its length, and not where it has another', async () => {
  const map = await privateMapOf(pid, PAGES * PAGE);
  assert.deepEqual([map?.file, map?.length], [base, PAGES * PAGE]);
  assert.equal(await privateMapOf(pid, (PAGES - 1) * PAGE), undefined);
});

test('what a process wrote to its private map comes over a copy of the file, and the file stays as it was', async () => {
  const map = await privateMapOf(pid, PAGES * PAGE);
  assert(map);
  const before = await readFile(base);
  const copy = join(folder, 'copy');
  await copyFile(base, copy);
  const bytes = await copyPrivatePages(pid, map, copy);
  assert.ok(bytes >= WRITTEN.length * PAGE && bytes < 100 * PAGE, `${bytes} bytes`);
  const wanted = Buffer.from(before);
  for (const page of WRITTEN) wanted[page * PAGE + 7] = 0x42;
  assert.ok(wanted.equals(await readFile(copy)));
  assert.ok(before.equals(await readFile(base)));
});

test('a process that has ended has no memory to copy', async () => {
  await assert.rejects(
    copyPrivatePages(2 ** 22 + 1, { address: 0, length: PAGE }, base),
    (error: NodeJS.ErrnoException) => error.code === 'ENOENT',
  );
});
