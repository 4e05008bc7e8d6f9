import type { ImageView } from './chunk-store.ts';
import { CHUNK, packName } from './format.ts';
import { decodeFrame } from './frame.ts';
import type { BlobHome } from './home.ts';
import type { KeyRing } from './keys.ts';
import { at, frameAt, HOLE } from './layout.ts';
import { imageOf, packKeys } from './load.ts';
import type { Manifest } from './manifest.ts';

/** Opened frames that are kept: 8 MiB. What is read next is mostly beside what was read last. */
const KEPT = 32;

/** Opens an image for reading in place; see ChunkStore.look. */
export function look(home: BlobHome, keys: KeyRing, manifest: Manifest, name: string): ImageView {
  const image = imageOf(manifest, name);
  const opener = packKeys(keys);
  const starts = new Uint32Array(image.runs);
  for (let run = 1; run < image.runs; run++) starts[run] = at(starts, run - 1) + at(image.chunks, run - 1);
  const kept = new Map<number, Promise<Buffer>>();

  /** The frame's chunks; asked for once by all who want them at the same time, so that nobody's signal ends it for all. */
  const frame = (index: number): Promise<Buffer> => {
    const there = kept.get(index);
    kept.delete(index);
    const opened = there ?? fetchFrame(index);
    kept.set(index, opened);
    opened.catch(() => kept.delete(index));
    const [oldest] = kept.keys();
    if (kept.size > KEPT && oldest !== undefined) kept.delete(oldest);
    return opened;
  };
  const fetchFrame = async (index: number): Promise<Buffer> => {
    const ref = frameAt(manifest, index);
    const key = await opener(ref.pack);
    const stored = await home.getRange(packName(ref.pack), ref.offset, ref.stored);
    return decodeFrame(stored, ref, ref.pack.id, key);
  };

  /** The last run that begins at or before this chunk. */
  const runAt = (chunk: number): number => {
    let [low, high] = [0, image.runs - 1];
    while (low < high) {
      const middle = Math.ceil((low + high) / 2);
      if (at(starts, middle) <= chunk) low = middle;
      else high = middle - 1;
    }
    return low;
  };

  return {
    bytes: image.bytes,
    read: async (offset, length, signal) => {
      const end = offset + length;
      if (!(offset >= 0 && length >= 0 && end <= image.bytes))
        throw new RangeError(`${length} bytes from ${offset} are not within ${image.bytes}`);
      const result = Buffer.alloc(length);
      if (length === 0) return result;
      for (let run = runAt(Math.floor(offset / CHUNK)); run < image.runs; run++) {
        const begin = at(starts, run) * CHUNK;
        if (begin >= end) break;
        signal?.throwIfAborted();
        const index = at(image.frame, run);
        if (index === HOLE) continue;
        const plain = await frame(index);
        const from = Math.max(begin, offset);
        const to = Math.min(begin + at(image.chunks, run) * CHUNK, end);
        const inFrame = at(image.slot, run) * CHUNK - begin;
        plain.copy(result, from - offset, inFrame + from, inFrame + to);
      }
      return result;
    },
  };
}
