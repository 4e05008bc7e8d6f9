import { damaged } from './blob-error.ts';
import type { ByteReader, ByteWriter } from './byte-stream.ts';
import { FRAME_CHECK, FRAME_CHUNKS, PACK_MAX, packIdOf, idBytes, type PackRef } from './format.ts';
import { mostStored } from './frame.ts';
import {
  at,
  chunkCount,
  HOLE,
  LARGEST_IMAGE,
  makeFrameColumns,
  MOST_RUNS,
  tooManyRuns,
  type FrameColumns,
  type ImageLayout,
  type Layout,
} from './layout.ts';

/** The part of a manifest that says where chunks are: columns, each as differences from the entry before. */
const ACCOUNT = /^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$/;
const IMAGE = /^[A-Za-z][A-Za-z0-9._-]{0,63}$/;
const SEALED = 1;
const MOST_IMAGES = 1024;
const ZSTD = 0x10;

/** Whether a text can name an image. */
export function isImageName(name: string): boolean {
  return IMAGE.test(name);
}

export function writeLayout(to: ByteWriter, { packs, frames, images }: Layout): void {
  writePacks(to, packs);
  writeFrames(to, frames);
  to.varint(images.length);
  let runs = 0;
  for (const image of images) {
    if ((runs += image.runs) > MOST_RUNS) throw tooManyRuns();
    writeImage(to, image);
  }
}

/** Reads a layout in which every reference leads somewhere. Throws BlobError (`damaged`). */
export function readLayout(from: ByteReader): Layout {
  const packs = readPacks(from);
  const frames = readFrames(from, packs);
  const images: ImageLayout[] = [];
  const names = new Set<string>();
  let runs = 0;
  for (let left = from.count(3, MOST_IMAGES, 'images'); left > 0; left--) {
    const image = readImage(from, frames, MOST_RUNS - runs);
    if (names.has(image.name)) throw from.error(`has two images "${image.name}"`);
    names.add(image.name);
    runs += image.runs;
    images.push(image);
  }
  return { packs, frames, images };
}

function writePacks(to: ByteWriter, packs: readonly PackRef[]): void {
  const accounts = [...new Set(packs.map((pack) => pack.account))];
  to.varint(accounts.length);
  for (const account of accounts) to.text(account);
  to.varint(packs.length);
  for (const pack of packs) to.varint(accounts.indexOf(pack.account));
  for (const pack of packs) to.raw(idBytes(pack.id));
  for (const pack of packs) to.varint(pack.bytes);
  for (const pack of packs) to.byte(pack.sealed ? SEALED : 0);
}

function readPacks(from: ByteReader): PackRef[] {
  const accounts: string[] = [];
  for (let left = from.count(2, 65536, 'accounts'); left > 0; left--) {
    const account = from.text(128);
    if (!ACCOUNT.test(account)) throw from.error('names an account that cannot be one');
    accounts.push(account);
  }
  const count = from.count(19, 2 ** 24, 'packs');
  const owners = Array.from({ length: count }, () => {
    const account = accounts[from.varint()];
    if (account === undefined) throw from.error('has a pack of an account it does not name');
    return account;
  });
  const ids = owners.map(() => packIdOf(from.raw(16)));
  if (new Set(ids).size !== count) throw from.error('has a pack twice');
  const sizes = owners.map(() => {
    const bytes = from.varint();
    if (bytes > PACK_MAX) throw from.error(`has a pack of ${bytes} bytes`);
    return bytes;
  });
  return owners.map((account, index) => {
    const flags = from.byte();
    if (flags > SEALED) throw from.error('has a pack with flags that are not known');
    const id = ids[index];
    if (id === undefined) throw from.error('has fewer packs than it says');
    return { account, id, bytes: sizes[index] ?? 0, sealed: flags === SEALED };
  });
}

function writeFrames(to: ByteWriter, frames: FrameColumns): void {
  const { count } = frames;
  const first = (i: number): boolean => i === 0 || frames.pack[i] !== frames.pack[i - 1];
  to.varint(count);
  for (let i = 0; i < count; i++) to.varint(at(frames.pack, i) - (i === 0 ? 0 : at(frames.pack, i - 1)));
  for (let i = 0; i < count; i++)
    to.varint(at(frames.number, i) - (first(i) ? 0 : at(frames.number, i - 1) + 1));
  for (let i = 0; i < count; i++)
    to.varint(at(frames.offset, i) - (first(i) ? 0 : at(frames.offset, i - 1) + at(frames.stored, i - 1)));
  for (let i = 0; i < count; i++) to.varint(at(frames.stored, i));
  for (let i = 0; i < count; i++) to.byte((at(frames.chunks, i) - 1) | (frames.codec[i] === 0 ? 0 : ZSTD));
  to.raw(frames.checks);
}

