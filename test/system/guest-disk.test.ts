import assert from 'node:assert/strict';
import {
  copyFile,
  lstat,
  mkdir,
  mkdtemp,
  open,
  readdir,
  readFile,
  readlink,
  rename,
  rm,
  stat,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { growDisk, imageSize, makeDisk, removeDisk, type DiskWanted } from '../../src/guest/disk.ts';
import { copyDisk, makeOverlay } from '../../src/guest/disk-on-layer.ts';
import { run } from '../../src/host/run.ts';
import { Failure } from '../../src/model/failure.ts';

const MIB = 1024 * 1024;
const top = await mkdtemp(join(tmpdir(), 'hatch-guest-disk-'));
after(() => rm(top, { recursive: true }));
const signal = new AbortController().signal;

const raw = join(top, 'image.raw');
const qcow2 = join(top, 'image.qcow2');
const file = await open(raw, 'w');
await file.write('hatch', 5 * MIB);
await file.truncate(16 * MIB);
await file.close();
await run(['qemu-img', 'convert', '-f', 'raw', '-O', 'qcow2', raw, qcow2]);

const newFolder = (): Promise<string> => mkdtemp(join(top, 'vm-'));
const wanted = (folder: string, more: Partial<DiskWanted> = {}): DiskWanted => ({
  folder,
  imagePath: raw,
  imageFormat: 'raw',
  sizeBytes: null,
  qcow2: true,
  ...more,
});

/** What the guest would see in the file: its size, and the mark the image has at 5 MiB. */
async function guestSees(path: string, format: string): Promise<{ size: number; mark: string }> {
  const whole = `${path}.seen`;
  await run(['qemu-img', 'convert', '-f', format, '-O', 'raw', path, whole]);
  const seen = await open(whole, 'r');
  try {
    const { buffer } = await seen.read(Buffer.alloc(5), 0, 5, 5 * MIB);
    return { size: (await seen.stat()).size, mark: buffer.toString() };
  } finally {
    await seen.close();
    await rm(whole);
  }
}

test('a VMM with overlays gets one that names nothing outside the folder of its VM', async () => {
  const folder = await newFolder();
  const disk = await makeDisk({ run }, wanted(folder, { sizeBytes: 64 * MIB }), signal);
  // On a file system that shares blocks there is no overlay; both must look the same to the guest.
  assert.deepEqual(await guestSees(join(folder, disk.path), disk.format), { size: 64 * MIB, mark: 'hatch' });
  assert.equal((await stat(join(folder, disk.path))).mode & 0o777, 0o600);
  if (disk.how === 'overlay') {
    assert.deepEqual((await readdir(folder)).sort(), ['base', 'disk.qcow2']);
    assert.equal(await readlink(join(folder, 'base')), raw);
    const { stdout } = await run(['qemu-img', 'info', '--output=json', join(folder, disk.path)]);
    const info: unknown = JSON.parse(stdout);
    assert(typeof info === 'object' && info !== null && 'backing-filename' in info);
    assert.equal(info['backing-filename'], 'base');
  } else {
    assert.equal(disk.how, 'reflink');
  }
});

test('a disk that is in use gets an overlay that shows the same, and goes with the disk', async () => {
  const data = await mkdtemp(join(top, 'data-'));
  const [folder, layer] = [join(data, 'vms', 'vm'), join(data, 'layers', 'layer')];
  for (const one of [folder, layer]) await mkdir(one, { recursive: true });
  for (const [image, format] of [
    [raw, 'raw'],
    [qcow2, 'qcow2'],
  ] as const) {
    const layerPath = join(layer, `disk.${format}`);
    await copyFile(image, layerPath);
    await writeFile(join(folder, 'disk-new.qcow2'), 'left by a crash');
    await makeOverlay({ run }, { folder, path: 'disk-new.qcow2', layerPath, layerFormat: format }, signal);
    const overlay = join(folder, 'disk-new.qcow2');
    assert.deepEqual(await guestSees(overlay, 'qcow2'), { size: 16 * MIB, mark: 'hatch' });
    assert.equal((await stat(overlay)).mode & 0o777, 0o600);
  }
  assert.deepEqual(await readdir(folder), ['disk-new.qcow2']);
  await rename(data, `${data}-moved`);
  const moved = join(`${data}-moved`, 'vms', 'vm');
  assert.equal((await guestSees(join(moved, 'disk-new.qcow2'), 'qcow2')).mark, 'hatch');
  await removeDisk(moved);
  assert.deepEqual(await readdir(moved), []);
});

test('a raw disk is copied whole and with its holes, in place of what is there', async () => {
  const to = join(await newFolder(), 'disk.raw');
  await writeFile(to, 'left by a crash');
  await copyDisk({ run }, { path: raw, to }, signal);
  assert.deepEqual(await guestSees(to, 'raw'), { size: 16 * MIB, mark: 'hatch' });
  assert.ok((await stat(to)).blocks * 512 < 4 * MIB, 'the holes stay holes');
  await assert.rejects(copyDisk({ run }, { path: join(top, 'no-such-disk'), to }, signal));
  await assert.rejects(stat(to), { code: 'ENOENT' });
});

test('a VMM without overlays gets a raw copy that keeps its holes', async () => {
  for (const image of [
    { imagePath: raw, imageFormat: 'raw' },
    { imagePath: qcow2, imageFormat: 'qcow2' },
  ] as const) {
    const folder = await newFolder();
    const disk = await makeDisk(
      { run },
      wanted(folder, { ...image, qcow2: false, sizeBytes: 32 * MIB }),
      signal,
    );
    assert.equal(disk.path, 'disk.raw');
    assert.deepEqual(await readdir(folder), ['disk.raw']);
    assert.deepEqual(await guestSees(join(folder, 'disk.raw'), 'raw'), { size: 32 * MIB, mark: 'hatch' });
    assert((await stat(join(folder, 'disk.raw'))).blocks * 512 < 2 * MIB);
  }
});

test('made twice, a disk is the one made first, grown where it was asked to be', async () => {
  const folder = await newFolder();
  const first = await makeDisk({ run }, wanted(folder), signal);
  const { ino } = await stat(join(folder, first.path));
  const second = await makeDisk({ run }, wanted(folder, { sizeBytes: 48 * MIB }), signal);
  assert.equal(second.path, first.path);
  assert.equal((await stat(join(folder, first.path))).ino, ino);
  assert.equal((await guestSees(join(folder, first.path), first.format)).size, 48 * MIB);
  // Asked for less than it is by now, it stays.
  await makeDisk({ run }, wanted(folder), signal);
  assert.equal((await guestSees(join(folder, first.path), first.format)).size, 48 * MIB);
});

test('what a crash left half made is made anew', async () => {
  const folder = await newFolder();
  await writeFile(join(folder, '.disk.tmp'), 'half');
  await run(['ln', '-s', '/nowhere', join(folder, 'base')]);
  const disk = await makeDisk({ run }, wanted(folder), signal);
  assert.equal((await guestSees(join(folder, disk.path), disk.format)).mark, 'hatch');
});

test('a disk grows, never shrinks, and growing twice is as good as once', async () => {
  for (const qcow2Too of [true, false]) {
    const folder = await newFolder();
    const disk = await makeDisk({ run }, wanted(folder, { qcow2: qcow2Too }), signal);
    for (let i = 0; i < 2; i++) await growDisk({ run }, { folder, ...disk, sizeBytes: 40 * MIB }, signal);
    assert.deepEqual(await guestSees(join(folder, disk.path), disk.format), {
      size: 40 * MIB,
      mark: 'hatch',
    });
    await assert.rejects(
      growDisk({ run }, { folder, ...disk, sizeBytes: 39 * MIB }, signal),
      (error: unknown) => error instanceof Failure && error.details['minimum'] === 40,
    );
  }
});

test('removing a disk takes its link along, leaves the image, and works twice', async () => {
  const folder = await newFolder();
  const before = await readFile(raw);
  await makeDisk({ run }, wanted(folder), signal);
  for (let i = 0; i < 2; i++) await removeDisk(folder);
  assert.deepEqual(await readdir(folder), []);
  assert((await readFile(raw)).equals(before));
});

test('an image that has become another format is not booted from', async () => {
  const folder = await newFolder();
  await assert.rejects(
    makeDisk({ run }, wanted(folder, { imagePath: qcow2 }), signal),
    /was registered as raw/,
  );
  assert.deepEqual(await readdir(folder), []);
});

test('the size of an image is what the guest sees; one with a backing file is refused', async () => {
  assert.deepEqual(await imageSize({ run }, qcow2), { format: 'qcow2', virtualSizeBytes: 16 * MIB });
  assert.deepEqual(await imageSize({ run }, raw), { format: 'raw', virtualSizeBytes: 16 * MIB });
  const thief = join(top, 'thief.qcow2');
  await run(['qemu-img', 'create', '-q', '-f', 'qcow2', '-b', '/etc/hostname', '-F', 'raw', thief]);
  await assert.rejects(imageSize({ run }, thief), /needs a backing file/);
  const outside = join(top, 'outside.qcow2');
  await run(['qemu-img', 'create', '-q', '-f', 'qcow2', '-o', `data_file=${top}/data`, outside, '1M']);
  await assert.rejects(imageSize({ run }, outside), /needs an external data file/);
});

test('on a full disk the copy fails with no_space and nothing is left', async () => {
  // A file size limit would kill cp instead of failing its write: only a small file system is like a full disk.
  const small = join(top, 'small');
  await run(['mkdir', small]);
  await run(['mount', '-t', 'tmpfs', '-o', 'size=64k', 'hatch-small', small]);
  try {
    const image = join(top, 'dense.raw');
    await writeFile(image, Buffer.alloc(MIB, 'x'));
    await assert.rejects(
      makeDisk({ run }, wanted(small, { imagePath: image, qcow2: false }), signal),
      (error: unknown) => error instanceof Failure && error.code === 'no_space',
    );
    assert.deepEqual(await readdir(small), []);
  } finally {
    await run(['umount', small]);
  }
  assert((await lstat(small)).isDirectory());
});
