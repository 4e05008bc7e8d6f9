import { constants, zstdCompressSync, zstdDecompressSync } from 'node:zlib';
import { damaged } from './blob-error.ts';

/**
 * zstd, in one place: node:zlib's own. Node calls it experimental, so nothing else imports it. Both are synchronous; the
 * large ones run in worker threads.
 */
const LEVEL = 1;
/** A frame is never larger than the window, so a larger one would only cost memory: this is a fifth faster than the default. */
const FRAME_WINDOW = 18;

/** Compresses one frame's chunks (up to 256 KiB). */
export function compressFrame(plain: Uint8Array): Buffer {
  return zstdCompressSync(plain, {
    // One piece of output: the default hands it out in pieces of 16 KiB.
    chunkSize: plain.length + 1024,
    params: { [constants.ZSTD_c_compressionLevel]: LEVEL, [constants.ZSTD_c_windowLog]: FRAME_WINDOW },
  });
}

/** Compresses anything of a size that fits in memory, with zstd's own checksum at its end. */
export function compress(plain: Uint8Array): Buffer {
  return zstdCompressSync(plain, {
    chunkSize: 256 * 1024,
    params: { [constants.ZSTD_c_compressionLevel]: 3, [constants.ZSTD_c_checksumFlag]: 1 },
  });
}

/** Exactly `length` bytes of plain text; never takes more memory than that, whatever the bytes are. `what` begins the error's sentence. */
export function decompress(bytes: Uint8Array, length: number, what: string): Buffer {
  let plain: Buffer;
  try {
    plain = zstdDecompressSync(bytes, {
      // A little more than is to come: a piece that is full to its end makes node:zlib get another.
      chunkSize: Math.min(length + 64, 1024 * 1024),
      maxOutputLength: Math.max(length, 1),
    });
  } catch (error) {
    throw damaged(`${what} cannot be unpacked`, error);
  }
  if (plain.length !== length) throw damaged(`${what} holds ${plain.length} bytes instead of ${length}`);
  return plain;
}
