import { open } from 'node:fs/promises';
import { damaged, fromErrno } from './blob-error.ts';
import type { BlobHome } from './home.ts';

/** Something that is read in ranges: a blob in a home, or a file of this machine. */
export interface ByteSource {
  readonly bytes: number;
  /** Exactly `length` bytes from `offset`. Throws BlobError. */
  read(offset: number, length: number, signal?: AbortSignal): Promise<Buffer>;
}

/** A blob, of which the size is asked for. Throws `missing`. */
export async function blobSource(home: BlobHome, name: string, signal?: AbortSignal): Promise<ByteSource> {
  const info = await home.head(name, signal);
  if (!info) throw fromErrno(Object.assign(new Error('no such blob'), { code: 'ENOENT' }), name);
  return { bytes: info.bytes, read: (offset, length, stop) => home.getRange(name, offset, length, stop) };
}

/** Bytes in memory. */
export function bufferSource(bytes: Buffer): ByteSource {
  return {
    bytes: bytes.length,
    read: async (offset, length) => {
      if (offset + length > bytes.length) throw damaged('the bytes end too early');
      return bytes.subarray(offset, offset + length);
    },
  };
}

/** Reads a whole file of this machine; `what` begins the error's sentence. */
export async function fileSource(path: string, what: string): Promise<ByteSource> {
  try {
    const file = await open(path, 'r');
    try {
      return bufferSource(await file.readFile());
    } finally {
      await file.close();
    }
  } catch (error) {
    throw fromErrno(error, `${what} could not be read`);
  }
}
