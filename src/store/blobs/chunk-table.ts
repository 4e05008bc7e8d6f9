import { CHUNK_ID } from './format.ts';

const EMPTY = 0xffff_ffff;

/**
 * Chunk ids and a number for each, in two flat arrays: 36 bytes an entry, where a Map of strings takes several times
 * that. Open addressing; ids are hashes already, so their first bytes are the place.
 */
export class ChunkTable {
  #ids: Uint8Array;
  #values: Uint32Array;
  #size = 0;

  constructor() {
    this.#ids = new Uint8Array(1024 * CHUNK_ID);
    this.#values = new Uint32Array(1024).fill(EMPTY);
  }

  get size(): number {
    return this.#size;
  }

  /** The number of the id at `from` in `ids`; undefined when it is not there. */
  get(ids: Uint8Array, from: number): number | undefined {
    const value = this.#values[this.#place(ids, from)];
    return value === EMPTY ? undefined : value;
  }

  /** Sets a number (below 2^32 - 1) where there is none for this id yet: the first stays. */
  add(ids: Uint8Array, from: number, value: number): void {
    if ((this.#size + 1) * 3 > this.#values.length * 2) this.#grow();
    const place = this.#place(ids, from);
    if (this.#values[place] !== EMPTY) return;
    this.#ids.set(ids.subarray(from, from + CHUNK_ID), place * CHUNK_ID);
    this.#values[place] = value;
    this.#size += 1;
  }

  /** Where the id is, or the free place where it would be. */
  #place(ids: Uint8Array, from: number): number {
    const mask = this.#values.length - 1;
    let place = new DataView(ids.buffer, ids.byteOffset + from, 4).getUint32(0) & mask;
    while (this.#values[place] !== EMPTY && !this.#same(place * CHUNK_ID, ids, from))
      place = (place + 1) & mask;
    return place;
  }

  #same(at: number, ids: Uint8Array, from: number): boolean {
    for (let i = 0; i < CHUNK_ID; i++) if (this.#ids[at + i] !== ids[from + i]) return false;
    return true;
  }

  #grow(): void {
    const [ids, values] = [this.#ids, this.#values];
    this.#ids = new Uint8Array(ids.length * 2);
    this.#values = new Uint32Array(values.length * 2).fill(EMPTY);
    values.forEach((value, place) => {
      if (value === EMPTY) return;
      const to = this.#place(ids, place * CHUNK_ID);
      this.#ids.set(ids.subarray(place * CHUNK_ID, (place + 1) * CHUNK_ID), to * CHUNK_ID);
      this.#values[to] = value;
    });
  }
}
