import { mkdir, open, readFile, rename, stat, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { isErrno } from '../base/errno.ts';
import { remove } from '../host/files.ts';
import type { Run } from '../host/run.ts';
import { invalid } from '../model/failure.ts';
import { imageSize } from './disk.ts';
import { diskContent, kernelKind, MAGIC_BYTES } from './image-magic.ts';
import {
  chooseKernel,
  chooseRoot,
  fstabAlone,
  linuxPartitions,
  parseListing,
  parsePartitions,
  type Partition,
} from './partitions.ts';
import { explain, explaining } from './tools.ts';

export interface ConvertRequest {
  /** Absolute; as `inspectImageFiles` gave them. */
  readonly rootfsPath: string;
  readonly rootfsFormat: 'raw' | 'qcow2';
  /** Absolute path of a folder to be made. What is there already is replaced when all has been done. */
  readonly folder: string;
  /** Take the kernel and the initrd in the image out. */
  readonly takeKernel: boolean;
}

export interface ConvertedImage {
  readonly rootfsPath: string;
  readonly sizeBytes: number;
  /** null unless asked for. */
  readonly kernelPath: string | null;
  /** null when there is none, or it was not asked for. */
  readonly initrdPath: string | null;
}

/** How far it is, in percent. */
export type ConvertProgress = (phase: 'disk' | 'check' | 'kernel', percent: number) => void;

type Deps = { readonly run: Run; readonly progress?: ConvertProgress };

const LONG_MS = 60 * 60_000;

/**
 * Makes a raw ext4 root file system of a cloud image (qcow2, or raw with partitions), and takes its kernel and initrd out,
 * all without mounting anything. The folder is whole or not there. Throws Failure `invalid_request` naming `rootfs_path` when
 * there is no root in it that is ext4, or no kernel; `no_space`.
 */
export async function convertImage(
  deps: Deps,
  request: ConvertRequest,
  signal: AbortSignal,
): Promise<ConvertedImage> {
  const beside = `${request.folder}.tmp`;
  const tools = { ...deps, run: explaining(deps.run) };
  try {
    await remove(beside);
    await mkdir(beside, { recursive: true, mode: 0o700 });
    const disk = await imageSize({ run: deps.run }, request.rootfsPath, signal);
    if (disk.format !== request.rootfsFormat)
      throw invalid('rootfs_path', '"rootfs_path" changed while it was read.');
    const source = { ...request, sizeBytes: disk.virtualSizeBytes, beside };
    const partitions = await partitionsOf(tools, source, signal);
    const root = chooseRoot(partitions);
    if (!root)
      throw invalid('rootfs_path', '"rootfs_path" has partitions, and none of them is a Linux file system.');
    await copyOut(tools, source, root, 'rootfs.ext4', signal);
    const names = await unpack(tools, source, { root, partitions }, signal);
    // Two lookers would see the old folder gone and the new one not there yet: nobody looks while an image is made.
    await remove(request.folder);
    await rename(beside, request.folder);
    return {
      rootfsPath: join(request.folder, 'rootfs.ext4'),
      sizeBytes: root.sizeBytes,
      kernelPath: names.kernel ? join(request.folder, 'vmlinuz') : null,
      initrdPath: names.initrd ? join(request.folder, 'initrd.img') : null,
    };
  } catch (error) {
    throw explain(error);
  } finally {
    await remove(beside);
  }
}

interface Source extends ConvertRequest {
  readonly sizeBytes: number;
  readonly beside: string;
}

/** The partitions of the source; a file system without any is one partition. */
async function partitionsOf(
  { run }: Deps,
  source: Source,
  signal: AbortSignal,
): Promise<readonly Partition[]> {
  const head = join(source.beside, 'head');
  await copy(
    { run },
    source,
    { offsetBytes: 0, sizeBytes: Math.min(source.sizeBytes, 1024 * 1024) },
    head,
    signal,
  );
  const content = diskContent(await startOf(head));
  if (content.kind !== 'partitions') await remove(head);
  if (content.kind === 'ext4') return [{ offsetBytes: 0, sizeBytes: source.sizeBytes, type: '83' }];
  if (content.kind === 'other') {
    throw invalid(
      'rootfs_path',
      `"rootfs_path" must hold an ext4 file system or partitions; it holds ${content.name}.`,
    );
  }
  // As long as the disk, or sfdisk would find the table too large for it.
  await truncate(head, source.sizeBytes);
  const { stdout } = await run(['sfdisk', '--json', head], { signal });
  await remove(head);
  return parsePartitions(stdout).filter(
    (partition) => partition.offsetBytes + partition.sizeBytes <= source.sizeBytes,
  );
}

/** Copies a partition to a file in the folder, and sees that it is ext4 and sound. */
async function copyOut(
  { run, progress }: Deps,
  source: Source,
  partition: Partition,
  name: string,
  signal: AbortSignal,
): Promise<void> {
  const file = join(source.beside, name);
  const onLine = (line: string): void => {
    const percent = /\((\d+)\.\d+\/100%\)/.exec(line)?.[1];
    if (percent !== undefined) progress?.('disk', Number(percent));
  };
  await copy({ run }, source, partition, file, signal, onLine);
  const content = diskContent(await startOf(file));
  if (content.kind !== 'ext4') {
    const name = content.kind === 'other' ? content.name : 'partitions';
    throw invalid('rootfs_path', `The root file system in "rootfs_path" must be ext4; it is ${name}.`);
  }
  progress?.('check', 0);
  // 1: mended, as an image of a machine that ran needs it; -p mends nothing that could lose a file.
  const check = await run(['e2fsck', '-f', '-p', file], {
    signal,
    timeoutMs: LONG_MS,
    okExitCodes: [0, 1, 4, 8],
  });
  if (check.exitCode > 1) {
    throw invalid(
      'rootfs_path',
      'The root file system in "rootfs_path" is damaged, or too new for e2fsck of this host.',
    );
  }
  progress?.('check', 100);
}

/** Copies a stretch of the disk, holes kept. `backing: null`: whatever the image names, nothing else is opened. */
async function copy(
  { run }: Deps,
  source: Pick<Source, 'rootfsPath' | 'rootfsFormat'>,
  { offsetBytes, sizeBytes }: Omit<Partition, 'type'>,
  to: string,
  signal: AbortSignal,
  onLine?: (line: string) => void,
): Promise<void> {
  const file = { driver: 'file', filename: source.rootfsPath };
  const below = source.rootfsFormat === 'qcow2' ? { driver: 'qcow2', backing: null, file } : file;
  const stretch = { driver: 'raw', offset: offsetBytes, size: sizeBytes, file: below };
  await run(['qemu-img', 'convert', '-p', '-O', 'raw', `json:${JSON.stringify(stretch)}`, to], {
    signal,
    timeoutMs: LONG_MS,
    ...(onLine ? { onLine } : {}),
  });
}

/** Takes out the kernel where it was asked for, and makes the file system's fstab fit a disk of its own. */
async function unpack(
  deps: Deps,
  source: Source,
  { root, partitions }: { readonly root: Partition; readonly partitions: readonly Partition[] },
  signal: AbortSignal,
): Promise<{ readonly kernel: boolean; readonly initrd: boolean }> {
  const debugfs = (file: string, request: string, write = false): Promise<{ stdout: string }> =>
    deps.run(['debugfs', ...(write ? ['-w'] : []), '-R', request, file], { cwd: source.beside, signal });
  let taken = { kernel: false, initrd: false };
  if (source.takeKernel) {
    deps.progress?.('kernel', 0);
    const found = await takeKernel(debugfs, source.beside, 'rootfs.ext4', '/boot/');
    taken = found ?? (await fromBootPartition(deps, debugfs, source, { root, partitions }, signal));
    deps.progress?.('kernel', 100);
  }
  await debugfs('rootfs.ext4', 'dump /etc/fstab fstab');
  const fstab = join(source.beside, 'fstab');
  const before = await readFile(fstab, 'utf8').catch((error: unknown) => {
    if (isErrno(error, 'ENOENT')) return undefined;
    throw error;
  });
  if (before !== undefined) {
    await writeFile(fstab, fstabAlone(before), { mode: 0o644 });
    await debugfs('rootfs.ext4', 'rm /etc/fstab', true);
    await debugfs('rootfs.ext4', 'write fstab /etc/fstab', true);
    for (const [field, value] of Object.entries({ mode: '0100644', uid: '0', gid: '0' })) {
      await debugfs('rootfs.ext4', `set_inode_field /etc/fstab ${field} ${value}`, true);
    }
    await remove(fstab);
  }
  return taken;
}

type Debugfs = (file: string, request: string) => Promise<{ stdout: string }>;

/** Some images keep /boot on a partition of its own. */
async function fromBootPartition(
  { run }: Deps,
  debugfs: Debugfs,
  source: Source,
  { root, partitions }: { readonly root: Partition; readonly partitions: readonly Partition[] },
  signal: AbortSignal,
): Promise<{ readonly kernel: boolean; readonly initrd: boolean }> {
  const boot = join(source.beside, 'boot');
  for (const partition of linuxPartitions(partitions).filter((other) => other !== root)) {
    await copy({ run }, source, partition, boot, signal);
    const isExt4 = diskContent(await startOf(boot)).kind === 'ext4';
    const found = isExt4 ? await takeKernel(debugfs, source.beside, 'boot', '/') : undefined;
    await remove(boot);
    if (found) return found;
  }
  throw invalid(
    'kernel_path',
    'There is no kernel (/boot/vmlinuz-...) in rootfs_path; name a kernel and an initrd of their own.',
  );
}

async function takeKernel(
  debugfs: Debugfs,
  folder: string,
  file: string,
  at: '/boot/' | '/',
): Promise<{ readonly kernel: boolean; readonly initrd: boolean } | undefined> {
  const { stdout } = await debugfs(file, `ls -p ${at}`);
  const chosen = chooseKernel(parseListing(stdout));
  if (!chosen) return undefined;
  await debugfs(file, `dump ${at}${chosen.kernel} vmlinuz`);
  // debugfs says nothing by its exit code: what counts is what came out.
  if (!kernelKind(await startOf(join(folder, 'vmlinuz')))) {
    throw invalid(
      'kernel_path',
      `${at}${chosen.kernel} in rootfs_path is no Linux kernel; name one of its own.`,
    );
  }
  if (chosen.initrd === undefined) return { kernel: true, initrd: false };
  await debugfs(file, `dump ${at}${chosen.initrd} initrd.img`);
  return { kernel: true, initrd: (await stat(join(folder, 'initrd.img'))).size > 0 };
}

async function startOf(path: string): Promise<Buffer> {
  const file = await open(path, 'r');
  try {
    const start = Buffer.alloc(MAGIC_BYTES);
    const { bytesRead } = await file.read(start, 0, start.length, 0);
    return start.subarray(0, bytesRead);
  } finally {
    await file.close();
  }
}
