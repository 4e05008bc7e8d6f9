import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { copyFile, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { run } from '../../host/run.ts';
import { openSavedDisks } from './inside.ts';
import { debugfs, makeExt4, names, read } from './testing.ts';

const top = await mkdtemp(join(tmpdir(), 'hatch-journal-'));
after(() => rm(top, { recursive: true }));
const disks = openSavedDisks({ run, tmp: top });

const tree = join(top, 'tree');
await mkdir(join(tree, 'folder'), { recursive: true });
const BLOCKS = 6;
for (const name of ['one', 'two', 'three'])
  await writeFile(join(tree, name), Buffer.alloc(BLOCKS * 4096, name));
await writeFile(join(tree, 'folder/in'), 'in');

const block = (text: string): Buffer => Buffer.alloc(4096, text);
const sha256 = async (path: string): Promise<string> =>
  createHash('sha256')
    .update(await readFile(path))
    .digest('hex');

/** A disk whose journal was written and not replayed; `script` gives debugfs commands, and `put` makes a file of blocks for them. */
async function journaled(
  args: readonly string[],
  script: (tools: {
    readonly place: (path: string, index: number) => Promise<number>;
    readonly put: (...blocks: readonly Buffer[]) => Promise<string>;
  }) => Promise<readonly string[]>,
) {
  const folder = await mkdtemp(join(top, 'disk-'));
  const disk = await makeExt4(join(folder, 'disk'), { from: tree, args: ['-b', '4096', ...args] });
  let files = 0;
  const commands = await script({
    place: async (path, index) => Number(await debugfs(disk.path, [`bmap ${path} ${index}`])),
    put: async (...blocks) => {
      const path = join(folder, `blocks${files++}`);
      await writeFile(path, Buffer.concat(blocks));
      return path;
    },
  });
  await debugfs(disk.path, commands);
  return disk;
}

/** The same disk after e2fsck has replayed its journal. */
async function replayed(path: string) {
  await copyFile(path, `${path}.replayed`);
  await run(['e2fsck', '-E', 'journal_only', '-fy', `${path}.replayed`], { okExitCodes: [0, 1] });
  return { path: `${path}.replayed`, format: 'raw' } as const;
}

for (const [what, args, open] of [
  ['as Debian makes it, with checksums', [], 'jo -c'],
  ['with the second kind of checksums', [], 'jo -c -v 2'],
  ['without checksums', [], 'jo'],
  ['of 32 bits', ['-O', '^64bit,^metadata_csum'], 'jo'],
  ['of 32 bits with the second kind of checksums', ['-O', '^64bit'], 'jo -c -v 2'],
  ['of ext3', ['-t', 'ext3'], 'jo'],
] as const) {
  test(`a journal ${what} is read as e2fsck replays it, and the disk stays as it is`, async () => {
    const disk = await journaled(args, async ({ place, put }) => {
      const [a, b, c] = [await place('/one', 0), await place('/one', 3), await place('/two', 1)];
      const magic = Buffer.concat([Buffer.from('c03b3998', 'hex'), block('begins like the journal')], 4096);
      return [
        open,
        `jw -b ${a},${b} ${await put(block('first'), block('second'))}`,
        `jw -b ${b},${c} ${await put(block('newer'), magic)}`,
        // Taken back: what the first transactions say of it is not to be replayed.
        `jw -r ${a} /dev/null`,
        `jw -c -b ${await place('/three', 0)} ${await put(block('never committed'))}`,
        'jc',
      ];
    });
    const hash = await sha256(disk.path);
    const whole = await replayed(disk.path);
    for (const path of ['/one', '/two', '/three', '/folder/in'])
      assert((await read(disks, disk, path)).equals(await read(disks, whole, path)), path);
    // And it was something to replay.
    const one = Buffer.alloc(BLOCKS * 4096, 'one');
    one.set(block('newer'), 3 * 4096);
    assert((await read(disks, disk, '/one')).equals(one));
    assert.equal((await read(disks, disk, '/two')).toString('hex', 4096, 4100), 'c03b3998');
    assert((await read(disks, disk, '/three')).equals(Buffer.alloc(BLOCKS * 4096, 'three')));
    assert.equal(await sha256(disk.path), hash);
  });
}

test('a folder and its files that are only in the journal are found', async () => {
  // What a guest that made them would have written: taken from a disk where it was done.
  const done = await makeExt4(join(top, 'done'), { from: tree, args: ['-b', '4096'] });
  const plain = join(top, 'plain');
  await copyFile(done.path, plain);
  await writeFile(join(top, 'new'), 'fsynced');
  await debugfs(done.path, ['mkdir /folder/new', `write ${join(top, 'new')} /folder/new/file`]);
  const [before, now] = [await readFile(plain), await readFile(done.path)];
  const changed = Array.from({ length: now.length / 4096 }, (_, i) => i).filter(
    (i) => !now.subarray(i * 4096, (i + 1) * 4096).equals(before.subarray(i * 4096, (i + 1) * 4096)),
  );
  const blocks = join(top, 'changed');
  await writeFile(blocks, Buffer.concat(changed.map((i) => now.subarray(i * 4096, (i + 1) * 4096))));
  await debugfs(plain, ['jo -c', `jw -b ${changed.join(',')} ${blocks}`, 'jc']);
  const disk = { path: plain, format: 'raw' } as const;
  assert.deepEqual(await names(disks, disk, '/folder'), ['in', 'new']);
  assert.equal((await read(disks, disk, '/folder/new/file')).toString(), 'fsynced');
});

test('a journal that goes round is followed from its end to its beginning', async () => {
  const disk = await journaled(['-J', 'size=4'], async ({ place, put }) => {
    const [a, b] = [await place('/one', 0), await place('/two', 0)];
    return [
      'jo -c',
      `jw -b ${a},${b} ${await put(block('first'), block('first'))}`,
      `jw -b ${a},${b} ${await put(block('last'), block('last'))}`,
      'jc',
    ];
  });
  // The eight blocks of the log move so that they begin three before the end of the journal.
  const bytes = await readFile(disk.path);
  const at = async (index: number): Promise<number> =>
    Number(await debugfs(disk.path, [`bmap <8> ${index}`])) * 4096;
  const journal = await at(0);
  const length = bytes.readUInt32BE(journal + 0x10);
  const log = [];
  for (let i = 1; i <= 8; i++) log.push(Buffer.from(bytes.subarray(await at(i), (await at(i)) + 4096)));
  for (let i = 1; i <= 8; i++) bytes.fill(0, await at(i), (await at(i)) + 4096);
  const begin = length - 3;
  for (const [i, content] of log.entries()) {
    const index = begin + i < length ? begin + i : begin + i - length + 1;
    content.copy(bytes, await at(index));
  }
  bytes.writeUInt32BE(begin, journal + 0x1c);
  await writeFile(disk.path, bytes);
  assert((await read(disks, disk, '/one')).subarray(0, 4096).equals(block('last')));
  assert((await read(disks, disk, '/two')).subarray(0, 4096).equals(block('last')));
});

test('a journal that cannot be is refused as damage', async () => {
  const disk = await journaled([], async ({ place, put }) => [
    'jo -c',
    `jw -b ${await place('/one', 0)} ${await put(block('new'))}`,
    'jc',
  ]);
  const whole = await readFile(disk.path);
  const journal = Number(await debugfs(disk.path, ['bmap <8> 0'])) * 4096;
  for (const [at, value] of [
    [0, 0],
    [0xc, 1024],
    [0x10, 0xffffffff],
    [0x14, 0],
    [0x1c, 0xffffffff],
    [0x28, 0x8000],
  ] as const) {
    const bytes = Buffer.from(whole);
    bytes.writeUInt32BE(value, journal + at);
    await writeFile(disk.path, bytes);
    await assert.rejects(read(disks, disk, '/one'), /its journal/, `at ${at}`);
  }
});
