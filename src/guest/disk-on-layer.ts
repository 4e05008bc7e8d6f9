import { createHash, randomUUID } from 'node:crypto';
import { chmod, copyFile, rename, rm, stat } from 'node:fs/promises';
import { dirname, join, relative } from 'node:path';
import { isErrno } from '../base/errno.ts';
import { exists, reflink } from '../host/files.ts';
import type { Run } from '../host/run.ts';
import { BASE, COPY_TIMEOUT_MS, flush, growFile, linkAnew, removeDisk } from './disk.ts';
import type { DiskFile, GuestFiles, LayerDiskRequest } from './files.ts';
import { readDiskHeader } from './qcow2.ts';
import { explain } from './tools.ts';

const BESIDE = '.disk.tmp';

/**
 * Makes a VM's disk over a frozen one: shared blocks where the file system can, else a qcow2 overlay where the VMM can, else a
 * sparse copy. Folders of VMs and of layers lie beside each other, and an overlay names its layer by the way from the one to the
 * other, so that a moved data folder still holds together. Throws Failure `no_space`; what was half made is removed.
 */
export async function makeDiskOn(
  { run }: { readonly run: Run },
  wanted: LayerDiskRequest,
  signal: AbortSignal,
): Promise<DiskFile> {
  const { folder, sizeBytes } = wanted;
  const beside = join(folder, BESIDE);
  try {
    await rm(beside, { force: true });
    await removeDisk(folder);
    const made = await fill({ run }, wanted, beside, signal);
    if (sizeBytes !== null)
      await growFile({ run }, { file: beside, format: made.format, folder, sizeBytes }, signal);
    await chmod(beside, 0o600);
    if (wanted.unflushed !== true) await flush(beside);
    await rename(beside, join(folder, made.path));
    return made;
  } catch (error) {
    throw explain(error);
  } finally {
    await rm(beside, { force: true });
  }
}

/** `GuestFiles.flushDisk`: the disk and its name. */
export async function flushDisk({ folder, path }: Parameters<GuestFiles['flushDisk']>[0]): Promise<void> {
  try {
    await flush(join(folder, path));
  } catch (error) {
    throw explain(error);
  }
}

async function fill(
  { run }: { readonly run: Run },
  { folder, layerPath, layerFormat, qcow2, flattenOnto }: LayerDiskRequest,
  beside: string,
  signal: AbortSignal,
): Promise<DiskFile> {
  const limits = { cwd: folder, signal, timeoutMs: COPY_TIMEOUT_MS };
  if (layerFormat === 'raw' && (await reflink(layerPath, beside))) return { path: 'disk.raw', format: 'raw' };
  if (!qcow2) {
    if (layerFormat === 'raw')
      await run(['cp', '--sparse=always', '--reflink=never', layerPath, beside], limits);
    else await run(['qemu-img', 'convert', '-f', 'qcow2', '-O', 'raw', layerPath, beside], limits);
    return { path: 'disk.raw', format: 'raw' };
  }
  const { layer, blank } = blankOver(folder, layerPath);
  if (flattenOnto === null && (await copiedIfThere(blank, beside)))
    return { path: 'disk.qcow2', format: 'qcow2' };
  await run(['qemu-img', 'create', '-q', '-f', 'qcow2', '-b', layer, '-F', layerFormat, BESIDE], limits);
  if (flattenOnto === null) await keepBlank(beside, blank);
  else {
    await linkAnew(flattenOnto.path, join(folder, BASE));
    await run(['qemu-img', 'rebase', '-f', 'qcow2', '-b', BASE, '-F', flattenOnto.format, BESIDE], limits);
  }
  return { path: 'disk.qcow2', format: 'qcow2' };
}

/** How an overlay in a folder names a layer, and the file beside that layer that is one nobody has written to. */
function blankOver(folder: string, layerPath: string): { readonly layer: string; readonly blank: string } {
  const layer = relative(folder, layerPath);
  const name = createHash('sha256').update(layer).digest('hex').slice(0, 16);
  return { layer, blank: join(dirname(layerPath), `blank-${name}`) };
}

