import { createHash, type Hash, type KeyObject } from 'node:crypto';
import { writeSync } from 'node:fs';
import { fromErrno } from './blob-error.ts';
import { ByteWriter } from './byte-stream.ts';
import { idBytes, type PackId } from './format.ts';
import { encodeFrame } from './frame.ts';
import type { SealKey } from './keys.ts';
import { packEnd, packHeader, type WrittenFrame } from './pack-bytes.ts';
import { release } from './release.ts';
import { objectKey } from './seal.ts';

/** Its length, kind and check. */
const FRAME_IN_TRAILER = 20;

/**
 * Writes one pack into an open, empty file, frame by frame. Synchronous: it lives in a worker thread. Whoever opened the
 * file flushes and closes it.
 */
export class PackWriter {
  readonly #id: PackId;
  readonly #fd: number;
  readonly #key: KeyObject | undefined;
  readonly #header: Buffer;
  readonly #hash: Hash = createHash('sha256');
  readonly #frames: WrittenFrame[] = [];
  readonly #ids = new ByteWriter();
  #bytes = 0;

  constructor(id: PackId, fd: number, seal: SealKey | undefined) {
    this.#id = id;
    this.#fd = fd;
    this.#key = seal && objectKey(seal, idBytes(id));
    this.#header = packHeader({ id }, seal?.id);
    this.#write(this.#header);
  }

  /** How long it would be if it ended now, to within a few bytes: the ids of well packed chunks take as much as the chunks. */
  get bytes(): number {
    return this.#bytes + this.#ids.length + this.#frames.length * FRAME_IN_TRAILER;
  }

  /** Adds chunks as one frame; gives back the frame, and where it begins. */
  add(plain: Uint8Array, ids: Uint8Array): WrittenFrame & { readonly offset: number } {
    const number = this.#frames.length;
    const { codec, stored, check } = encodeFrame(plain, this.#id, number, this.#key);
    const frame = { number, chunks: ids.length / 32, codec, check, stored: stored.length };
    const offset = this.#bytes;
    this.#write(stored);
    release(stored);
    this.#frames.push(frame);
    this.#ids.raw(ids);
    return { ...frame, offset };
  }

  /** Adds the end; gives back the size of the whole and its SHA-256. */
  finish(): { readonly bytes: number; readonly sha256: string } {
    this.#write(packEnd(this.#header, this.#frames, this.#ids.bytes(), this.#key));
    return { bytes: this.#bytes, sha256: this.#hash.digest('hex') };
  }

  #write(bytes: Uint8Array): void {
    try {
      for (let at = 0; at < bytes.length;)
        at += writeSync(this.#fd, bytes, at, bytes.length - at, this.#bytes + at);
    } catch (error) {
      throw fromErrno(error, `pack ${this.#id} could not be written`);
    }
    this.#hash.update(bytes);
    this.#bytes += bytes.length;
  }
}
