import assert from 'node:assert/strict';
import {
  chmod,
  utimes,
  mkdir,
  mkdtemp,
  open,
  readFile,
  readdir,
  rm,
  symlink,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { buffer } from 'node:stream/consumers';
import { after, test } from 'node:test';
import { CommandFailed, run, type Run } from '../../host/run.ts';
import { Failure } from '../../model/failure.ts';
import { openSavedDisks } from './inside.ts';
import { debugfs, makeExt4, names, read } from './testing.ts';

const top = await mkdtemp(join(tmpdir(), 'hatch-saved-disk-'));
after(() => rm(top, { recursive: true }));
const signal = new AbortController().signal;
const disks = openSavedDisks({ run, tmp: top });

const ODD = ['new\nline', 'quote"\'$(x)', ' space ', '/é'.slice(1), '-rf', '..a', 'x'.repeat(255)];
const NOT_TEXT = Buffer.from('caf\xe9\xff', 'latin1');
const LONG_TARGET = `/etc/${'../etc/'.repeat(20)}hosts`;

/** What every kind of file system in these tests is made of. */
const tree = join(top, 'tree');
await mkdir(join(tree, 'etc'), { recursive: true });
await mkdir(join(tree, 'odd'));
await mkdir(join(tree, 'many'));
await mkdir(join(tree, 'links'));
await writeFile(join(tree, 'etc/hosts'), '127.0.0.1 localhost\n');
await writeFile(join(tree, 'etc/passwd'), "the guest's own\n");
await writeFile(join(tree, 'empty'), '');
await writeFile(join(tree, 'tool'), '#!/bin/sh\n');
await chmod(join(tree, 'tool'), 0o4755);
for (const name of ODD) await writeFile(join(tree, 'odd', name), name);
await writeFile(Buffer.concat([Buffer.from(join(tree, 'odd/')), NOT_TEXT]), 'bytes');
for (let i = 0; i < 300; i++) await writeFile(join(tree, `many/${i}-with-a-name-of-some-length`), String(i));
for (const [name, target] of Object.entries({
  short: '../etc/hosts',
  long: LONG_TARGET,
  absolute: '/etc/passwd',
  out: '../../../../../../etc/passwd',
  folder: '/etc',
  chain: 'short',
  round: 'about',
  about: 'round',
  nowhere: 'nothing',
}))
  await symlink(target, join(tree, 'links', name));
const big = Buffer.alloc(3_000_000, 'hatch');
await writeFile(join(tree, 'big'), big);
const holes = await open(join(tree, 'holes'), 'w');
for (const at of [0, 700_001, 2_999_990]) await holes.write('mark', at);
await holes.truncate(5_000_000);
await holes.close();
await utimes(join(tree, 'empty'), new Date(-1_000_000), new Date(-1_000_000));

for (const [what, args] of [
  ['as Debian makes it', []],
  ['with blocks of 4 KiB', ['-b', '4096']],
  ['ext2, which has no journal and no extents', ['-t', 'ext2']],
  ['ext3', ['-t', 'ext3', '-b', '1024']],
  ['with small files in their inodes', ['-O', 'inline_data']],
  ['with groups of descriptors among the others', ['-O', 'meta_bg,^resize_inode', '-b', '1024', '-g', '256']],
  ['with 64 KiB blocks', ['-b', '65536']],
  ['without checksums and 64 bits', ['-O', '^metadata_csum,^64bit', '-I', '128']],
  ['with clusters', ['-O', 'bigalloc', '-C', '16384']],
  ['with two copies of the superblock', ['-O', 'sparse_super2,^resize_inode']],
] as const) {
  test(`a file system ${what} reads as it was written`, async () => {
    const size = what.includes('64 KiB') ? '128M' : '24M';
    const disk = await makeExt4(join(top, 'kind.ext4'), { from: tree, args, size });
    assert.deepEqual(await names(disks, disk, '/'), [...(await readdir(tree)), 'lost+found'].sort());
    assert.equal((await read(disks, disk, '/etc/hosts')).toString(), '127.0.0.1 localhost\n');
    assert((await read(disks, disk, '/big')).equals(big));
    // As e2fsprogs reads it: what mke2fs makes of the hole at the end is its own affair.
    const dumped = join(top, 'dumped');
    await debugfs(disk.path, [`dump /holes ${dumped}`]);
    assert((await read(disks, disk, '/holes')).equals(await readFile(dumped)));
    assert.equal((await read(disks, disk, '/empty')).length, 0);
    assert.equal((await read(disks, disk, '/links/long')).toString(), '127.0.0.1 localhost\n');
    assert.equal((await names(disks, disk, '/many')).length, 300);
    const { entries } = await disks.listFiles(disk, { path: '/links', limit: 100 }, signal);
    assert.equal(entries.find(({ name }) => name.text === 'long')?.target?.text, LONG_TARGET);
    assert.equal(entries.find(({ name }) => name.text === 'short')?.target?.text, '../etc/hosts');
    for (const name of ODD) assert.equal((await read(disks, disk, `/odd/${name}`)).toString(), name);
    const found = [];
    for await (const change of disks.diffDisks(disk, disk, { path: '/' }, signal)) found.push(change);
    assert.deepEqual(found, []);
  });
}

const disk = await makeExt4(join(top, 'disk.ext4'), { from: tree });

test('a listing says of each file what Linux would', async () => {
  const { entries, next } = await disks.listFiles(disk, { path: '/', limit: 100 }, signal);
  assert.equal(next, null);
  const entry = (name: string) => entries.find((one) => one.name.text === name);
  const uid = process.getuid?.();
  assert.deepEqual(entry('tool'), {
    name: { text: 'tool', bytes: null },
    kind: 'file',
    sizeBytes: 10,
    mode: 0o4755,
    uid,
    gid: process.getgid?.(),
    modifiedAt: entry('tool')?.modifiedAt,
    target: null,
  });
  assert.equal(entry('empty')?.modifiedAt, -1_000_000);
  assert.equal(entry('etc')?.kind, 'folder');
});

test('times after 2038 and parts of a second are read', async () => {
  const later = await makeExt4(join(top, 'later.ext4'), { from: tree });
  const [nanoseconds, beyond32Bits] = [250_000_000, 1];
  await debugfs(later.path, [
    'sif /tool mtime @5000000000',
    `sif /tool mtime_extra ${nanoseconds * 4 + beyond32Bits}`,
  ]);
  const { facts, content } = await disks.readFile(later, '/tool', signal);
  content.destroy();
  assert.equal(facts.modifiedAt, 5_000_000_000_250);
});

test('a name that is no text is told by its bytes, and found by them', async () => {
  const { entries } = await disks.listFiles(disk, { path: '/odd', limit: 100 }, signal);
  const bytes = entries.flatMap(({ name }) => (name.bytes ? [name] : []));
  assert.deepEqual(bytes, [{ text: 'caf\ufffd\ufffd', bytes: NOT_TEXT }]);
  assert.equal(
    (await read(disks, disk, Buffer.concat([Buffer.from('/odd/'), NOT_TEXT]))).toString(),
    'bytes',
  );
});

test('links and dots never lead out of the disk', async () => {
  for (const path of [
    '/links/absolute',
    '/links/out',
    '/../../etc/passwd',
    '/etc/../../etc/./passwd',
    '//etc//passwd',
  ])
    assert.equal((await read(disks, disk, path)).toString(), "the guest's own\n", path);
  assert.deepEqual(await names(disks, disk, '/links/folder/'), ['hosts', 'passwd']);
  assert.equal((await read(disks, disk, '/links/chain')).toString(), '127.0.0.1 localhost\n');
});

for (const [path, code, says] of [
  ['etc', 'invalid_request', /"path" must be absolute/],
  ['', 'invalid_request', /"path" must be absolute/],
  ['/a\0b', 'invalid_request', /NUL/],
  [`/${'a'.repeat(4096)}`, 'invalid_request', /at most 4096 bytes/],
  ['/links/round', 'invalid_request', /more than 40 links/],
  ['/links/nowhere', 'not_found', /nothing at "\/links\/nowhere"/],
  ['/etc/hosts/x', 'not_found', /nothing at/],
  ['/etc/hosts/', 'not_found', /nothing at/],
  ['/etc/hosts/..', 'not_found', /nothing at/],
  ['/é', 'not_found', /nothing at "\/é"/],
] as const) {
  test(`a path such as ${JSON.stringify(path.slice(0, 20))} is refused: ${code}`, async () => {
    const refused = (error: unknown): boolean => {
      assert(error instanceof Failure);
      assert.equal(error.code, code);
      assert.match(error.message, says);
      assert(code === 'not_found' ? error.details['path'] === path : error.details['field'] === 'path');
      return true;
    };
    await assert.rejects(disks.listFiles(disk, { path, limit: 10 }, signal), refused);
    await assert.rejects(disks.readFile(disk, path, signal), refused);
    await assert.rejects(disks.diffDisks(disk, disk, { path }, signal).next(), refused);
  });
}

test('a folder is not read and a file is not listed', async () => {
  await assert.rejects(disks.readFile(disk, '/etc', signal), /"path" is a folder, not a file/);
  await assert.rejects(
    disks.listFiles(disk, { path: '/empty', limit: 1 }, signal),
    /"path" is a file, not a folder/,
  );
});

test('a large folder comes in pages, each name once', async () => {
  const seen: string[] = [];
  let after: string | undefined;
  do {
    const page = await disks.listFiles(disk, { path: '/many', limit: 97, after }, signal);
    assert(page.entries.length <= 97);
    seen.push(...page.entries.map(({ name }) => name.text));
    after = page.next ?? undefined;
  } while (after !== undefined);
  assert.equal(seen.length, 300);
  assert.equal(new Set(seen).size, 300);
  await assert.rejects(
    disks.listFiles(disk, { path: '/many', limit: 1, after: 'x' }, signal),
    /"after" must be/,
  );
});

test('what is no ext4 is refused with what it is', async () => {
  const other = join(top, 'other');
  const refused = async (says: RegExp): Promise<void> => {
    await assert.rejects(
      disks.listFiles({ path: other, format: 'raw' }, { path: '/', limit: 1 }, signal),
      (error) => {
        assert(error instanceof Failure);
        assert.equal(error.code, 'invalid_request');
        assert.match(error.message, says);
        return true;
      },
    );
  };
  const bytes = Buffer.alloc(1024 * 1024);
  await writeFile(other, bytes);
  await refused(/holds nothing Hatch knows, and only ext4/);
  bytes.writeUInt16LE(0xaa55, 510);
  await writeFile(other, bytes);
  await refused(/partition table/);
  bytes.write('XFSB', 0);
  await writeFile(other, bytes);
  await refused(/holds XFS/);
  await writeFile(other, 'x');
  await refused(/nothing Hatch knows/);
});

test('a raw disk that begins like a qcow2 is never taken for one', async () => {
  const secret = join(top, 'secret');
  await writeFile(secret, Buffer.alloc(1024 * 1024, 's'));
  const trap = join(top, 'trap');
  await run(['qemu-img', 'create', '-q', '-f', 'qcow2', '-b', secret, '-F', 'raw', trap]);
  await assert.rejects(
    disks.listFiles({ path: trap, format: 'raw' }, { path: '/', limit: 1 }, signal),
    /nothing Hatch knows/,
  );
});

test('a chain of qcow2 files is read through, and the program that does it ends', async () => {
  const chain = join(top, 'chain');
  await mkdir(chain);
  const base = join(chain, 'base.raw');
  await run(['cp', disk.path, base]);
  await run(['qemu-img', 'create', '-q', '-f', 'qcow2', '-b', 'base.raw', '-F', 'raw', 'one.qcow2'], {
    cwd: chain,
  });
  await run(['qemu-img', 'create', '-q', '-f', 'qcow2', '-b', 'one.qcow2', '-F', 'qcow2', 'two.qcow2'], {
    cwd: chain,
  });
  // A guest wrote to the second layer, and then to the third.
  const [first = '', second = ''] = (await debugfs(base, ['bmap /big 0', 'bmap /big 1'])).trim().split('\n');
  for (const [layer, block, byte] of [
    ['one', first, 'A'],
    ['one', second, 'B'],
    ['two', second, 'C'],
  ] as const) {
    const write = `write -P ${byte.charCodeAt(0)} ${Number(block) * 1024} 1024`;
    await run(['qemu-io', '-f', 'qcow2', '-c', write, `${layer}.qcow2`], { cwd: chain });
  }
  const expected = Buffer.from(big).fill('A', 0, 1024).fill('C', 1024, 2048);
  const running: Promise<unknown>[] = [];
  const watched: Run = (argv, options) => {
    const ends = run(argv, options);
    running.push(ends);
    return ends;
  };
  const tmp = join(chain, 'tmp');
  await mkdir(tmp);
  const inside = openSavedDisks({ run: watched, tmp });
  const two = { path: join(chain, 'two.qcow2'), format: 'qcow2' } as const;
  assert((await read(inside, two, '/big')).equals(expected));
  assert.deepEqual(await names(inside, two, '/etc'), ['hosts', 'passwd']);
  await Promise.all(running);
  assert.equal(running.length, 2);

  // Also when the reader goes away in the middle, or never reads at all.
  const cancel = new AbortController();
  const { content } = await inside.readFile(two, '/big', cancel.signal);
  const begin = await new Promise((resolve) => content.once('data', resolve));
  assert(begin instanceof Buffer && begin.equals(expected.subarray(0, begin.length)));
  const broken = new Promise((resolve) => content.once('error', resolve));
  const closed = new Promise((resolve) => content.once('close', resolve));
  cancel.abort(new Error('the client hung up'));
  assert.match(String(await broken), /hung up/);
  await closed;
  const unread = await inside.readFile(two, '/big', signal);
  unread.content.destroy();
  await new Promise((resolve) => unread.content.once('close', resolve));
  await Promise.allSettled(running);
  assert.deepEqual(await readdir(tmp), []);
});

test('without qemu-nbd the package that brings it is named', async () => {
  const missing: Run = (argv) =>
    Promise.reject(new CommandFailed(argv, 'is not installed', { missing: true }));
  const inside = openSavedDisks({ run: missing, tmp: top });
  await assert.rejects(
    inside.listFiles({ path: disk.path, format: 'qcow2' }, { path: '/', limit: 1 }, signal),
    (error) => {
      assert(error instanceof Failure);
      assert.equal(error.code, 'unavailable');
      assert.match(error.message, /lacks the program qemu-nbd; install the package qemu-utils/);
      return true;
    },
  );
});

test('a file is read no faster than it is taken, and 2 GiB of it in little memory', async () => {
  const folder = join(top, 'sparse');
  await mkdir(folder);
  const file = await open(join(folder, 'large'), 'w');
  await file.write('end', 2 * 1024 ** 3 - 3);
  await file.close();
  const large = await makeExt4(join(top, 'large.ext4'), { from: folder });
  const { content, sizeBytes } = await disks.readFile(large, '/large', signal);
  assert.equal(sizeBytes, 2 * 1024 ** 3);
  await new Promise((resolve) => content.once('readable', resolve));
  assert(content.readableLength <= 512 * 1024, String(content.readableLength));
  const before = process.memoryUsage().rss;
  let bytes = 0;
  let most = 0;
  let last = Buffer.alloc(0);
  for await (const chunk of content) {
    assert(chunk instanceof Buffer);
    bytes += chunk.length;
    most = Math.max(most, process.memoryUsage().rss);
    last = Buffer.from(chunk);
  }
  assert.equal(bytes, 2 * 1024 ** 3);
  assert.equal(last.subarray(-3).toString(), 'end');
  // What the collector has not come to yet is most of it.
  assert(most - before < 160 * 1024 * 1024, `grew by ${most - before} bytes`);
});

test('only so many disks are looked into at once, and a closed one makes room', async () => {
  const inside = openSavedDisks({ run, tmp: top, mostOpen: 1 });
  const { content } = await inside.readFile(disk, '/big', signal);
  await assert.rejects(inside.listFiles(disk, { path: '/', limit: 1 }, signal), (error) => {
    assert(error instanceof Failure);
    assert.equal(error.code, 'unavailable');
    return true;
  });
  assert((await buffer(content)).equals(big));
  await assert.rejects(inside.readFile(disk, '/nothing', signal), /nothing at/);
  assert.equal((await inside.listFiles(disk, { path: '/', limit: 1 }, signal)).entries.length, 1);
});

test('a caller who has gone is not served, with the reason of going', async () => {
  const gone = AbortSignal.abort(new Error('the client hung up'));
  await assert.rejects(disks.listFiles(disk, { path: '/', limit: 1 }, gone), /hung up/);
  await assert.rejects(disks.readFile(disk, '/big', gone), /hung up/);
  await assert.rejects(disks.diffDisks(disk, disk, { path: '/' }, gone).next(), /hung up/);
});
