import { randomBytes } from 'node:crypto';
import { constants } from 'node:fs';
import { chmod, chown, copyFile, mkdir, open, readFile, rename, rm, stat, statfs } from 'node:fs/promises';
import { dirname, join, basename } from 'node:path';
import { isErrno } from '../base/errno.ts';

/** Writes a whole file or nothing: beside it, flushed unless told, then renamed over it (rename(2) is atomic). */
export async function writeFileAtomic(
  path: string,
  content: string | Uint8Array,
  mode = 0o600,
  { flush = true }: { readonly flush?: boolean } = {},
): Promise<void> {
  const beside = join(dirname(path), `.${basename(path)}.${randomBytes(4).toString('hex')}`);
  try {
    const file = await open(beside, 'w', mode);
    try {
      await file.writeFile(content);
      if (flush) await file.sync();
    } finally {
      await file.close();
    }
    await rename(beside, path);
  } catch (error) {
    await rm(beside, { force: true });
    throw error;
  }
}

/** Reads a text file; undefined when there is none. */
export async function readIfThere(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    if (isErrno(error, 'ENOENT') || isErrno(error, 'ENOTDIR')) return undefined;
    throw error;
  }
}

/** Whether something is there, links followed. */
export async function exists(path: string): Promise<boolean> {
  try {
    await stat(path);
    return true;
  } catch (error) {
    if (isErrno(error, 'ENOENT') || isErrno(error, 'ENOTDIR')) return false;
    throw error;
  }
}

/** Makes a folder and those above it; no failure when it is there. */
export async function makeFolder(path: string, mode = 0o700): Promise<void> {
  await mkdir(path, { recursive: true, mode });
}

/** Removes a file or a folder with all in it; no failure when it is not there. */
export async function remove(path: string): Promise<void> {
  await rm(path, { recursive: true, force: true });
}

/** Makes a file ours, and ours alone, that was another user's. */
export async function takeBack(path: string): Promise<void> {
  await chown(path, process.geteuid?.() ?? 0, process.getegid?.() ?? 0);
  await chmod(path, 0o600);
}

/** Bytes free for us on the file system that holds `path`. */
export async function freeBytes(path: string): Promise<number> {
  const fs = await statfs(path);
  return fs.bavail * fs.bsize;
}

/** Copies by sharing blocks (FICLONE); false, and nothing made, where the file system cannot. */
export async function reflink(from: string, to: string): Promise<boolean> {
  try {
    await copyFile(from, to, constants.COPYFILE_FICLONE_FORCE | constants.COPYFILE_EXCL);
    return true;
  } catch (error) {
    if (
      ['ENOTSUP', 'EOPNOTSUPP', 'EXDEV', 'EINVAL', 'ENOSYS', 'ENOTTY'].some((code) => isErrno(error, code))
    ) {
      await rm(to, { force: true });
      return false;
    }
    throw error;
  }
}

/** The last `bytes` bytes of a file as text; empty when it is not there. */
export async function tail(path: string, bytes: number): Promise<string> {
  let file;
  try {
    file = await open(path, 'r');
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return '';
    throw error;
  }
  try {
    const { size } = await file.stat();
    const from = Math.max(0, size - bytes);
    const buffer = Buffer.alloc(size - from);
    const { bytesRead } = await file.read(buffer, 0, buffer.length, from);
    return buffer.subarray(0, bytesRead).toString('utf8');
  } finally {
    await file.close();
  }
}

/**
 * Cuts a log that another process appends to: when it is over `limit` bytes, its second half is kept. What is written in
 * the very moment of cutting may be lost.
 */
export async function truncateLog(path: string, limit: number): Promise<boolean> {
  let file;
  try {
    file = await open(path, 'r+');
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return false;
    throw error;
  }
  try {
    const { size } = await file.stat();
    if (size <= limit) return false;
    const keep = Buffer.alloc(Math.floor(limit / 2));
    const { bytesRead } = await file.read(keep, 0, keep.length, size - keep.length);
    await file.truncate(0);
    await file.appendFile(keep.subarray(0, bytesRead));
    return true;
  } finally {
    await file.close();
  }
}
