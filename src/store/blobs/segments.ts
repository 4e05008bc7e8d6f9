import type { Extent } from '../../host/extents.ts';
import { CHUNK } from './format.ts';
import { chunkCount } from './layout.ts';

/** A part of an image that one job looks at. */
export interface Segment {
  /** First chunk and number of chunks, pair after pair, in order. */
  readonly ranges: Float64Array;
  readonly chunks: number;
}

/** 4 MiB. */
const SEGMENT_CHUNKS = 256;

/** The chunks in which a file has something, in segments of up to 4 MiB; what is in none is a hole. */
export function* segmentsOf(extents: readonly Extent[], bytes: number): Generator<Segment, undefined> {
  const total = chunkCount(bytes);
  let ranges: number[] = [];
  let chunks = 0;
  let next = 0;
  for (const { offset, length } of extents) {
    let from = Math.max(next, Math.floor(offset / CHUNK));
    const end = Math.min(total, Math.ceil((offset + length) / CHUNK));
    while (from < end) {
      const count = Math.min(end - from, SEGMENT_CHUNKS - chunks);
      ranges.push(from, count);
      chunks += count;
      from += count;
      if (chunks === SEGMENT_CHUNKS) {
        yield { ranges: Float64Array.from(ranges), chunks };
        ranges = [];
        chunks = 0;
      }
    }
    next = Math.max(next, end);
  }
  if (chunks > 0) yield { ranges: Float64Array.from(ranges), chunks };
  return undefined;
}
