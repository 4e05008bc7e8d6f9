import { hash, type KeyObject } from 'node:crypto';
import { CHUNK } from './format.ts';

/** SHA-256 works in blocks of so many bytes. */
const BLOCK = 64;
/** A chunk with room before it for what HMAC puts there. */
const CELL = BLOCK + CHUNK;

/**
 * Names many chunks: HMAC-SHA256 (RFC 2104) out of two whole hashes, since a Hmac object for each chunk costs a third of
 * the time and leaves a native object behind until the next collection. Chunks are read into its cells, where the inner
 * padding stands before each already. It gives what `chunkId` gives.
 */
export class ChunkNamer {
  /** The cells' chunks, to be read into. */
  readonly cells: readonly Buffer[];
  readonly #whole: readonly Buffer[];
  readonly #outer = Buffer.alloc(BLOCK + 32, 0x5c);

  constructor(cells: number) {
    const bytes = Buffer.allocUnsafeSlow(cells * CELL);
    this.#whole = Array.from({ length: cells }, (_, i) => bytes.subarray(i * CELL, (i + 1) * CELL));
    this.cells = this.#whole.map((cell) => cell.subarray(BLOCK));
  }

  /** Sets the key; it is 32 bytes, as every dedup key. */
  use(dedup: KeyObject): void {
    const key = dedup.export();
    if (key.length > BLOCK) throw new RangeError('a dedup key is at most 64 bytes');
    for (let i = 0; i < BLOCK; i++) {
      const byte = key[i] ?? 0;
      this.#outer[i] = byte ^ 0x5c;
      for (const cell of this.#whole) cell[i] = byte ^ 0x36;
    }
  }

  /** The id of the chunk in a cell. */
  name(cell: number): Buffer {
    const inner = hash('sha256', this.#whole[cell] ?? Buffer.alloc(0), 'buffer');
    this.#outer.set(inner, BLOCK);
    return hash('sha256', this.#outer, 'buffer');
  }
}