/** `GuestFiles.prepareDiskOn`: the blank overlay that `makeDiskOn` copies. */
export async function prepareDiskOn(
  { run }: { readonly run: Run },
  { folder, layerPath, layerFormat, qcow2 }: Parameters<GuestFiles['prepareDiskOn']>[0],
  signal: AbortSignal,
): Promise<void> {
  if (!qcow2) return;
  const { layer, blank } = blankOver(folder, layerPath);
  if (await exists(blank)) return;
  const half = `${blank}.${randomUUID()}`;
  try {
    // Where blocks are shared, no overlay is made.
    if (layerFormat === 'raw' && (await reflink(layerPath, half))) return;
    const stands = ['-b', layer, '-F', layerFormat];
    await run(['qemu-img', 'create', '-q', '-f', 'qcow2', ...stands, relative(folder, half)], {
      cwd: folder,
      signal,
    });
    await rename(half, blank);
  } catch {
    // It is made when it is needed.
  } finally {
    await rm(half, { force: true }).catch(() => undefined);
  }
}

async function copiedIfThere(from: string, to: string): Promise<boolean> {
  try {
    await copyFile(from, to);
    return true;
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return false;
    throw error;
  }
}

/**
 * Keeps an overlay nobody has written to beside its layer: the next is a copy of it, which is had sooner than another by qemu-img. Its name
 * says by which way it names the layer. It goes with the layer; where it cannot be kept, the next is made as this one was.
 */
async function keepBlank(made: string, blank: string): Promise<void> {
  const half = `${blank}.${randomUUID()}`;
  try {
    await copyFile(made, half);
    await rename(half, blank);
  } catch {
    await rm(half, { force: true });
  }
}

/** Makes an overlay beside what is there and puts it in its place. `GuestFiles.makeOverlay`. */
export async function makeOverlay(
  { run }: { readonly run: Run },
  { folder, path, layerPath, layerFormat }: Parameters<GuestFiles['makeOverlay']>[0],
  signal: AbortSignal,
): Promise<void> {
  const beside = join(folder, BESIDE);
  try {
    await rm(beside, { force: true });
    const header = await readDiskHeader(layerPath);
    const size = header.format === 'qcow2' ? header.virtualSizeBytes : (await stat(layerPath)).size;
    // -u: a disk in use is not opened, its header is all that is needed.
    const stands = ['-u', '-b', relative(folder, layerPath), '-F', layerFormat];
    await run(['qemu-img', 'create', '-q', '-f', 'qcow2', ...stands, BESIDE, String(size)], {
      cwd: folder,
      signal,
    });
    await chmod(beside, 0o600);
    await flush(beside);
    await rename(beside, join(folder, path));
  } catch (error) {
    throw explain(error);
  } finally {
    await rm(beside, { force: true });
  }
}

/** Copies a raw disk, all of it or nothing. `GuestFiles.copyDisk`. */
export async function copyDisk(
  { run }: { readonly run: Run },
  { path, to }: Parameters<GuestFiles['copyDisk']>[0],
  signal: AbortSignal,
): Promise<void> {
  try {
    await rm(to, { force: true });
    if (await reflink(path, to)) return;
    await run(['cp', '--sparse=always', '--reflink=never', path, to], { signal, timeoutMs: COPY_TIMEOUT_MS });
  } catch (error) {
    await rm(to, { force: true });
    throw explain(error);
  }
}

/** Writes what a disk shows its guest into a raw, sparse file. Throws Failure `no_space`; what was half made is removed. */
export async function flattenDisk(
  { run }: { readonly run: Run },
  { path, format, to }: { readonly path: string; readonly format: 'raw' | 'qcow2'; readonly to: string },
  signal: AbortSignal,
): Promise<void> {
  const beside = `${to}.tmp`;
  try {
    await run(['qemu-img', 'convert', '-f', format, '-O', 'raw', path, beside], {
      signal,
      timeoutMs: COPY_TIMEOUT_MS,
    });
    await rename(beside, to);
  } catch (error) {
    throw explain(error);
  } finally {
    await rm(beside, { force: true });
  }
}
