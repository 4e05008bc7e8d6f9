import { createHash } from 'node:crypto';
import { constants, createReadStream } from 'node:fs';
import { lstat, open, realpath, type FileHandle } from 'node:fs/promises';
import { dirname, isAbsolute, sep } from 'node:path';
import { isErrno } from '../base/errno.ts';
import type { Run } from '../host/run.ts';
import { invalid, type Failure } from '../model/failure.ts';
import { imageSize } from './disk.ts';
import { diskContent, kernelKind, looksLikeInitrd, MAGIC_BYTES } from './image-magic.ts';

export { convertImage, type ConvertedImage } from './convert-image.ts';

export interface ImageFiles {
  /** The same file as `rootfsPath`: the kernel in the image is meant. */
  readonly kernelPath: string;
  readonly rootfsPath: string;
  readonly initrdPath?: string | null | undefined;
  /** Folders the files must lie in, links resolved. */
  readonly allowedDirs: readonly string[];
}

/** Image files that were looked at; every path is absolute, with links resolved. */
export interface InspectedImage {
  /** null: to be taken out of the image. */
  readonly kernel: { readonly path: string; readonly kind: 'bzImage' | 'vmlinux' } | null;
  readonly initrdPath: string | null;
  readonly rootfsPath: string;
  readonly rootfsFormat: 'raw' | 'qcow2';
  /** Of the whole disk, as a guest would see it. */
  readonly sizeBytes: number;
  /** false: a raw ext4 file system, usable as it lies. true: `convertImage` makes one of it. */
  readonly needsConversion: boolean;
}

/**
 * Looks at files of the host that are to become an image. Throws Failure `invalid_request` that names the field: for a file
 * that is not there, no regular file, outside the allowed folders once its links are resolved, not readable, or not what it
 * should be. What lies outside is not told apart from what is not there.
 */
export async function inspectImageFiles(
  { run }: { readonly run: Run },
  files: ImageFiles,
  signal?: AbortSignal,
): Promise<InspectedImage> {
  const allowed = await realFolders(files.allowedDirs);
  const rootfs = await look('rootfs_path', files.rootfsPath, allowed);
  const own = files.kernelPath === files.rootfsPath;
  const kernel = own ? null : await look('kernel_path', files.kernelPath, allowed);
  const initrd =
    files.initrdPath === null || files.initrdPath === undefined
      ? null
      : await look('initrd_path', files.initrdPath, allowed);

  const kind = kernel && kernelKind(kernel.start);
  if (kernel && !kind) {
    throw invalid(
      'kernel_path',
      '"kernel_path" is no Linux kernel: it must be a bzImage (vmlinuz) or an ELF vmlinux, ' +
        'or the same file as "rootfs_path", to use the kernel in a cloud image.',
    );
  }
  if (initrd && !looksLikeInitrd(initrd.start)) {
    throw invalid('initrd_path', '"initrd_path" is no initrd: it must be a cpio archive, packed or not.');
  }
  const disk = await imageSize({ run }, rootfs.path, signal);
  const raw = disk.format === 'raw' && refuseUnusable(rootfs);
  if (own && raw === 'ext4') {
    throw invalid(
      'kernel_path',
      '"kernel_path" must be a file of its own: "rootfs_path" is a file system, not a cloud image.',
    );
  }
  return {
    kernel: kernel && kind ? { path: kernel.path, kind } : null,
    initrdPath: initrd?.path ?? null,
    rootfsPath: rootfs.path,
    rootfsFormat: disk.format,
    sizeBytes: disk.virtualSizeBytes,
    needsConversion: raw !== 'ext4',
  };
}

/** The SHA-256 of a file, in hex; read a piece at a time, so that others get their turn in between. */
export async function sha256OfFile(path: string, signal?: AbortSignal): Promise<string> {
  const hash = createHash('sha256');
  const pieces = createReadStream(path, { highWaterMark: 256 * 1024, ...(signal ? { signal } : {}) });
  for await (const piece of pieces) {
    if (piece instanceof Uint8Array) hash.update(piece);
    await new Promise((resolve) => setImmediate(resolve));
  }
  return hash.digest('hex');
}

