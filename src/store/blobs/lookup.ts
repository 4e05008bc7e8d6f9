import { ChunkTable } from './chunk-table.ts';
import { CHUNK_ID, FRAME_CHUNKS, type ChunkPlace, type FrameRef, type PackId } from './format.ts';
import type { PackIndex } from './pack-bytes.ts';

/**
 * What is stored already. It is asked in batches while an image is read, in the image's order.
 *
 * A place that is given is used: the snapshot will need that pack. So a pack must be pinned against being collected
 * before a place in it is given (and `Saved.reused` names every pack of others that is used).
 */
export interface ChunkLookup {
  /**
   * `ids` holds chunk ids of 32 bytes, one after another; the answer has as many entries, in the same order: where that
   * chunk is, or undefined when it is not known. Not knowing one that exists costs its bytes and nothing else.
   */
  find(ids: Uint8Array, signal?: AbortSignal): Promise<readonly (ChunkPlace | undefined)[]>;
}

/** Knows nothing: for a first snapshot, and for tests. */
export const knowsNothing: ChunkLookup = {
  find: (ids) => Promise.resolve(new Array<undefined>(ids.length / CHUNK_ID).fill(undefined)),
};

/**
 * A lookup in memory, filled from the trailers of packs (`readPackIndex`): about 55 bytes a chunk, 4 MB for each GiB of
 * guest that is not zero. Of a chunk that is in two packs, the pack that was added first is named.
 */
export class ChunkIndex implements ChunkLookup {
  readonly #table = new ChunkTable();
  readonly #frames: FrameRef[] = [];
  readonly #packs = new Set<PackId>();

  /** Adds all chunks of a pack; one that is there already is not added again. */
  add({ pack, frames, ids }: PackIndex): void {
    if (this.#packs.has(pack.id)) return;
    this.#packs.add(pack.id);
    let from = 0;
    for (const frame of frames) {
      const index = this.#frames.push(frame) - 1;
      for (let slot = 0; slot < frame.chunks; slot++, from += CHUNK_ID)
        this.#table.add(ids, from, index * FRAME_CHUNKS + slot);
    }
  }

  has(pack: PackId): boolean {
    return this.#packs.has(pack);
  }

  /** How many different chunks it knows. */
  get chunks(): number {
    return this.#table.size;
  }

  /** Where the chunk is whose id begins at `from` in `ids`. */
  place(ids: Uint8Array, from: number): ChunkPlace | undefined {
    const value = this.#table.get(ids, from);
    const frame = value === undefined ? undefined : this.#frames[Math.floor(value / FRAME_CHUNKS)];
    return frame && value !== undefined ? { frame, slot: value % FRAME_CHUNKS } : undefined;
  }

  find(ids: Uint8Array): Promise<readonly (ChunkPlace | undefined)[]> {
    const count = ids.length / CHUNK_ID;
    return Promise.resolve(Array.from({ length: count }, (_, i) => this.place(ids, i * CHUNK_ID)));
  }
}
