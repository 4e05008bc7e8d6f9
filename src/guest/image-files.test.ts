import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import type { Run } from '../host/run.ts';
import { Failure } from '../model/failure.ts';
import { inspectImageFiles, sha256OfFile, type ImageFiles } from './image-files.ts';
import { diskContent, kernelKind, looksLikeInitrd } from './image-magic.ts';

const top = await mkdtemp(join(tmpdir(), 'hatch-image-files-'));
after(() => rm(top, { recursive: true }));
const allowedDir = join(top, 'images');
const outsideDir = join(top, 'outside');
await mkdir(join(allowedDir, 'sub'), { recursive: true });
await mkdir(outsideDir);

function bzImage(): Buffer {
  const kernel = Buffer.alloc(2048);
  kernel.writeUInt16LE(0xaa55, 0x1fe);
  kernel.write('HdrS', 0x202);
  return kernel;
}

function vmlinux(): Buffer {
  const kernel = Buffer.alloc(128);
  kernel.write('\x7fELF\x02', 0, 'latin1');
  return kernel;
}

function ext4({ blocks = 4, feature64 = false } = {}): Buffer {
  const disk = Buffer.alloc(16 * 1024);
  disk.writeUInt16LE(0xef53, 1024 + 0x38);
  disk.writeUInt32LE(2, 1024 + 0x18);
  disk.writeUInt32LE(blocks, 1024 + 0x4);
  if (feature64) {
    disk.writeUInt32LE(0x80, 1024 + 0x60);
    disk.writeUInt32LE(1, 1024 + 0x150);
  }
  return disk;
}

const put = async (path: string, content: Buffer | string): Promise<string> => {
  await writeFile(path, content);
  return path;
};
const kernel = await put(join(allowedDir, 'vmlinuz'), bzImage());
const rootfs = await put(join(allowedDir, 'rootfs.ext4'), ext4());
const initrd = await put(join(allowedDir, 'initrd'), Buffer.of(0x1f, 0x8b, 8));

const never: Run = async (argv) => assert.fail(`nothing is to be run: ${argv.join(' ')}`);
const inspect = (files: Partial<ImageFiles>): ReturnType<typeof inspectImageFiles> =>
  inspectImageFiles(
    { run: never },
    { kernelPath: kernel, rootfsPath: rootfs, allowedDirs: [allowedDir], ...files },
  );

const refused = (field: string, message: RegExp) => (error: unknown) => {
  assert(error instanceof Failure, String(error));
  assert.equal(error.code, 'invalid_request');
  assert.equal(error.details['field'], field);
  assert.match(error.message, message);
  assert(!error.message.includes(top), 'the message must not hold a path');
  return true;
};

test('a kernel, an initrd and a file system that lie where they may are given with their links resolved', async () => {
  const link = join(allowedDir, 'sub', 'link');
  await symlink('../rootfs.ext4', link);
  assert.deepEqual(await inspect({ rootfsPath: link, initrdPath: initrd }), {
    kernel: { path: kernel, kind: 'bzImage' },
    initrdPath: initrd,
    rootfsPath: rootfs,
    rootfsFormat: 'raw',
    sizeBytes: 16 * 1024,
    needsConversion: false,
  });
});

test('an allowed folder may be a link itself, and one that is not there allows nothing', async () => {
  const folder = join(top, 'folder-link');
  await symlink(allowedDir, folder);
  assert.equal((await inspect({ allowedDirs: [folder] })).rootfsPath, rootfs);
  await assert.rejects(
    inspect({ allowedDirs: [join(top, 'nowhere')] }),
    refused('rootfs_path', /HATCH_IMAGE_DIRS/),
  );
});

test('a file outside is refused with the same words as one that is not there', async () => {
  const secret = await put(join(outsideDir, 'rootfs.ext4'), ext4());
  await symlink(secret, join(allowedDir, 'link-out'));
  await symlink(outsideDir, join(allowedDir, 'folder-out'));
  const paths = [
    secret,
    join(outsideDir, 'not-there'),
    join(allowedDir, 'link-out'),
    join(allowedDir, 'folder-out', 'rootfs.ext4'),
    join(allowedDir, 'folder-out', 'not-there'),
    join(allowedDir, '..', 'outside', 'rootfs.ext4'),
    `${allowedDir}-not/rootfs.ext4`,
    allowedDir,
    '/etc/shadow',
  ];
  const messages = new Set<string>();
  for (const path of paths) {
    await assert.rejects(inspect({ rootfsPath: path }), (error: unknown) => {
      if (error instanceof Failure) messages.add(error.message);
      return refused('rootfs_path', /HATCH_IMAGE_DIRS/)(error);
    });
  }
  assert.equal(messages.size, 1);
});

