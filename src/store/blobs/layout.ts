import { BlobError } from './blob-error.ts';
import { CHUNK, type FrameRef, type PackId, type PackRef, type ChunkPlace } from './format.ts';

/** In the column `frame`: this run is of zeros. */
export const HOLE = 0xffff_ffff;
/** In one manifest, over all images: 8 million runs keep what a manifest takes in memory under 80 MB. */
export const MOST_RUNS = 8 * 1024 * 1024;
/** 32 TiB. */
export const LARGEST_IMAGE = 2 ** 45;

/** The frames that images refer to by index, in order of their packs and places, in columns. */
export interface FrameColumns {
  readonly count: number;
  /** Index into the table of packs. */
  readonly pack: Uint32Array;
  readonly number: Uint32Array;
  readonly offset: Uint32Array;
  readonly stored: Uint32Array;
  readonly chunks: Uint8Array;
  /** 0: raw, 1: zstd. */
  readonly codec: Uint8Array;
  /** FRAME_CHECK bytes each. */
  readonly checks: Uint8Array;
}

/** An image as runs of chunks: `chunks[i]` of them, from `slot[i]` of frame `frame[i]` on, or zeros where that is HOLE. */
export interface ImageLayout {
  readonly name: string;
  /** Its size; the last chunk's bytes beyond it are zeros. */
  readonly bytes: number;
  readonly runs: number;
  readonly chunks: Uint32Array;
  readonly frame: Uint32Array;
  readonly slot: Uint8Array;
}

/** Where every chunk of some images is. */
export interface Layout {
  readonly packs: readonly PackRef[];
  readonly frames: FrameColumns;
  readonly images: readonly ImageLayout[];
}

/** How many chunks an image of so many bytes has. */
export function chunkCount(bytes: number): number {
  return Math.ceil(bytes / CHUNK);
}

/** One frame of a layout, with its pack. */
export function frameAt({ packs, frames }: Layout, index: number): FrameRef {
  const pack = packs[frames.pack[index] ?? HOLE];
  if (!pack) throw new RangeError(`the layout has no frame ${index}`);
  return {
    pack,
    number: at(frames.number, index),
    offset: at(frames.offset, index),
    stored: at(frames.stored, index),
    chunks: at(frames.chunks, index),
    codec: frames.codec[index] === 0 ? 'raw' : 'zstd',
    check: frames.checks.subarray(index * 16, index * 16 + 16),
  };
}

/** A column's entry; throws RangeError beyond its end. */
export function at(column: Uint8Array | Uint32Array, index: number): number {
  const value = column[index];
  if (value === undefined) throw new RangeError(`no entry ${index} in a column of ${column.length}`);
  return value;
}

/**
 * Puts a layout together, run by run. A frame that is still to be written is `reserve`d, used by its handle, and
 * `settle`d once it is known where it is.
 */
export class LayoutBuilder {
  readonly #frames: (FrameRef | undefined)[] = [];
  readonly #handles = new Map<PackId, Map<number, number>>();
  readonly #images: ImageBuilder[] = [];

  /** The handle of a frame that is known. */
  handle(frame: FrameRef): number {
    let ofPack = this.#handles.get(frame.pack.id);
    if (!ofPack) this.#handles.set(frame.pack.id, (ofPack = new Map<number, number>()));
    let handle = ofPack.get(frame.number);
    if (handle === undefined) ofPack.set(frame.number, (handle = this.#frames.push(frame) - 1));
    return handle;
  }

  /** The handle of a frame that is being written. */
  reserve(): number {
    return this.#frames.push(undefined) - 1;
  }

  settle(handle: number, frame: FrameRef): void {
    this.#frames[handle] = frame;
  }

  image(name: string, bytes: number): ImageBuilder {
    if (bytes > LARGEST_IMAGE)
      throw new BlobError('refused', `${name} is larger than ${LARGEST_IMAGE} bytes`);
    const image = new ImageBuilder(name, bytes);
    this.#images.push(image);
    return image;
  }

  /** The layout; every reserved frame must have been settled. Its order depends on nothing but the places. */
  finish(): Layout {
    const used = this.#frames.map((frame, handle) => {
      if (!frame) throw new Error(`frame ${handle} was reserved and not settled`);
      return { frame, handle };
    });
    used.sort((a, b) => comparePacks(a.frame.pack, b.frame.pack) || a.frame.number - b.frame.number);
    const packs: PackRef[] = [];
    const frames = makeFrameColumns(used.length);
    const newIndex = new Uint32Array(used.length);
    used.forEach(({ frame, handle }, index) => {
      if (packs.at(-1)?.id !== frame.pack.id) packs.push(frame.pack);
      newIndex[handle] = index;
      setFrame(frames, index, packs.length - 1, frame);
    });
    return { packs, frames, images: this.#images.map((image) => image.finish(newIndex)) };
  }
}

/** Empty columns for so many frames. */
export function makeFrameColumns(count: number): FrameColumns {
  return {
    count,
    pack: new Uint32Array(count),
    number: new Uint32Array(count),
    offset: new Uint32Array(count),
    stored: new Uint32Array(count),
    chunks: new Uint8Array(count),
    codec: new Uint8Array(count),
    checks: new Uint8Array(count * 16),
  };
}

function setFrame(columns: FrameColumns, index: number, pack: number, frame: FrameRef): void {
  columns.pack[index] = pack;
  columns.number[index] = frame.number;
  columns.offset[index] = frame.offset;
  columns.stored[index] = frame.stored;
  columns.chunks[index] = frame.chunks;
  columns.codec[index] = frame.codec === 'raw' ? 0 : 1;
  columns.checks.set(frame.check, index * 16);
}

function comparePacks(a: PackRef, b: PackRef): number {
  if (a.account !== b.account) return a.account < b.account ? -1 : 1;
  return a.id === b.id ? 0 : a.id < b.id ? -1 : 1;
}

/** One image of a LayoutBuilder: what is added follows what was added before, and joins it where it can. */
export class ImageBuilder {
  readonly name: string;
  readonly bytes: number;
  #chunks = new Uint32Array(64);
  #frame = new Uint32Array(64);
  #slot = new Uint8Array(64);
  #runs = 0;
  #added = 0;

