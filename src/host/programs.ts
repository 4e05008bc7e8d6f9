import { access, constants, open, stat } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { isErrno } from '../base/errno.ts';
import { BASE_ENV } from './run.ts';

/** The absolute path of a program given by its name or path, as `run` finds it; undefined when there is none to execute. */
export async function findProgram(nameOrPath: string): Promise<string | undefined> {
  const places = nameOrPath.includes('/')
    ? [resolve(nameOrPath)]
    : (BASE_ENV['PATH'] ?? '').split(':').map((folder) => join(folder, nameOrPath));
  for (const place of places) {
    try {
      await access(place, constants.X_OK);
      if ((await stat(place)).isFile()) return place;
    } catch {
      // Not here.
    }
  }
  return undefined;
}

/**
 * Whether a file is a program of another machine: an ELF file whose class, byte order or architecture is not that of the program
 * we are (elf(5)). To be asked before it is run: execvp(3) has a shell read what the kernel does not take.
 */
export async function isForeignProgram(path: string): Promise<boolean> {
  const [theirs, ours] = await Promise.all([elfHeader(path), elfHeader('/proc/self/exe')]);
  const kind = (header: Buffer): string =>
    `${header.toString('hex', 4, 6)} ${header.toString('hex', 18, 20)}`;
  return theirs !== undefined && ours !== undefined && kind(theirs) !== kind(ours);
}

/** The first bytes of an ELF file; undefined for any other, and for one that may only be executed. */
async function elfHeader(path: string): Promise<Buffer | undefined> {
  let file;
  try {
    file = await open(path, 'r');
  } catch (error) {
    if (isErrno(error, 'EACCES')) return undefined;
    throw error;
  }
  try {
    const { buffer, bytesRead } = await file.read(Buffer.alloc(20), 0, 20, 0);
    return bytesRead === 20 && buffer.toString('latin1', 0, 4) === '\x7fELF' ? buffer : undefined;
  } finally {
    await file.close();
  }
}
