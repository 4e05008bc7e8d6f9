import { open, type FileHandle } from 'node:fs/promises';
import { abortReason } from '../../base/clock.ts';
import { dataExtents } from '../../host/extents.ts';
import { BlobError, fromErrno } from './blob-error.ts';
import { fileSource } from './byte-source.ts';
import type { ImageFile, Saved, SaveOrder } from './chunk-store.ts';
import { ChunkTable } from './chunk-table.ts';
import { CHUNK, CHUNK_ID, FRAME_CHUNKS, type ChunkPlace, type PackRef } from './format.ts';
import { chunkCount, LayoutBuilder, type ImageBuilder } from './layout.ts';
import { isImageName } from './layout-bytes.ts';
import { encodeManifest } from './manifest.ts';
import { readPackIndex } from './pack.ts';
import { FrameFiller, Packers } from './packers.ts';
import { segmentsOf, type Segment } from './segments.ts';
import { Spool } from './spool.ts';
import type { Answer } from './threads/jobs.ts';
import type { Threads } from './threads/pool.ts';

interface OpenImage extends ImageFile {
  readonly file: FileHandle;
  readonly bytes: number;
  readonly mtimeMs: number;
}

/** Saves images; see ChunkStore.save. */
export async function save(pool: Threads, now: () => number, order: SaveOrder): Promise<Saved> {
  const names = order.images.map(({ name }) => name);
  const bad = names.find((name, index) => !isImageName(name) || names.indexOf(name) !== index);
  if (bad !== undefined)
    throw new BlobError('refused', `"${bad}" is not a name for an image, or there are two of it`);
  const images: OpenImage[] = [];
  try {
    for (const image of order.images) images.push(await openImage(image));
    return await saveOpen(pool, now, order, images);
  } finally {
    for (const { file } of images) await file.close();
  }
}

async function saveOpen(
  pool: Threads,
  now: () => number,
  order: SaveOrder,
  images: readonly OpenImage[],
): Promise<Saved> {
  const { keys, identity, onPack = () => undefined } = order;
  const what = images.map(({ name, bytes, mtimeMs }) => ({ name, bytes, mtimeMs }));
  const key = keys.seal ? Buffer.from(keys.seal.id).toString('hex') : undefined;
  const spool = await Spool.open(
    order.spool,
    keys.account,
    { account: keys.account, key, identity, what },
    now(),
  );
  for (const pack of spool.packs) onPack(pack);
  if (spool.outcome) return spool.outcome;

  const stop = new AbortController();
  const signal = order.signal ? AbortSignal.any([order.signal, stop.signal]) : stop.signal;
  const packers = new Packers({ pool, spool, keys, now, onPack, signal });
  const saving = new Saving(pool, packers, order, images, signal);
  try {
    await saving.goOn(spool);
    for (const image of images) await saving.image(image);
    await packers.done();
    signal.throwIfAborted();
    for (const image of images) await checkUnchanged(image);
  } catch (error) {
    stop.abort(error);
    await packers.abandon(error);
    await saving.settled();
    throw order.signal?.aborted ? abortReason(order.signal) : error;
  }
  const layout = saving.builder.finish();
  const { id, createdAt } = { id: spool.manifestId, createdAt: spool.createdAt };
  const { bytes, sha256 } = encodeManifest(
    { id, account: keys.account, createdAt, identity, ...layout },
    keys,
  );
  const own = new Set(spool.packs.map(({ pack }) => pack.id));
  const reused = layout.packs.filter((pack: PackRef) => !own.has(pack.id));
  const stored = spool.packs.reduce((sum, pack) => sum + pack.bytes, bytes.length);
  return spool.keepManifest(bytes, { sha256, reused, sizes: { ...saving.sizes, stored } });
}

/** One save under way: the images are read in order, and what is new of them is handed to the packers. */
class Saving {
  readonly builder = new LayoutBuilder();
  readonly #pool: Threads;
  readonly #packers: Packers;
  readonly #order: SaveOrder;
  readonly #signal: AbortSignal;
  /** What this save has seen or written: chunk id -> handle of its frame and slot. */
  readonly #seen = new ChunkTable();
  readonly #running = new Set<Promise<unknown>>();
  readonly #total: number;
  #done = 0;
  #data = 0;
  #fresh = 0;

  constructor(
    pool: Threads,
    packers: Packers,
    order: SaveOrder,
    images: readonly OpenImage[],
    signal: AbortSignal,
  ) {
    this.#pool = pool;
    this.#packers = packers;
    this.#order = order;
    this.#signal = signal;
    this.#total = images.reduce((sum, { bytes }) => sum + bytes, 0);
  }