function readFrames(from: ByteReader, packs: readonly PackRef[]): FrameColumns {
  const count = from.count(5 + FRAME_CHECK, 2 ** 28 - 1, 'frames');
  const frames = makeFrameColumns(count);
  const first = (i: number): boolean => i === 0 || frames.pack[i] !== frames.pack[i - 1];
  const fill = (column: Uint32Array, value: (i: number) => number): void => {
    for (let i = 0; i < count; i++) {
      const number = value(i);
      if (number >= HOLE) throw from.error('has a number that is too large');
      column[i] = number;
    }
  };
  fill(frames.pack, (i) => from.varint() + (i === 0 ? 0 : at(frames.pack, i - 1)));
  fill(frames.number, (i) => from.varint() + (first(i) ? 0 : at(frames.number, i - 1) + 1));
  // Where a frame begins is counted from the end of the one before, and its length comes in the next column.
  const gaps = new Uint32Array(count);
  fill(gaps, () => from.varint());
  fill(frames.stored, () => from.varint());
  fill(
    frames.offset,
    (i) => at(gaps, i) + (first(i) ? 0 : at(frames.offset, i - 1) + at(frames.stored, i - 1)),
  );
  for (let i = 0; i < count; i++) {
    const byte = from.byte();
    if (byte >= FRAME_CHUNKS * 2) throw from.error('has a frame of a kind that is not known');
    frames.chunks[i] = (byte % FRAME_CHUNKS) + 1;
    frames.codec[i] = byte >= FRAME_CHUNKS ? 1 : 0;
    const pack = packs[at(frames.pack, i)];
    if (!pack) throw from.error('has a frame in a pack it does not name');
    const stored = at(frames.stored, i);
    if (
      stored === 0 ||
      stored > mostStored(at(frames.chunks, i)) ||
      at(frames.offset, i) + stored > pack.bytes
    )
      throw from.error(`has a frame that is not within its pack`);
  }
  frames.checks.set(from.raw(count * FRAME_CHECK));
  return frames;
}

function writeImage(to: ByteWriter, image: ImageLayout): void {
  if (!isImageName(image.name)) throw damaged(`"${image.name.slice(0, 80)}" is not a name for an image`);
  to.text(image.name);
  to.varint(image.bytes);
  to.varint(image.runs);
  for (let i = 0; i < image.runs; i++) to.varint(at(image.chunks, i) * 2 + (image.frame[i] === HOLE ? 0 : 1));
  let before = 0;
  for (let i = 0; i < image.runs; i++) {
    const frame = at(image.frame, i);
    if (frame === HOLE) continue;
    to.zigzag(frame - before);
    before = frame;
  }
  for (let i = 0; i < image.runs; i++) if (image.frame[i] !== HOLE) to.byte(at(image.slot, i));
}

function readImage(from: ByteReader, frames: FrameColumns, mostRuns: number): ImageLayout {
  const name = from.text(64);
  if (!isImageName(name)) throw from.error('has an image with a name that cannot be one');
  const bytes = from.varint();
  if (bytes > LARGEST_IMAGE) throw from.error(`has an image of ${bytes} bytes`);
  const runs = from.count(1, mostRuns, 'runs');
  const image = {
    name,
    bytes,
    runs,
    chunks: new Uint32Array(runs),
    frame: new Uint32Array(runs).fill(HOLE),
    slot: new Uint8Array(runs),
  };
  const wanted = chunkCount(bytes);
  let sum = 0;
  for (let i = 0; i < runs; i++) {
    const value = from.varint();
    const chunks = Math.floor(value / 2);
    sum += chunks;
    if (chunks === 0 || sum > wanted) throw from.error(`has runs that do not fit the size of ${name}`);
    image.chunks[i] = chunks;
    if (value % 2 === 1) image.frame[i] = 0;
    else if (i > 0 && image.frame[i - 1] === HOLE) throw from.error(`has a hole after a hole in ${name}`);
  }
  if (sum !== wanted) throw from.error(`has runs that do not fit the size of ${name}`);
  let frame = 0;
  for (let i = 0; i < runs; i++) {
    if (image.frame[i] === HOLE) continue;
    frame += from.zigzag();
    if (frame < 0 || frame >= frames.count)
      throw from.error(`has a run of ${name} in a frame it does not name`);
    image.frame[i] = frame;
  }
  for (let i = 0; i < runs; i++) {
    if (image.frame[i] === HOLE) continue;
    const slot = from.byte();
    if (slot + at(image.chunks, i) > at(frames.chunks, at(image.frame, i)))
      throw from.error(`has a run of ${name} that goes beyond its frame`);
    image.slot[i] = slot;
  }
  return image;
}
