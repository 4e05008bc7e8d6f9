import { chmod, open, readdir, rename, rm, stat, symlink, truncate } from 'node:fs/promises';
import { join } from 'node:path';
import { isErrno } from '../base/errno.ts';
import { exists, reflink } from '../host/files.ts';
import type { Run } from '../host/run.ts';
import { Failure, invalid } from '../model/failure.ts';
import type { DiskFile } from './files.ts';
import { readDiskHeader } from './qcow2.ts';
import { explain, explaining } from './tools.ts';

export interface DiskWanted {
  /** Absolute path of the VM's folder. */
  readonly folder: string;
  /** Absolute path of the image's root disk, which stays as it is while any VM stands on it. */
  readonly imagePath: string;
  readonly imageFormat: 'raw' | 'qcow2';
  /** null: as large as the image. */
  readonly sizeBytes: number | null;
  /** Whether the VMM reads qcow2 (`Capabilities.qcow2`). */
  readonly qcow2: boolean;
}

export interface Disk {
  /** Relative to the VM's folder. */
  readonly path: 'disk.qcow2' | 'disk.raw';
  readonly format: 'raw' | 'qcow2';
  /** `overlay` stands on the image and needs it; the others are whole. */
  readonly how: 'reflink' | 'overlay' | 'copy';
}

/** The link in the VM's folder to the image its overlay stands on, so that the overlay names nothing outside. */
export const BASE = 'base';
const BESIDE = '.disk.tmp';
const DISKS = ['disk.qcow2', 'disk.raw'] as const;
const MIB = 1024 * 1024;
export const COPY_TIMEOUT_MS = 30 * 60_000;

/**
 * Makes a VM's own disk from an image: shared blocks where the file system can, else a qcow2 overlay where the VMM can,
 * else a sparse copy. A disk that is there already is never replaced, only grown: someone's data may be on it
 * (`removeDisk` first for a new one); `how` is then `copy` for whatever is whole. Throws Failure `invalid_request` for a
 * size below the image's or an image that points at other files, `no_space`; what was half made is removed.
 */
export async function makeDisk(
  { run }: { readonly run: Run },
  wanted: DiskWanted,
  signal: AbortSignal,
): Promise<Disk> {
  const { folder, imagePath } = wanted;
  const beside = join(folder, BESIDE);
  try {
    await rm(beside, { force: true });
    const image = await imageSize({ run }, imagePath, signal).catch((error: unknown) => {
      throw isErrno(error, 'ENOENT') ? imageGone(error) : error;
    });
    // A raw image's bytes may be made by anyone: it is what it was registered as, or it is not used.
    if (image.format !== wanted.imageFormat) {
      throw new Failure(
        'internal',
        `The image was registered as ${wanted.imageFormat} and is ${image.format} now.`,
      );
    }
    const sizeBytes = wanted.sizeBytes ?? image.virtualSizeBytes;
    refuseSmaller(sizeBytes, image.virtualSizeBytes);
    const there = await existingDisk(folder);
    if (there) {
      await growFile({ run }, { ...there, file: join(folder, there.path), folder, sizeBytes }, signal);
      return there;
    }
    const made = await fill({ run }, wanted, { beside, sizeBytes }, signal);
    await growFile({ run }, { file: beside, format: made.format, folder, sizeBytes }, signal);
    // A copy has the image's mode, which may forbid writing and allow others to read.
    await chmod(beside, 0o600);
    await flush(beside);
    await rename(beside, join(folder, made.path));
    return made;
  } catch (error) {
    throw explain(error);
  } finally {
    await rm(beside, { force: true });
  }
}

/** The operator's own file was registered, and is the operator's to move. */
function imageGone(cause: unknown): Failure {
  return new Failure(
    'unavailable',
    "The image's root file system is no longer on the host; put its file back, or register the image anew.",
    { cause },
  );
}

/** Removes a VM's disk, also one it was given while it ran, and its link to the image. No failure when they are not there. */
export async function removeDisk(folder: string): Promise<void> {
  const overlays = (await readdir(folder)).filter((name) => /^disk-.*\.qcow2$/.test(name));
  for (const name of [BESIDE, ...DISKS, ...overlays, BASE]) await rm(join(folder, name), { force: true });
}

/**
 * Makes a disk larger; the guest must not run. As large already: nothing is done. Throws Failure `invalid_request` when it
 * is larger already: a disk cannot shrink without cutting off what is on it.
 */
export async function growDisk(
  { run }: { readonly run: Run },
  disk: Pick<DiskFile, 'path' | 'format'> & { readonly folder: string; readonly sizeBytes: number },
  signal: AbortSignal,
): Promise<void> {
  try {
    const file = join(disk.folder, disk.path);
    const now = disk.format === 'raw' ? (await stat(file)).size : await qcow2Size(file);
    refuseSmaller(disk.sizeBytes, now);
    await growFile({ run }, { ...disk, file }, signal);
  } catch (error) {
    throw explain(error);
  }
}

/**
 * The format and size of an image to stand on, as the guest would see it. Throws Failure `invalid_request` for one that
 * points at other files (they would be read off the host and shown to a guest), and for formats that are not taken.
 */
