import { open } from 'node:fs/promises';
import { isErrno } from '../base/errno.ts';

/** Reading a growing log: regular files only, never waiting. A file cut shorter than where we were is read from its start. */

/** The last `bytes` bytes of a file as text, whole characters only, and where it ends. Empty when it is not there. */
export async function tailFrom(
  path: string,
  bytes: number,
): Promise<{ readonly text: string; readonly offset: number }> {
  const { bytes: all, offset } = await readPart(path, (size) => Math.max(0, size - bytes), bytes);
  // A cut may fall inside a character: its remaining bytes (10xxxxxx) are passed over.
  let from = 0;
  while (offset > all.length && from < 3 && from < all.length && ((all[from] ?? 0) & 0xc0) === 0x80) from++;
  return { text: Buffer.from(all.subarray(from)).toString('utf8'), offset };
}

/** Up to 64 KiB of a file from `offset` on, and where they end. */
export async function readFrom(
  path: string,
  offset: number,
): Promise<{ readonly bytes: Uint8Array; readonly offset: number }> {
  return readPart(path, (size) => (offset > size ? 0 : offset), 64 * 1024);
}

async function readPart(
  path: string,
  from: (size: number) => number,
  most: number,
): Promise<{ readonly bytes: Uint8Array; readonly offset: number }> {
  let file;
  try {
    file = await open(path, 'r');
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return { bytes: new Uint8Array(), offset: 0 };
    throw error;
  }
  try {
    const { size } = await file.stat();
    const start = from(size);
    const buffer = Buffer.alloc(Math.min(most, size - start));
    const { bytesRead } = await file.read(buffer, 0, buffer.length, start);
    return { bytes: buffer.subarray(0, bytesRead), offset: start + bytesRead };
  } finally {
    await file.close();
  }
}