  get sizes(): Omit<Saved['sizes'], 'stored'> {
    return { logical: this.#total, data: this.#data * CHUNK, fresh: this.#fresh * CHUNK };
  }

  /** Takes what a run before has written already. */
  async goOn(spool: Spool): Promise<void> {
    for (const { pack, file } of spool.packs) {
      const source = await fileSource(file, `pack ${pack.id}`);
      const index = await readPackIndex(source, pack.id, this.#order.keys, this.#signal);
      let from = 0;
      for (const frame of index.frames)
        for (let slot = 0; slot < frame.chunks; slot++, from += CHUNK_ID)
          this.#remember(index.ids, from, { frame, slot });
    }
  }

  /** Resolves when no thread reads any image any more. */
  async settled(): Promise<void> {
    await Promise.allSettled(this.#running);
  }

  /** Reads one image, a few segments ahead of what is decided. */
  async image({ name, path, file, bytes }: OpenImage): Promise<void> {
    const extents = await dataExtents(path, { signal: this.#signal });
    const image = this.builder.image(name, bytes);
    const filler = new FrameFiller(
      () => this.builder.reserve(),
      (chunks, ids, handle) =>
        this.#packers.add({
          fd: file.fd,
          chunks,
          ids,
          settle: (frame) => this.builder.settle(handle, frame),
        }),
    );
    const before = this.#done;
    const ahead: { readonly segment: Segment; readonly hashed: Promise<Answer<'hash'>> }[] = [];
    const segments = segmentsOf(extents, bytes);
    const most = this.#pool.size * 2 + 1;
    let at = 0;
    for (;;) {
      while (ahead.length < most) {
        const found = segments.next();
        if (found.done) break;
        ahead.push({ segment: found.value, hashed: this.#hash(file.fd, found.value) });
      }
      const next = ahead.shift();
      if (!next) break;
      at = await this.#take(image, filler, at, next.segment, await next.hashed);
      this.#progress(before + Math.min(at * CHUNK, bytes));
    }
    await filler.flush();
    image.hole(chunkCount(bytes) - at);
    this.#progress(before + bytes);
  }

  /** Decides what becomes of a segment's chunks; `at` is the image's chunk reached so far, as is what it gives back. */
  async #take(
    image: ImageBuilder,
    filler: FrameFiller,
    at: number,
    { ranges }: Segment,
    { ids, zero }: Answer<'hash'>,
  ): Promise<number> {
    await this.#ask(ids, zero);
    let index = 0;
    for (let i = 0; i < ranges.length; i += 2) {
      const first = ranges[i] ?? 0;
      const count = ranges[i + 1] ?? 0;
      image.hole(first - at);
      at = first + count;
      for (let chunk = first; chunk < at; chunk++, index++) {
        if (zero[index]) {
          image.hole(1);
          continue;
        }
        this.#data += 1;
        const from = index * CHUNK_ID;
        const seen = this.#seen.get(ids, from);
        if (seen !== undefined) {
          image.data(1, Math.floor(seen / FRAME_CHUNKS), seen % FRAME_CHUNKS);
          continue;
        }
        this.#fresh += 1;
        const { handle, slot } = filler.next();
        image.data(1, handle, slot);
        this.#seen.add(ids, from, handle * FRAME_CHUNKS + slot);
        await filler.add(chunk, ids, from);
      }
    }
    return at;
  }

  /** Asks for those that were not seen yet, and remembers the answers. */
  async #ask(ids: Uint8Array, zero: Uint8Array): Promise<void> {
    const wanted: number[] = [];
    for (let index = 0; index < zero.length; index++)
      if (!zero[index] && this.#seen.get(ids, index * CHUNK_ID) === undefined) wanted.push(index * CHUNK_ID);
    if (wanted.length === 0) return;
    const asked = new Uint8Array(wanted.length * CHUNK_ID);
    wanted.forEach((from, i) => asked.set(ids.subarray(from, from + CHUNK_ID), i * CHUNK_ID));
    const places = await this.#order.known.find(asked, this.#signal);
    places.forEach((place, i) => {
      if (place) this.#remember(asked, i * CHUNK_ID, place);
    });
    this.#signal.throwIfAborted();
  }

  #remember(ids: Uint8Array, from: number, { frame, slot }: ChunkPlace): void {
    if (this.#seen.get(ids, from) === undefined)
      this.#seen.add(ids, from, this.builder.handle(frame) * FRAME_CHUNKS + slot);
  }

  #hash(fd: number, { ranges }: Segment): Promise<Answer<'hash'>> {
    const { dedup } = this.#order.keys;
    const hashed = this.#pool.run('hash', { fd, dedup, ranges }, { signal: this.#signal });
    this.#running.add(hashed);
    // Whoever waits for it is told; nobody may, when something else went wrong first.
    hashed.catch(() => undefined).finally(() => this.#running.delete(hashed));
    return hashed;
  }

  #progress(done: number): void {
    this.#done = done;
    this.#order.onProgress?.({ done, total: this.#total });
  }
}

async function openImage(image: ImageFile): Promise<OpenImage> {
  try {
    const file = await open(image.path, 'r');
    const { size, mtimeMs } = await file.stat();
    return { ...image, file, bytes: size, mtimeMs };
  } catch (error) {
    throw fromErrno(error, `${image.name} could not be read`);
  }
}

/** A chunk that changed between being named and being packed would be restored as what it was not. */
async function checkUnchanged({ name, file, bytes, mtimeMs }: OpenImage): Promise<void> {
  const now = await file.stat();
  if (now.size !== bytes || now.mtimeMs !== mtimeMs)
    throw new BlobError('failed', `${name} was changed while it was saved`);
}