export async function imageSize(
  { run }: { readonly run: Run },
  path: string,
  signal?: AbortSignal,
): Promise<{ readonly format: 'raw' | 'qcow2'; readonly virtualSizeBytes: number }> {
  const header = await readDiskHeader(path);
  if (header.format === 'other') {
    throw invalid(
      'rootfs_path',
      `"rootfs_path" must be raw or qcow2; it is ${header.name}. Convert it with qemu-img convert.`,
    );
  }
  if (header.format === 'raw') return { format: 'raw', virtualSizeBytes: (await stat(path)).size };
  if (header.backingFile || header.dataFile) {
    throw invalid(
      'rootfs_path',
      `"rootfs_path" is a qcow2 image that needs ${header.backingFile ? 'a backing file' : 'an external data file'}; ` +
        'make it whole with "qemu-img convert -O qcow2 OLD NEW" and register the new one.',
    );
  }
  // Only now may QEMU open it: it opens what an image names. It knows better than the header whether the rest is sound.
  await explaining(run)(['qemu-img', 'info', '--output=json', '-U', '-f', 'qcow2', path], {
    ...(signal ? { signal } : {}),
  });
  return { format: 'qcow2', virtualSizeBytes: header.virtualSizeBytes };
}

async function existingDisk(folder: string): Promise<Disk | undefined> {
  for (const path of DISKS) {
    const file = join(folder, path);
    if (!(await exists(file))) continue;
    if (path === 'disk.raw') return { path, format: 'raw', how: 'copy' };
    const header = await readDiskHeader(file);
    const overlay = header.format === 'qcow2' && header.backingFile;
    return { path, format: 'qcow2', how: overlay ? 'overlay' : 'copy' };
  }
  return undefined;
}

async function fill(
  { run }: { readonly run: Run },
  { folder, imagePath, imageFormat, qcow2 }: DiskWanted,
  { beside, sizeBytes }: { readonly beside: string; readonly sizeBytes: number },
  signal: AbortSignal,
): Promise<Disk> {
  const asItIs =
    imageFormat === 'raw'
      ? ({ path: 'disk.raw', format: 'raw' } as const)
      : ({ path: 'disk.qcow2', format: 'qcow2' } as const);
  if ((imageFormat === 'raw' || qcow2) && (await reflink(imagePath, beside)))
    return { ...asItIs, how: 'reflink' };
  if (qcow2) {
    await linkAnew(imagePath, join(folder, BASE));
    await run(
      ['qemu-img', 'create', '-q', '-f', 'qcow2', '-b', BASE, '-F', imageFormat, BESIDE, String(sizeBytes)],
      { cwd: folder, signal },
    );
    return { path: 'disk.qcow2', format: 'qcow2', how: 'overlay' };
  }
  const limits = { signal, timeoutMs: COPY_TIMEOUT_MS };
  if (imageFormat === 'raw')
    await run(['cp', '--sparse=always', '--reflink=never', imagePath, beside], limits);
  else await run(['qemu-img', 'convert', '-f', 'qcow2', '-O', 'raw', imagePath, beside], limits);
  return { path: 'disk.raw', format: 'raw', how: 'copy' };
}

/** Makes a link, or makes it anew: a crash may have left one. */
export async function linkAnew(target: string, path: string): Promise<void> {
  try {
    await symlink(target, path);
  } catch (error) {
    if (!isErrno(error, 'EEXIST')) throw error;
    await rm(path, { force: true });
    await symlink(target, path);
  }
}

/** Makes a disk's file as large as it should be; larger already, it stays. */
export async function growFile(
  { run }: { readonly run: Run },
  disk: {
    readonly file: string;
    readonly format: 'raw' | 'qcow2';
    readonly folder: string;
    readonly sizeBytes: number;
  },
  signal: AbortSignal,
): Promise<void> {
  const { file, sizeBytes } = disk;
  if (disk.format === 'raw') {
    if ((await stat(file)).size < sizeBytes) await truncate(file, sizeBytes);
  } else if ((await qcow2Size(file)) < sizeBytes) {
    await run(['qemu-img', 'resize', '-q', '-f', 'qcow2', file, String(sizeBytes)], {
      cwd: disk.folder,
      signal,
    });
  }
}

async function qcow2Size(file: string): Promise<number> {
  const header = await readDiskHeader(file);
  if (header.format !== 'qcow2') throw new Error('the disk is no qcow2 file any more');
  return header.virtualSizeBytes;
}

function refuseSmaller(wantedBytes: number, nowBytes: number): void {
  if (wantedBytes >= nowBytes) return;
  const least = Math.ceil(nowBytes / MIB);
  throw invalid(
    'disk_mib',
    `"disk_mib" must be at least ${least}: the disk is that large, and it cannot shrink.`,
    {
      minimum: least,
    },
  );
}

/** What a VM boots from must not be lost to a power cut after its row says it is there. */
export async function flush(path: string): Promise<void> {
  const file = await open(path, 'r+');
  try {
    await file.sync();
  } finally {
    await file.close();
  }
}