test('what is no regular file, or is not there, is refused by field', async () => {
  await symlink('nowhere', join(allowedDir, 'dangling'));
  const socket = join(allowedDir, 'socket');
  const server = createServer().listen(socket);
  await new Promise((resolve) => server.once('listening', resolve));
  try {
    await assert.rejects(
      inspect({ rootfsPath: join(allowedDir, 'sub') }),
      refused('rootfs_path', /regular file/),
    );
    await assert.rejects(inspect({ kernelPath: socket }), refused('kernel_path', /regular file/));
    await assert.rejects(
      inspect({ kernelPath: '/dev/zero', allowedDirs: [allowedDir, '/dev'] }),
      refused('kernel_path', /regular file/),
    );
    await assert.rejects(
      inspect({ initrdPath: join(allowedDir, 'no') }),
      refused('initrd_path', /no such file/),
    );
    await assert.rejects(
      inspect({ initrdPath: join(allowedDir, 'dangling') }),
      refused('initrd_path', /link to nowhere/),
    );
    await assert.rejects(inspect({ kernelPath: 'vmlinuz' }), refused('kernel_path', /absolute path/));
    await assert.rejects(inspect({ kernelPath: `${kernel}\0` }), refused('kernel_path', /absolute path/));
  } finally {
    server.close();
  }
});

test('what is not what it should be is refused in a sentence that says what it should be', async () => {
  const text = await put(join(allowedDir, 'text'), 'hello');
  const empty = await put(join(allowedDir, 'empty'), '');
  await assert.rejects(inspect({ kernelPath: text }), refused('kernel_path', /bzImage .* or an ELF vmlinux/));
  await assert.rejects(inspect({ kernelPath: empty }), refused('kernel_path', /empty file/));
  await assert.rejects(inspect({ initrdPath: text }), refused('initrd_path', /cpio/));
  await assert.rejects(
    inspect({ rootfsPath: text }),
    refused('rootfs_path', /ext4 file system, a disk with partitions/),
  );
  const xfs = await put(join(allowedDir, 'xfs'), 'XFSB' + '\0'.repeat(4096));
  await assert.rejects(inspect({ rootfsPath: xfs }), refused('rootfs_path', /it holds XFS/));
  const short = await put(join(allowedDir, 'short'), ext4({ blocks: 5 }));
  await assert.rejects(inspect({ rootfsPath: short }), refused('rootfs_path', /cut short/));
  const vmdk = await put(join(allowedDir, 'disk.vmdk'), 'KDMV');
  await assert.rejects(inspect({ rootfsPath: vmdk }), refused('rootfs_path', /VMDK/));
  await assert.rejects(inspect({ kernelPath: rootfs }), refused('kernel_path', /a file of its own/));
});

test('a disk with partitions is to be converted, with a kernel of its own or the one in it', async () => {
  const mbr = Buffer.alloc(4096);
  mbr.writeUInt16LE(0xaa55, 510);
  const disk = await put(join(allowedDir, 'disk.img'), mbr);
  const found = await inspect({ rootfsPath: disk });
  assert.equal(found.needsConversion, true);
  assert.equal(found.kernel?.path, kernel);
  assert.equal((await inspect({ rootfsPath: disk, kernelPath: disk })).kernel, null);
});

test('kernels, initrds and disks are known by their first bytes, and short files are no accident', () => {
  assert.equal(kernelKind(bzImage()), 'bzImage');
  assert.equal(kernelKind(vmlinux()), 'vmlinux');
  for (let length = 0; length < 600; length += 50) {
    assert.equal(kernelKind(Buffer.alloc(length)), undefined);
    assert.equal(diskContent(Buffer.alloc(length)).kind, 'other');
    assert.equal(looksLikeInitrd(Buffer.alloc(length)), false);
  }
  assert.equal(looksLikeInitrd(Buffer.from('070701')), true);
  assert.deepEqual(diskContent(ext4()), { kind: 'ext4', sizeBytes: 16 * 1024 });
  assert.deepEqual(diskContent(ext4({ feature64: true })), { kind: 'ext4', sizeBytes: (4 + 2 ** 32) * 4096 });
});

test('the sum of a file is that of all its bytes', async () => {
  const bytes = Buffer.alloc(1_000_003, 'hatch');
  const path = await put(join(top, 'bytes'), bytes);
  assert.equal(await sha256OfFile(path), createHash('sha256').update(bytes).digest('hex'));
  await assert.rejects(sha256OfFile(path, AbortSignal.abort(new Error('enough'))));
});
