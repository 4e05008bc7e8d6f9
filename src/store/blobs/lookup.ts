import type { ChunkPlace } from './format.ts';

/**
 * What is stored already. It is asked in batches while an image is read, in the image's order.
 *
 * A place that is given is used: the snapshot will need that pack. So a pack must be pinned against being collected
 * before a place in it is given (and the manifest names every pack it uses, `Saved.reused`).
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
  find: (ids) => Promise.resolve(new Array<undefined>(ids.length / 32).fill(undefined)),
};
