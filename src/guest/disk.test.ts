import assert from 'node:assert/strict';
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { CommandFailed, type Run } from '../host/run.ts';
import { Failure } from '../model/failure.ts';
import { imageSize, makeDisk } from './disk.ts';
import { parseDiskHeader } from './qcow2.ts';

const top = await mkdtemp(join(tmpdir(), 'hatch-disk-'));
after(() => rm(top, { recursive: true }));
const signal = new AbortController().signal;

function qcow2Header({ version = 3, backing = 0n, features = 0n, crypt = 0, size = 1n << 30n } = {}): Buffer {
  const header = Buffer.alloc(104);
  header.write('QFI\xfb', 0, 'latin1');
  header.writeUInt32BE(version, 4);
  header.writeBigUInt64BE(backing, 8);
  header.writeBigUInt64BE(size, 24);
  header.writeUInt32BE(crypt, 32);
  header.writeBigUInt64BE(features, 72);
  return header;
}

test('a header says what a disk image is and what else it would open', () => {
  const whole = { format: 'qcow2', virtualSizeBytes: 1 << 30, backingFile: false, dataFile: false };
  assert.deepEqual(parseDiskHeader(qcow2Header()), whole);
  assert.deepEqual(parseDiskHeader(qcow2Header({ backing: 512n })), { ...whole, backingFile: true });
  assert.deepEqual(parseDiskHeader(qcow2Header({ features: 4n })), { ...whole, dataFile: true });
  // Version 2 has no feature bits: what lies there is something else.
  assert.deepEqual(parseDiskHeader(qcow2Header({ version: 2, features: 4n })), whole);
  assert.deepEqual(parseDiskHeader(Buffer.alloc(0)), { format: 'raw' });
  assert.deepEqual(parseDiskHeader(Buffer.alloc(104)), { format: 'raw' });
});

test('formats that are not taken are named', () => {
  const name = (start: Buffer): string => {
    const header = parseDiskHeader(start);
    return header.format === 'other' ? header.name : header.format;
  };
  assert.equal(name(qcow2Header({ version: 1 })), 'qcow');
  assert.equal(name(qcow2Header({ version: 9 })), 'broken qcow2');
  assert.equal(name(qcow2Header({ crypt: 2 })), 'encrypted qcow2');
  assert.equal(name(qcow2Header().subarray(0, 40)), 'broken qcow2');
  assert.equal(name(Buffer.from('KDMV....')), 'VMDK');
  assert.equal(name(Buffer.from('LUKS\xba\xbe\0\x02', 'latin1')), 'LUKS');
});

test('an image that points at other files is refused before any program opens it', async () => {
  const started: string[] = [];
  const run: Run = async (argv) => {
    started.push(argv[0]);
    return { stdout: '', stderr: '', exitCode: 0 };
  };
  for (const header of [{ backing: 512n }, { features: 4n }]) {
    const path = join(top, 'image.qcow2');
    await writeFile(path, qcow2Header(header));
    await assert.rejects(imageSize({ run }, path), (error: unknown) => {
      assert(error instanceof Failure);
      assert.equal(error.code, 'invalid_request');
      assert.match(error.message, /make it whole with "qemu-img convert/);
      assert(!error.message.includes(top));
      return true;
    });
  }
  assert.deepEqual(started, []);
});

test('a disk that cannot be made for want of space leaves nothing but says so', async () => {
  const folder = await mkdtemp(join(top, 'vm-'));
  const image = join(top, 'image.raw');
  await writeFile(image, Buffer.alloc(4096));
  const full: Run = async (argv) => {
    await writeFile(join(folder, '.disk.tmp'), 'half');
    throw new CommandFailed(argv, 'ended with exit code 1', { stderrTail: 'No space left on device' });
  };
  const wanted = { folder, imagePath: image, imageFormat: 'raw', sizeBytes: null, qcow2: false } as const;
  await assert.rejects(
    makeDisk({ run: full }, wanted, signal),
    (error: unknown) => error instanceof Failure && error.code === 'no_space',
  );
  assert.deepEqual(await readdir(folder), []);
});

test('a disk smaller than its image is refused with the least that will do', async () => {
  const folder = await mkdtemp(join(top, 'vm-'));
  const image = join(top, 'three.raw');
  await writeFile(image, Buffer.alloc(3 * 1024 * 1024 - 512));
  const never: Run = async () => assert.fail('nothing is to be run');
  await assert.rejects(
    makeDisk(
      { run: never },
      { folder, imagePath: image, imageFormat: 'raw', sizeBytes: 1024 * 1024, qcow2: true },
      signal,
    ),
    (error: unknown) =>
      error instanceof Failure &&
      error.details['field'] === 'disk_mib' &&
      error.details['minimum'] === 3 &&
      /at least 3/.test(error.message),
  );
  assert.deepEqual(await readdir(folder), []);
});

test('an image whose file was taken away is told as that, without its path', async () => {
  const folder = await mkdtemp(join(top, 'vm-'));
  const never: Run = async () => assert.fail('nothing is to be run');
  const imagePath = join(top, 'taken-away.raw');
  await assert.rejects(
    makeDisk({ run: never }, { folder, imagePath, imageFormat: 'raw', sizeBytes: null, qcow2: true }, signal),
    (error: unknown) => {
      assert(error instanceof Failure);
      assert.equal(error.code, 'unavailable');
      assert.match(error.message, /no longer on the host; put its file back, or register the image anew\.$/);
      assert(!error.message.includes(top));
      return true;
    },
  );
  assert.deepEqual(await readdir(folder), []);
});
