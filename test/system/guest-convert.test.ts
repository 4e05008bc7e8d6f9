import assert from 'node:assert/strict';
import { mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { convertImage, inspectImageFiles } from '../../src/guest/image-files.ts';
import { run } from '../../src/host/run.ts';
import { Failure } from '../../src/model/failure.ts';

const MIB = 1024 * 1024;
const top = await mkdtemp(join(tmpdir(), 'hatch-guest-convert-'));
after(() => rm(top, { recursive: true }));
const signal = AbortSignal.timeout(120_000);
const EFI = 'C12A7328-F81F-11D2-BA4B-00A0C93EC93B';
const LINUX = '0FC63DAF-8483-4772-8E79-3D69D8477DE4';

function kernel(mark: string): Buffer {
  const bytes = Buffer.alloc(8192);
  bytes.writeUInt16LE(0xaa55, 0x1fe);
  bytes.write('HdrS', 0x202);
  bytes.write(mark, 4096);
  return bytes;
}

/** A file system of a folder's content, made without mounting it. */
async function fileSystem(
  name: string,
  mib: number,
  files: Record<string, string | Buffer>,
): Promise<string> {
  const root = join(top, `${name}.d`);
  for (const [path, content] of Object.entries(files)) {
    await mkdir(join(root, path, '..'), { recursive: true });
    await writeFile(join(root, path), content);
  }
  const file = join(top, `${name}.ext4`);
  await run(['mke2fs', '-q', '-t', 'ext4', '-d', root, file, `${mib}M`]);
  return file;
}

/** A disk with the file systems as its partitions, after an EFI partition that is no Linux one. */
async function disk(name: string, label: 'gpt' | 'dos', systems: readonly string[]): Promise<string> {
  const file = join(top, `${name}.img`);
  const sizes = await Promise.all(systems.map(async (system) => (await stat(system)).size / MIB));
  await run(['truncate', '-s', `${sizes.reduce((sum, mib) => sum + mib, 0) + 4}M`, file]);
  const type = label === 'gpt' ? [EFI, LINUX] : ['ef', '83'];
  const lines = [`size=1MiB,type=${type[0]}`, ...sizes.map((mib) => `size=${mib}MiB,type=${type[1]}`)];
  await run(['sfdisk', '-q', file], { input: `label: ${label}\n${lines.join('\n')}\n` });
  let at = 2;
  for (const [i, system] of systems.entries()) {
    await run(['dd', `if=${system}`, `of=${file}`, 'bs=1M', `seek=${at}`, 'conv=notrunc', 'status=none']);
    at += sizes[i] ?? 0;
  }
  return file;
}

async function toQcow2(file: string): Promise<string> {
  await run(['qemu-img', 'convert', '-f', 'raw', '-O', 'qcow2', file, `${file}.qcow2`]);
  return `${file}.qcow2`;
}

const FSTAB = 'PARTUUID=1234 / ext4 rw 0 1\nUUID=AB-CD /boot/efi vfat defaults 0 0\n';
const whole = await fileSystem('whole', 16, {
  'etc/fstab': FSTAB,
  'etc/hostname': 'cloud',
  'boot/vmlinuz-6.1.0-9': kernel('old'),
  'boot/vmlinuz-6.1.0-10': kernel('new'),
  'boot/initrd.img-6.1.0-10': 'an initrd',
});
const cat = async (file: string, path: string): Promise<string> =>
  (await run(['debugfs', '-R', `cat ${path}`, file])).stdout;

const sources = {
  'a qcow2 with GPT': await toQcow2(await disk('gpt', 'gpt', [whole])),
  'a raw disk with MBR': await disk('mbr', 'dos', [whole]),
  'a qcow2 without partitions': await toQcow2(whole),
};

for (const [name, path] of Object.entries(sources)) {
  test(`${name} becomes an ext4 file, a kernel and an initrd`, async () => {
    const inspected = await inspectImageFiles(
      { run },
      { kernelPath: path, rootfsPath: path, allowedDirs: [top] },
    );
    assert.equal(inspected.needsConversion, true);
    const folder = join(top, 'converted');
    const percents: number[] = [];
    const made = await convertImage(
      { run, progress: (phase, percent) => phase === 'disk' && percents.push(percent) },
      { ...inspected, folder, takeKernel: inspected.kernel === null },
      signal,
    );
    assert.deepEqual((await readdir(folder)).sort(), ['initrd.img', 'rootfs.ext4', 'vmlinuz']);
    assert.deepEqual(made, {
      rootfsPath: join(folder, 'rootfs.ext4'),
      sizeBytes: 16 * MIB,
      kernelPath: join(folder, 'vmlinuz'),
      initrdPath: join(folder, 'initrd.img'),
    });
    assert.equal((await stat(made.rootfsPath)).size, 16 * MIB);
    assert((await readFile(join(folder, 'vmlinuz'))).equals(kernel('new')));
    assert.equal(await readFile(join(folder, 'initrd.img'), 'utf8'), 'an initrd');
    assert.equal(await cat(made.rootfsPath, '/etc/hostname'), 'cloud');
    assert.equal(await cat(made.rootfsPath, '/etc/fstab'), '/dev/vda\t/\text4\trw\t0\t1\n');
    const { stdout } = await run(['debugfs', '-R', 'stat /etc/fstab', made.rootfsPath]);
    assert.match(stdout, /Mode: {2}0644/);
    assert.match(stdout, /User: +0 +Group: +0 /);
    // What came out is sound, and is what a raw image to be used as it lies must be.
    await run(['e2fsck', '-f', '-n', made.rootfsPath]);
    assert.equal(percents.at(-1), 100);
    await assert.rejects(stat(`${folder}.tmp`), { code: 'ENOENT' });
  });
}

test('a kernel on a boot partition is found; one that is given is not looked for', async () => {
  const root = await fileSystem('bare', 16, { 'etc/hostname': 'bare' });
  const boot = await fileSystem('boot', 8, {
    'vmlinuz-5.15': kernel('boot'),
    'initrd.img-5.15': 'boot initrd',
  });
  const path = await disk('split', 'gpt', [boot, root]);
  const request = { rootfsPath: path, rootfsFormat: 'raw', folder: join(top, 'split') } as const;
  const made = await convertImage({ run }, { ...request, takeKernel: true }, signal);
  assert((await readFile(made.kernelPath ?? '')).equals(kernel('boot')));
  assert.equal(await cat(made.rootfsPath, '/etc/hostname'), 'bare');
  const without = await convertImage({ run }, { ...request, takeKernel: false }, signal);
  assert.equal(without.kernelPath, null);
  assert.deepEqual(await readdir(request.folder), ['rootfs.ext4']);
});

test('what cannot be converted is refused by field, and leaves nothing', async () => {
  const bare = join(top, 'bare.ext4');
  const xfs = join(top, 'xfs.part');
  await writeFile(xfs, Buffer.concat([Buffer.from('XFSB'), Buffer.alloc(4 * MIB - 4)]));
  const broken = join(top, 'broken.ext4');
  const bytes = await readFile(bare);
  bytes.fill(0x55, 1024 + 0x40, 40_000);
  await writeFile(broken, bytes);
  const text = await fileSystem('text', 8, { 'boot/vmlinuz-1': 'no kernel' });
  const cases: [string, string, RegExp][] = [
    [await disk('xfs', 'gpt', [xfs]), 'rootfs_path', /must be ext4; it is XFS/],
    [await disk('efi', 'gpt', []), 'rootfs_path', /none of them is a Linux file system/],
    [await disk('bare', 'gpt', [bare]), 'kernel_path', /There is no kernel/],
    [await disk('text', 'dos', [text]), 'kernel_path', /is no Linux kernel/],
    [await disk('broken', 'dos', [broken]), 'rootfs_path', /damaged, or too new/],
  ];
  for (const [path, field, message] of cases) {
    const folder = join(top, 'refused');
    await assert.rejects(
      convertImage({ run }, { rootfsPath: path, rootfsFormat: 'raw', folder, takeKernel: true }, signal),
      (error: unknown) => {
        assert(error instanceof Failure, String(error));
        assert.equal(error.details['field'], field);
        assert.match(error.message, message);
        assert(!error.message.includes(top));
        return true;
      },
    );
    assert.deepEqual(
      (await readdir(top)).filter((name) => name.startsWith('refused')),
      [],
    );
  }
});

test('a qcow2 that names another file of the host is not opened', async () => {
  const thief = join(top, 'thief.qcow2');
  await run(['qemu-img', 'create', '-q', '-f', 'qcow2', '-b', '/etc/passwd', '-F', 'raw', thief, '16M']);
  const files = { kernelPath: thief, rootfsPath: thief, allowedDirs: [top] };
  await assert.rejects(inspectImageFiles({ run }, files), /backing file/);
  const request = {
    rootfsPath: thief,
    rootfsFormat: 'qcow2',
    folder: join(top, 'stolen'),
    takeKernel: true,
  } as const;
  await assert.rejects(convertImage({ run }, request, signal), /backing file/);
});
