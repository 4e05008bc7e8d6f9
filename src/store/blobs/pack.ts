import { damaged } from './blob-error.ts';
import type { ByteSource } from './byte-source.ts';
import { CHUNK, CHUNK_ID, type FrameRef, type PackId, type PackRef } from './format.ts';
import { chunkId, decodeFrame } from './frame.ts';
import type { AccountKeys } from './keys.ts';
import {
  PACK_FOOTER,
  PACK_HEADER,
  packKey,
  readHeader,
  readTrailer,
  trailerLength,
  type PackIndex,
} from './pack-bytes.ts';
import type { KeyObject } from 'node:crypto';

/** The trailer of most packs is within its last bytes; a longer one costs one more request. */
const TAIL = 256 * 1024;

/** A pack that was opened: what is in it, and how to read its frames. */
export interface OpenPack {
  readonly index: PackIndex;
  /** The chunks of one of its frames. Throws `damaged`. */
  frame(frame: FrameRef, signal?: AbortSignal): Promise<Buffer>;
}

/**
 * Opens a pack by its own header and trailer alone, in two requests (three for a large trailer). Throws BlobError:
 * `damaged` when it is not the pack of this id, `wrong_key` when it is sealed under another key.
 */
export async function openPack(
  source: ByteSource,
  id: PackId,
  keys: AccountKeys,
  signal?: AbortSignal,
): Promise<OpenPack> {
  const { bytes } = source;
  if (bytes < PACK_HEADER + PACK_FOOTER) throw damaged(`${id} is no pack: it has ${bytes} bytes`);
  const header = await source.read(0, PACK_HEADER, signal);
  const { keyId } = readHeader(header, { id });
  const pack: PackRef = { account: keys.account, id, bytes, sealed: keyId !== undefined };
  const key: KeyObject | undefined = packKey(pack, keyId, keys);
  const tail = await source.read(Math.max(0, bytes - TAIL), Math.min(bytes, TAIL), signal);
  const footer = tail.subarray(-PACK_FOOTER);
  const length = trailerLength(footer, pack);
  const trailer =
    length + PACK_FOOTER <= tail.length
      ? tail.subarray(tail.length - PACK_FOOTER - length, tail.length - PACK_FOOTER)
      : await source.read(bytes - PACK_FOOTER - length, length, signal);
  const index = readTrailer({ header, trailer, footer }, pack, key);
  return {
    index,
    frame: async (frame, stop) =>
      decodeFrame(await source.read(frame.offset, frame.stored, stop), frame, id, key),
  };
}

/** What a pack holds, for a ChunkIndex. */
export async function readPackIndex(
  source: ByteSource,
  id: PackId,
  keys: AccountKeys,
  signal?: AbortSignal,
): Promise<PackIndex> {
  return (await openPack(source, id, keys, signal)).index;
}

/**
 * Reads a whole pack and checks all of it: header, trailer, every frame, and that every chunk has the id it is named by.
 * Throws BlobError; `unreachable` and `throttled` say nothing about the pack.
 */
export async function verifyPack(
  source: ByteSource,
  id: PackId,
  keys: AccountKeys,
  signal?: AbortSignal,
): Promise<PackIndex> {
  const pack = await openPack(source, id, keys, signal);
  let from = 0;
  for (const frame of pack.index.frames) {
    const plain = await pack.frame(frame, signal);
    for (let slot = 0; slot < frame.chunks; slot++, from += CHUNK_ID) {
      const found = chunkId(keys.dedup, plain.subarray(slot * CHUNK, (slot + 1) * CHUNK));
      if (!found.equals(pack.index.ids.subarray(from, from + CHUNK_ID)))
        throw damaged(`chunk ${slot} of frame ${frame.number} of pack ${id} is not the one it is named`);
    }
  }
  return pack.index;
}
