import assert from 'node:assert/strict';
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { VmmError, type DiskSpec } from '../driver.ts';
import { mustHaveOpenOnlyItsOwn } from './open-files.ts';

let root: string;
before(async () => {
  root = await mkdtemp(join(tmpdir(), 'hatch-open-'));
});
after(() => rm(root, { recursive: true }));

/** A host with a VM, two frozen disks, the image at their end and a file of somebody else. */
async function host(
  name: string,
): Promise<Record<'vm' | 'upper' | 'lower' | 'image' | 'memory' | 'foreign', string>> {
  const at = (path: string): string => join(root, name, path);
  for (const folder of ['vms/vm-a', 'layers/upper', 'layers/lower'])
    await mkdir(at(folder), { recursive: true });
  const files = {
    upper: at('layers/upper/disk.qcow2'),
    lower: at('layers/lower/disk.qcow2'),
    image: at('image.raw'),
    memory: at('memory.bin'),
    foreign: at('shadow'),
  };
  for (const path of [...Object.values(files), at('vms/vm-a/disk.qcow2')]) await writeFile(path, '');
  await symlink(files.image, at('layers/lower/base'));
  await symlink(files.memory, at('vms/vm-a/loaded.bin'));
  return { vm: at('vms/vm-a'), ...files };
}

/** Looks at a process that has these files open. */
async function looked(
  files: readonly string[],
  folder: string,
  disks: readonly DiskSpec[],
  memory: string | null = null,
): Promise<void> {
  // A shell redirects one file to each number from 3 on.
  const redirects = files.map((path, i) => `${i + 3}<'${path}'`).join(' ');
  const child: ChildProcess = spawn('sh', ['-c', `exec cat ${redirects}`], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  try {
    // It has all of them open when it copies what it is told.
    child.stdin?.write('x');
    if (child.stdout) await once(child.stdout, 'data');
    await mustHaveOpenOnlyItsOwn(child.pid ?? assert.fail(), { folder, disks }, memory, 20);
  } finally {
    child.kill('SIGKILL');
    await once(child, 'close');
  }
}

const disk = (over: readonly string[] | undefined): readonly DiskSpec[] => [
  { path: 'disk.qcow2', format: 'qcow2', readOnly: false, ...(over ? { over } : {}) },
  { path: 'seed.iso', format: 'raw', readOnly: true },
];

test('a disk with all it stands on, their image and the memory are what a QEMU may have open', async () => {
  const { vm, upper, lower, image, memory } = await host('own');
  const own = [join(vm, 'disk.qcow2'), upper, lower, image, memory, '/dev/null', '/dev/urandom'];
  await looked(own, vm, disk([upper, lower]), join(vm, 'loaded.bin'));
});

test('a file that is not below its disks is found, and said only in the cause', async () => {
  const { vm, upper, lower, image, memory, foreign } = await host('foreign');
  for (const [open, over] of [
    [foreign, [upper, lower]],
    // Of a chain that is not its own any more.
    [lower, []],
    // The image is reached through the disk that stands on it.
    [image, [upper]],
    [memory, [upper, lower]],
    ['/proc/meminfo', [upper]],
  ] as const) {
    await assert.rejects(looked([open], vm, disk(over)), (error) => {
      assert.ok(error instanceof VmmError && error.cause instanceof Error);
      assert.match(error.message, /^the VM's disk names a file that is not the VM's/);
      assert.ok(error.cause.message.includes(open) && !error.message.includes(open));
      return true;
    });
  }
});

test('where it is not known what a disk stands on nothing is looked at', async () => {
  const { vm, foreign } = await host('unknown');
  await looked([foreign], vm, disk(undefined));
});
