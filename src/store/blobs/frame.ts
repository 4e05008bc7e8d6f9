import { createHmac, hash, type KeyObject } from 'node:crypto';
import { BlobError, damaged } from './blob-error.ts';
import { compressFrame, decompress } from './codec.ts';
import {
  CHUNK,
  FORMAT_VERSION,
  FRAME_CHECK,
  idBytes,
  type FrameCodec,
  type FrameRef,
  type PackId,
} from './format.ts';
import { release } from './release.ts';
import { seal, TAG, unseal } from './seal.ts';

/** A frame as it is stored, or is to be. */
export interface EncodedFrame {
  readonly codec: FrameCodec;
  readonly stored: Buffer;
  readonly check: Buffer;
}

/** The name of a chunk: HMAC-SHA256 under the account's dedup key. */
export function chunkId(dedup: KeyObject, plain: Uint8Array): Buffer {
  return createHmac('sha256', dedup).update(plain).digest();
}

/**
 * Chunks as one frame of a pack: compressed where that saves a tenth, and sealed when the pack has a key. `number` is the
 * frame's in its pack.
 */
export function encodeFrame(
  plain: Uint8Array,
  pack: PackId,
  number: number,
  key: KeyObject | undefined,
): EncodedFrame {
  const packed = compressFrame(plain);
  const codec = packed.length <= plain.length * 0.9 ? 'zstd' : 'raw';
  const payload = codec === 'zstd' ? packed : plain;
  let stored = packed;
  if (key) stored = seal(key, number, frameAad(pack, number, plain.length / CHUNK, codec), payload);
  else if (codec === 'raw') stored = Buffer.from(plain);
  if (stored !== packed) release(packed);
  return { codec, stored, check: checkOf(stored) };
}

/** What of a frame decides how it is opened. */
export type FrameHead = Pick<FrameRef, 'number' | 'chunks' | 'codec' | 'check'>;

/**
 * The chunks of a frame, `chunks` times 16 KiB. Throws BlobError: `damaged` when the stored bytes are not those that were
 * written, `wrong_key` when they are and the key does not open them.
 */
export function decodeFrame(
  stored: Uint8Array,
  frame: FrameHead,
  pack: PackId,
  key: KeyObject | undefined,
): Buffer {
  const what = `frame ${frame.number} of pack ${pack}`;
  if (!checkOf(stored).equals(frame.check))
    throw damaged(`${what} is damaged: its bytes are not those that were stored`);
  let payload: Uint8Array = stored;
  if (key) {
    const aad = frameAad(pack, frame.number, frame.chunks, frame.codec);
    const opened = unseal(key, frame.number, aad, stored);
    if (!opened)
      throw new BlobError('wrong_key', `${what} is as it was stored, and the account's key does not open it`);
    payload = opened;
  }
  const length = frame.chunks * CHUNK;
  if (frame.codec === 'zstd') {
    const plain = decompress(payload, length, what);
    if (payload !== stored) release(payload);
    return plain;
  }
  if (payload.length !== length) throw damaged(`${what} holds ${payload.length} bytes instead of ${length}`);
  return Buffer.from(payload.buffer, payload.byteOffset, payload.length);
}

/** The largest number of bytes a frame of so many chunks can take in a pack. */
export function mostStored(chunks: number): number {
  return chunks * CHUNK + TAG;
}

function frameAad(pack: PackId, number: number, chunks: number, codec: FrameCodec): Buffer {
  const aad = Buffer.alloc(24);
  aad.writeUInt16BE(FORMAT_VERSION, 0);
  idBytes(pack).copy(aad, 2);
  aad.writeUInt32BE(number, 18);
  aad[22] = chunks;
  aad[23] = codec === 'zstd' ? 1 : 0;
  return aad;
}

function checkOf(stored: Uint8Array): Buffer {
  return hash('sha256', stored, 'buffer').subarray(0, FRAME_CHECK);
}
