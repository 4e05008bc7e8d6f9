import { open, rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import type { KeyObject } from 'node:crypto';
import { abortReason } from '../../base/clock.ts';
import { BlobError, fromErrno } from './blob-error.ts';
import type { LoadOrder } from './chunk-store.ts';
import { syncFolder } from './folder-home.ts';
import { CHUNK, idBytes, packName, type PackId, type PackRef } from './format.ts';
import type { BlobHome } from './home.ts';
import type { KeyRing } from './keys.ts';
import { at, frameAt, HOLE, type ImageLayout, type Layout } from './layout.ts';
import { objectKey } from './seal.ts';
import type { FrameToOpen } from './threads/jobs.ts';
import type { Threads } from './threads/pool.ts';

/** Frames that lie closer together than this are fetched in one request. */
const GAP = 256 * 1024;
/** The most that is fetched in one request. */
const RANGE = 4 * 1024 * 1024;
/** Requests at once; each holds its bytes until they are written. */
const AT_ONCE = 8;

/** A part of a pack, and what of it becomes what. */
interface Fetch {
  readonly pack: PackRef;
  readonly offset: number;
  length: number;
  readonly frames: FrameToOpen[];
  /** Of the image. */
  chunks: number;
}

export interface LoadDeps {
  readonly pool: Threads;
  readonly home: BlobHome;
  readonly keys: KeyRing;
}

/** The image of this name; throws `missing`. */
export function imageOf(layout: Layout, name: string): ImageLayout {
  const image = layout.images.find((image) => image.name === name);
  if (!image) throw new BlobError('missing', `the snapshot has no image "${name}"`);
  return image;
}

/** Brings an image back; see ChunkStore.load. */
export async function load(deps: LoadDeps, order: LoadOrder): Promise<void> {
  const image = imageOf(order.manifest, order.image);
  order.signal?.throwIfAborted();
  const { flush = true } = order;
  const what = `${image.name} could not be written`;
  let file;
  try {
    file = await open(order.to, 'wx', 0o600);
  } catch (error) {
    throw fromErrno(error, what);
  }
  try {
    try {
      await file.truncate(image.bytes);
      await fetchAll(deps, order, image, file.fd);
      if (flush) await file.sync();
    } finally {
      await file.close();
    }
    if (flush) await syncFolder(dirname(order.to));
  } catch (error) {
    await rm(order.to, { force: true });
    throw order.signal?.aborted ? abortReason(order.signal) : fromErrno(error, what);
  }
}

async function fetchAll(deps: LoadDeps, order: LoadOrder, image: ImageLayout, fd: number): Promise<void> {
  const { pool, home, keys } = deps;
  const stop = new AbortController();
  const signal = order.signal ? AbortSignal.any([order.signal, stop.signal]) : stop.signal;
  const opener = packKeys(keys);
  const plan = planFetches(order.manifest, image);
  // Holes are there from the start.
  let done = image.bytes - dataChunks(image) * CHUNK;
  const worker = async (): Promise<void> => {
    for (let next = plan.next(); !next.done; next = plan.next()) {
      const { pack, offset, length, frames, chunks } = next.value;
      const key = await opener(pack);
      const bytes = ownBytes(await home.getRange(packName(pack), offset, length, signal));
      const ask = { fd, fileBytes: image.bytes, pack: pack.id, key, bytes, frames };
      await pool.run('unpack', ask, { signal, transfer: [bytes.buffer] });
      done += chunks * CHUNK;
      order.onProgress?.({ done: Math.max(0, Math.min(done, image.bytes)), total: image.bytes });
    }
  };
  const workers = Array.from({ length: AT_ONCE }, () =>
    worker().catch((error: unknown) => {
      stop.abort(error);
      throw error;
    }),
  );
  const failed = (await Promise.allSettled(workers)).find((outcome) => outcome.status === 'rejected');
  if (failed) throw stop.signal.reason;
}

/** The keys of packs, each made once. */
export function packKeys(keys: KeyRing): (pack: PackRef) => Promise<KeyObject | undefined> {
  const made = new Map<PackId, KeyObject>();
  return async (pack) => {
    if (!pack.sealed) return undefined;
    let key = made.get(pack.id);
    if (key) return key;
    const { seal } = await keys(pack.account);
    if (!seal)
      throw new BlobError(
        'wrong_key',
        `pack ${pack.id} is encrypted, and no key is configured: set HATCH_SNAPSHOT_KEY_FILE`,
      );
    made.set(pack.id, (key = objectKey(seal, idBytes(pack.id))));
    return key;
  };
}

/** How many bytes images have that are not holes. */
export function dataBytes({ images }: Pick<Layout, 'images'>): number {
  return images.reduce((sum, image) => sum + dataChunks(image), 0) * CHUNK;
}

function dataChunks(image: ImageLayout): number {
  let chunks = 0;
  for (let run = 0; run < image.runs; run++) if (image.frame[run] !== HOLE) chunks += at(image.chunks, run);
  return chunks;
}

/** What is to be fetched for an image, in order of packs and of places in them. */
function* planFetches(layout: Layout, image: ImageLayout): Generator<Fetch, undefined> {
  const starts = new Uint32Array(image.runs);
  const order = new Float64Array(image.runs);
  let start = 0;
  for (let run = 0; run < image.runs; run++) {
    starts[run] = start;
    start += at(image.chunks, run);
    // One number sorts by frame, then run: frames are below 2^28 and runs below 2^24. Holes come last.
    order[run] = at(image.frame, run) * 2 ** 24 + run;
  }
  order.sort();
  let fetch: Fetch | undefined;
  for (let i = 0; i < order.length;) {
    const index = Math.floor((order[i] ?? 0) / 2 ** 24);
    if (index === HOLE) break;
    const frame = frameAt(layout, index);
    const writes: number[] = [];
    let chunks = 0;
    for (; i < order.length && Math.floor((order[i] ?? 0) / 2 ** 24) === index; i++) {
      const run = (order[i] ?? 0) % 2 ** 24;
      writes.push(at(image.slot, run), at(image.chunks, run), at(starts, run));
      chunks += at(image.chunks, run);
    }
    const end = frame.offset + frame.stored;
    if (
      fetch &&
      (fetch.pack !== frame.pack ||
        frame.offset - (fetch.offset + fetch.length) >= GAP ||
        end - fetch.offset > RANGE)
    ) {
      yield fetch;
      fetch = undefined;
    }
    fetch ??= { pack: frame.pack, offset: frame.offset, length: 0, frames: [], chunks: 0 };
    const { number, stored, codec, check } = frame;
    fetch.frames.push({
      at: frame.offset - fetch.offset,
      number,
      stored,
      chunks: frame.chunks,
      codec,
      check,
      writes: Float64Array.from(writes),
    });
    fetch.length = end - fetch.offset;
    fetch.chunks += chunks;
  }
  if (fetch) yield fetch;
}

/** Bytes in a buffer of their own, which can be handed to a thread. */
function ownBytes(bytes: Buffer): Uint8Array<ArrayBuffer> {
  const { buffer, byteOffset, byteLength } = bytes;
  if (buffer instanceof ArrayBuffer && byteOffset === 0 && byteLength === buffer.byteLength)
    return new Uint8Array(buffer);
  return new Uint8Array(bytes);
}