interface Looked {
  readonly path: string;
  readonly start: Buffer;
  readonly size: number;
}

type Field = 'kernel_path' | 'rootfs_path' | 'initrd_path';

function refuseUnusable({ start, size }: Looked): 'ext4' | 'partitions' {
  const content = diskContent(start);
  if (content.kind === 'ext4' && content.sizeBytes > size) {
    throw invalid(
      'rootfs_path',
      '"rootfs_path" is cut short: its file system says it is larger than the file.',
    );
  }
  if (content.kind === 'other') {
    throw invalid(
      'rootfs_path',
      `"rootfs_path" must be an ext4 file system, a disk with partitions, or a qcow2 image; it holds ${content.name}.`,
    );
  }
  return content.kind;
}

async function realFolders(folders: readonly string[]): Promise<readonly string[]> {
  const real = await Promise.all(folders.map((folder) => realpath(folder).catch(() => undefined)));
  return real.filter((folder) => folder !== undefined);
}

/** Resolves, opens once, and looks at what was opened: what is swapped in between is noticed, not followed. */
async function look(field: Field, path: string, allowed: readonly string[]): Promise<Looked> {
  if (!isAbsolute(path) || path.includes('\0')) throw invalid(field, `"${field}" must be an absolute path.`);
  const real = await realpath(path).catch(() => undefined);
  if (real === undefined) throw await missing(field, path, allowed);
  if (!within(allowed, real)) throw outside(field);
  const seen = await lstat(real).catch(() => undefined);
  // Before it is opened: opening a device or a pipe does something.
  if (!seen?.isFile())
    throw invalid(field, `"${field}" must be a regular file, not a folder, device, pipe or socket.`);
  const file = await openOnce(field, real);
  try {
    const opened = await file.stat();
    // Where the open file lies now, whatever its path was made to lead to meanwhile (proc(5)).
    const where = await realpath(`/proc/self/fd/${file.fd}`).catch(() => undefined);
    if (opened.ino !== seen.ino || opened.dev !== seen.dev || where !== real) {
      throw invalid(field, `"${field}" changed while it was looked at; try again when nobody writes there.`);
    }
    if (opened.size === 0) throw invalid(field, `"${field}" is an empty file.`);
    return { path: real, size: opened.size, start: await beginningOf(file) };
  } finally {
    await file.close();
  }
}

async function openOnce(field: Field, path: string): Promise<FileHandle> {
  try {
    return await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  } catch (error) {
    if (isErrno(error, 'EACCES') || isErrno(error, 'EPERM')) {
      throw invalid(field, `"${field}" cannot be read by the server; change its mode or owner.`);
    }
    throw invalid(field, `"${field}" cannot be opened.`);
  }
}

async function beginningOf(file: FileHandle): Promise<Buffer> {
  const start = Buffer.alloc(MAGIC_BYTES);
  let length = 0;
  for (;;) {
    const { bytesRead } = await file.read(start, length, start.length - length, length);
    length += bytesRead;
    if (bytesRead === 0 || length === start.length) return start.subarray(0, length);
  }
}

/** Says that nothing is there only where the caller may know. */
async function missing(field: Field, path: string, allowed: readonly string[]): Promise<Failure> {
  const folder = await realpath(dirname(path)).catch(() => undefined);
  const mayKnow = folder !== undefined && (within(allowed, folder) || allowed.includes(folder));
  return mayKnow
    ? invalid(field, `"${field}": there is no such file, or it is a link to nowhere.`)
    : outside(field);
}

function outside(field: Field): Failure {
  return invalid(
    field,
    `"${field}" must be a file in one of the folders of HATCH_IMAGE_DIRS, with all links resolved.`,
  );
}

function within(folders: readonly string[], path: string): boolean {
  return folders.some((folder) => path.startsWith(folder.endsWith(sep) ? folder : folder + sep));
}
