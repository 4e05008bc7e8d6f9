import assert from 'node:assert/strict';
import { mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { run } from '../../host/run.ts';
import { Failure } from '../../model/failure.ts';
import { changes } from './diff.ts';
import { openExt4, type Ext4 } from './ext4/file-system.ts';
import { openSavedDisks } from './inside.ts';
import { Pace } from './pace.ts';
import { debugfs, everything, inMemory, makeExt4 } from './testing.ts';

const top = await mkdtemp(join(tmpdir(), 'hatch-hostile-'));
after(() => rm(top, { recursive: true }));

const tree = join(top, 'tree');
await mkdir(join(tree, 'a/b/c'), { recursive: true });
await mkdir(join(tree, 'many'));
for (let i = 0; i < 120; i++) await writeFile(join(tree, `many/name-${i}`), 'x');
const sparse = Buffer.alloc(40_000);
for (let at = 0; at < sparse.length; at += 2048) sparse.write('x', at);
await writeFile(join(tree, 'a/b/c/file'), sparse);
await symlink('a/b/c/file', join(tree, 'link'));
await symlink(`a/${'b/../'.repeat(30)}b`, join(tree, 'long'));

/** A generator of numbers that gives the same ones in every run. */
function numbers(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

const MOST_FILE_BYTES = 1024 * 1024;
/** More than any of these disks needs; a hostile one may take all of it. */
const TRY_MS = 5000;

/** Looks at everything there is to see, as far as it goes. */
async function lookAround(bytes: Buffer, whole: Buffer): Promise<'read' | 'refused'> {
  const pace = new Pace(AbortSignal.timeout(TRY_MS));
  try {
    const ext4 = await openExt4(inMemory(bytes), pace);
    for await (const [, inode] of everything(ext4)) {
      if (inode.kind === 'link') await ext4.target(inode);
      if (inode.kind === 'file') await some(ext4.content(inode));
    }
    const other = await openExt4(inMemory(whole), pace);
    const [before, now] = [await other.root(), await ext4.root()];
    for await (const _ of changes(other, ext4, { path: '/', before, after: now }, pace));
    return 'read';
  } catch (error) {
    if (error instanceof Failure && ['invalid_request', 'too_large'].includes(error.code)) return 'refused';
    throw error;
  }
}

async function some(content: AsyncGenerator<Buffer>): Promise<void> {
  let left = MOST_FILE_BYTES;
  for await (const chunk of content) {
    left -= chunk.length;
    if (left < 0) return;
  }
}

for (const [what, args, seed] of [
  ['as Debian makes it', ['-b', '4096'], 1],
  ['with blocks of 1 KiB', ['-b', '1024'], 2],
  ['ext2', ['-t', 'ext2'], 3],
  ['with small files in inodes', ['-O', 'inline_data'], 4],
] as const) {
  test(`whatever bytes of a file system ${what} are others, it reads or is refused, soon`, async (t) => {
    const started = performance.now();
    const disk = await makeExt4(join(top, `fuzz${seed}`), { from: tree, size: '4M', args });
    // Of what is journaled there is one block, a folder's, as it is.
    if (!args.some((arg) => arg === 'ext2')) {
      const place = Number(await debugfs(disk.path, ['bmap /many 0']));
      const blockBytes = args[1] === '4096' ? 4096 : 1024;
      const block = (await readFile(disk.path)).subarray(place * blockBytes, (place + 1) * blockBytes);
      await writeFile(join(top, 'block'), block);
      await debugfs(disk.path, ['jo -c', `jw -b ${place} ${join(top, 'block')}`, 'jc']);
    }
    const whole = await readFile(disk.path);
    // Most of a disk is empty, and what is done to that is seen by nobody.
    const used: number[] = [];
    for (let at = 1024; at < whole.length; at += 4) if (whole.readUInt32LE(at) !== 0) used.push(at);
    const random = numbers(seed);
    const seen = { read: 0, refused: 0 };
    for (let round = 0; round < 40; round++) {
      const bytes = Buffer.from(whole);
      for (let i = 0; i <= random(12); i++) {
        // Every other time where everything else is told from: the superblock and what follows it.
        const at = round % 2 === 0 ? (used[random(used.length)] ?? 0) : 1024 + random(8192);
        const values = [random(256), 0xff, 0, (bytes[at] ?? 0) ^ (1 << random(8))];
        bytes[at] = values[random(values.length)] ?? 0;
      }
      seen[await lookAround(bytes, whole)]++;
    }
    t.diagnostic(JSON.stringify({ ...seen, ms: Math.round(performance.now() - started) }));
    assert(seen.read > 0 && seen.refused > 0, JSON.stringify(seen));
  });
}

const disk = await makeExt4(join(top, 'disk'), { from: tree, size: '4M', args: ['-b', '1024'] });
const whole = await readFile(disk.path);
const opened = (bytes: Buffer): Promise<Ext4> =>
  openExt4(inMemory(bytes), new Pace(AbortSignal.timeout(TRY_MS)));

for (const [what, at, value, says] of [
  ['blocks of no possible size', 0x18, 60, /blocks have no possible size/],
  ['inodes of no possible size', 0x58, 100, /inodes have no possible size/],
  ['no groups', 0x28, 0, /groups have no possible size/],
  ['more blocks than its disk', 0x4, 0xffffff, /larger than its disk/],
  ['a feature nobody knows', 0x60, 0x80000000, /a feature Hatch cannot read \(incompat 0x80000000\)/],
  ['compression', 0x60, 0x1, /a feature Hatch cannot read \(incompat 0x1\)/],
] as const) {
  test(`a superblock that says ${what} is refused`, async () => {
    const bytes = Buffer.from(whole);
    bytes.writeUInt32LE(value, 1024 + at);
    await assert.rejects(opened(bytes), says);
  });
}

/** Where the inode of a path lies in the disk's bytes. */
async function inodeAt(path: string): Promise<number> {
  const told = await debugfs(disk.path, [`imap ${path}`]);
  const match = /located at block (\d+), offset 0x([0-9a-f]+)/.exec(told);
  assert(match);
  return Number(match[1]) * 1024 + Number.parseInt(match[2] ?? '', 16);
}

test('a map of a file that leads to itself is refused', async () => {
  const bytes = Buffer.from(whole);
  const at = await inodeAt('/a/b/c/file');
  const node = Number(await debugfs(disk.path, ['bmap /a/b/c/file 0'])) * 1024;
  for (const header of [at + 0x28, node]) {
    bytes.writeUInt16LE(0xf30a, header);
    bytes.writeUInt16LE(1, header + 2);
    bytes.writeUInt16LE(4, header + 4);
    bytes.writeUInt16LE(5, header + 6);
    bytes.writeUInt32LE(0, header + 12);
    bytes.writeUInt32LE(node / 1024, header + 16);
    bytes.writeUInt16LE(0, header + 20);
  }
  const ext4 = await opened(bytes);
  for await (const [path, inode] of everything(ext4)) {
    if (path === '/a/b/c/file') await assert.rejects(some(ext4.content(inode)), /wrong depth/);
  }
});

test('an endless folder ends when time is up, and others are served meanwhile', async () => {
  const bytes = Buffer.from(whole);
  const at = await inodeAt('/many');
  // As large as can be said, and every piece of it the same thousand blocks, which are all the same.
  const block = Number(await debugfs(disk.path, ['bmap /many 0']));
  for (let i = 3000; i < 4000; i++) bytes.copyWithin(i * 1024, block * 1024, (block + 1) * 1024);
  bytes.writeUInt32LE(0, at + 4);
  bytes.writeUInt32LE(0x400, at + 0x6c);
  const [leaves, index] = [4000, at + 0x28];
  bytes.writeUInt16LE(1, index + 2);
  bytes.writeUInt16LE(1, index + 6);
  bytes.writeUInt32LE(0, index + 12);
  bytes.writeUInt32LE(leaves, index + 16);
  bytes.writeUInt16LE(0, index + 20);
  const leaf = leaves * 1024;
  bytes.writeUInt16LE(0xf30a, leaf);
  bytes.writeUInt16LE(80, leaf + 2);
  bytes.writeUInt16LE(84, leaf + 4);
  bytes.writeUInt16LE(0, leaf + 6);
  for (let i = 0; i < 80; i++) {
    bytes.writeUInt32LE(i * 1000, leaf + 12 + i * 12);
    bytes.writeUInt16LE(1000, leaf + 16 + i * 12);
    bytes.writeUInt16LE(0, leaf + 18 + i * 12);
    bytes.writeUInt32LE(3000, leaf + 20 + i * 12);
  }
  const path = join(top, 'endless');
  await writeFile(path, bytes);
  const inside = openSavedDisks({ run, tmp: top, limitMs: 100 });
  let turns = 0;
  const ticking = setInterval(() => turns++, 5);
  try {
    await assert.rejects(
      inside.readFile({ path, format: 'raw' }, '/many/nothing', new AbortController().signal),
      (error) => {
        assert(error instanceof Failure);
        assert.equal(error.code, 'timeout', error.message);
        assert.match(error.message, /longer than 0.1 seconds/);
        return true;
      },
    );
  } finally {
    clearInterval(ticking);
  }
  assert(turns >= 4, `others had ${turns} turns`);
});

test('a name with a slash or a NUL in it is never handed on', async () => {
  for (const byte of ['/', '\0']) {
    const bytes = Buffer.from(whole);
    const at = bytes.indexOf('name-17');
    bytes.write(byte, at + 4, 'latin1');
    await assert.rejects(async () => {
      for await (const _ of everything(await opened(bytes)));
    }, /a name that cannot be/);
  }
});