  constructor(name: string, bytes: number) {
    this.name = name;
    this.bytes = bytes;
  }

  /** So many chunks of zeros. */
  hole(chunks: number): void {
    if (chunks > 0) this.#add(chunks, HOLE, 0);
  }

  /** So many chunks, from this slot of this frame on. */
  data(chunks: number, handle: number, slot: number): void {
    if (chunks > 0) this.#add(chunks, handle, slot);
  }

  #add(chunks: number, frame: number, slot: number): void {
    this.#added += chunks;
    const last = this.#runs - 1;
    if (last >= 0 && this.#frame[last] === frame) {
      const length = at(this.#chunks, last);
      if (frame === HOLE || at(this.#slot, last) + length === slot) {
        this.#chunks[last] = length + chunks;
        return;
      }
    }
    if (this.#runs === MOST_RUNS) throw tooManyRuns();
    if (this.#runs === this.#chunks.length) {
      this.#chunks = grown(this.#chunks, new Uint32Array(this.#runs * 2));
      this.#frame = grown(this.#frame, new Uint32Array(this.#runs * 2));
      this.#slot = grown(this.#slot, new Uint8Array(this.#runs * 2));
    }
    this.#chunks[this.#runs] = chunks;
    this.#frame[this.#runs] = frame;
    this.#slot[this.#runs] = slot;
    this.#runs += 1;
  }

  /** The image with its handles replaced by `newIndex[handle]`. Throws when it is not whole. */
  finish(newIndex: Uint32Array): ImageLayout {
    if (this.#added !== chunkCount(this.bytes))
      throw new Error(
        `${this.#added} chunks were added to ${this.name}, which has ${chunkCount(this.bytes)}`,
      );
    const frame = this.#frame.slice(0, this.#runs);
    frame.forEach((handle, run) => {
      if (handle !== HOLE) frame[run] = at(newIndex, handle);
    });
    return {
      name: this.name,
      bytes: this.bytes,
      runs: this.#runs,
      chunks: this.#chunks.slice(0, this.#runs),
      frame,
      slot: this.#slot.slice(0, this.#runs),
    };
  }
}

/** Adds an image of another layout as it is, or with its chunks moved to where `moved` says they are now. */
export function addImage(
  builder: LayoutBuilder,
  layout: Layout,
  image: ImageLayout,
  moved: (place: ChunkPlace) => ChunkPlace = (place) => place,
): void {
  const to = builder.image(image.name, image.bytes);
  for (let run = 0; run < image.runs; run++) {
    const chunks = at(image.chunks, run);
    const index = at(image.frame, run);
    if (index === HOLE) {
      to.hole(chunks);
      continue;
    }
    const frame = frameAt(layout, index);
    for (let i = 0; i < chunks; i++) {
      const place = moved({ frame, slot: at(image.slot, run) + i });
      to.data(1, builder.handle(place.frame), place.slot);
    }
  }
}

export function tooManyRuns(): BlobError {
  return new BlobError('refused', `the images are in more than ${MOST_RUNS} pieces, which no manifest holds`);
}

function grown<Column extends Uint8Array | Uint32Array>(from: Column, to: Column): Column {
  to.set(from);
  return to;
}
