import { createHash, type KeyObject } from 'node:crypto';
import { BlobError, damaged } from './blob-error.ts';
import { ByteReader, ByteWriter } from './byte-stream.ts';
import {
  CHUNK_ID,
  FORMAT_VERSION,
  FRAME_CHECK,
  FRAME_CHUNKS,
  idBytes,
  PACK_MAX,
  type FrameRef,
  type PackRef,
} from './format.ts';
import { mostStored, type FrameHead } from './frame.ts';
import type { AccountKeys } from './keys.ts';
import { NO_KEY_ID, objectKey, seal, sealKeyFor, TRAILER_NONCE, unseal } from './seal.ts';

/** A pack is: header, frames one after another, trailer, footer. */
export const PACK_HEADER = 40;
export const PACK_FOOTER = 32;
const MAGIC = Buffer.from('HATCHPAK');
const END = Buffer.from('HATCHEND');
const SEALED = 1;
const ZSTD = 0x10;

/** What a pack holds: its frames in order, and the id of every chunk of them, in order. */
export interface PackIndex {
  readonly pack: PackRef;
  readonly frames: readonly FrameRef[];
  /** CHUNK_ID bytes each. */
  readonly ids: Uint8Array;
}

/** A frame that was written, as the trailer tells it. */
export type WrittenFrame = FrameHead & { readonly stored: number };

export function packHeader(pack: Pick<PackRef, 'id'>, keyId: Uint8Array | undefined): Buffer {
  const header = Buffer.alloc(PACK_HEADER);
  MAGIC.copy(header);
  header.writeUInt16BE(FORMAT_VERSION, 8);
  header.writeUInt16BE(keyId ? SEALED : 0, 10);
  idBytes(pack.id).copy(header, 16);
  header.set(keyId ?? NO_KEY_ID, 32);
  return header;
}

/** Trailer and footer of a pack with these frames and the ids of their chunks. */
export function packEnd(
  header: Uint8Array,
  frames: readonly WrittenFrame[],
  ids: Uint8Array,
  key: KeyObject | undefined,
): Buffer {
  const to = new ByteWriter();
  to.varint(frames.length);
  for (const frame of frames) to.varint(frame.stored);
  for (const frame of frames) to.byte((frame.chunks - 1) | (frame.codec === 'zstd' ? ZSTD : 0));
  for (const frame of frames) to.raw(frame.check);
  to.raw(ids);
  const trailer = key ? seal(key, TRAILER_NONCE, header, to.bytes()) : to.bytes();
  const footer = Buffer.alloc(PACK_FOOTER);
  footer.writeUInt32BE(trailer.length);
  trailerCheck(header, trailer).copy(footer, 4);
  END.copy(footer, 24);
  return Buffer.concat([trailer, footer]);
}

/** Checks a pack's header against the id it is kept under; gives back whether it is sealed, and with which key. */
export function readHeader(
  header: Uint8Array,
  pack: Pick<PackRef, 'id'>,
): { readonly keyId: Uint8Array | undefined } {
  const bytes = Buffer.from(header);
  if (bytes.length < PACK_HEADER || !bytes.subarray(0, 8).equals(MAGIC))
    throw damaged(`${pack.id} is no pack`);
  const version = bytes.readUInt16BE(8);
  if (version !== FORMAT_VERSION)
    throw damaged(
      `pack ${pack.id} is of version ${version}, and this program reads version ${FORMAT_VERSION}`,
    );
  const flags = bytes.readUInt16BE(10);
  if (flags > SEALED || bytes.readUInt32BE(12) !== 0)
    throw damaged(`pack ${pack.id} has flags that are not known`);
  if (!bytes.subarray(16, 32).equals(idBytes(pack.id))) throw damaged(`pack ${pack.id} holds another pack`);
  return { keyId: flags === SEALED ? bytes.subarray(32, 40) : undefined };
}

/** How long the trailer is, by the footer of a pack of so many bytes. */
export function trailerLength(footer: Uint8Array, pack: Pick<PackRef, 'id' | 'bytes'>): number {
  const bytes = Buffer.from(footer);
  if (bytes.length !== PACK_FOOTER || bytes.readUInt32BE(20) !== 0 || !bytes.subarray(24).equals(END))
    throw damaged(`pack ${pack.id} does not end as a pack ends`);
  const length = bytes.readUInt32BE(0);
  if (length > pack.bytes - PACK_HEADER - PACK_FOOTER)
    throw damaged(`pack ${pack.id} claims a trailer of ${length} bytes`);
  return length;
}

/** The key that opens a pack's frames and trailer; undefined for one that is not sealed. */
export function packKey(
  pack: Pick<PackRef, 'id'>,
  keyId: Uint8Array | undefined,
  keys: AccountKeys,
): KeyObject | undefined {
  return keyId && objectKey(sealKeyFor(keys, keyId, `pack ${pack.id}`), idBytes(pack.id));
}

/** Reads a trailer into an index in which every frame lies within the pack. */
export function readTrailer(
  parts: { readonly header: Uint8Array; readonly trailer: Uint8Array; readonly footer: Uint8Array },
  pack: PackRef,
  key: KeyObject | undefined,
): PackIndex {
  const what = `the trailer of pack ${pack.id}`;
  if (!trailerCheck(parts.header, parts.trailer).equals(parts.footer.subarray(4, 4 + FRAME_CHECK)))
    throw damaged(`${what} is damaged: its bytes are not those that were stored`);
  const plain = key ? unseal(key, TRAILER_NONCE, parts.header, parts.trailer) : parts.trailer;
  if (!plain)
    throw new BlobError('wrong_key', `${what} is as it was stored, and the account's key does not open it`);
  const from = new ByteReader(plain, what);
  const count = from.count(2 + FRAME_CHECK + CHUNK_ID, PACK_MAX, 'frames');
  const sizes = Array.from({ length: count }, () => from.varint());
  const kinds = sizes.map(() => from.byte());
  const checks = from.raw(count * FRAME_CHECK);
  let offset = PACK_HEADER;
  let chunks = 0;
  const frames = sizes.map((stored, number): FrameRef => {
    const kind = kinds[number] ?? 0;
    if (kind >= FRAME_CHUNKS * 2) throw from.error('has a frame of a kind that is not known');
    const frame: FrameRef = {
      pack,
      number,
      offset,
      stored,
      chunks: (kind % FRAME_CHUNKS) + 1,
      codec: kind >= FRAME_CHUNKS ? 'zstd' : 'raw',
      check: checks.subarray(number * FRAME_CHECK, (number + 1) * FRAME_CHECK),
    };
    if (stored === 0 || stored > mostStored(frame.chunks))
      throw from.error('has a frame of a size that cannot be');
    offset += stored;
    chunks += frame.chunks;
    return frame;
  });
  if (offset + parts.trailer.length + PACK_FOOTER !== pack.bytes)
    throw from.error('speaks of other frames than the pack has room for');
  const ids = from.raw(chunks * CHUNK_ID);
  from.end();
  return { pack, frames, ids };
}

function trailerCheck(header: Uint8Array, trailer: Uint8Array): Buffer {
  return createHash('sha256').update(header).update(trailer).digest().subarray(0, FRAME_CHECK);
}
