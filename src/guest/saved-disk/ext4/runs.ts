import { damaged } from '../refusals.ts';
import type { Blocks } from './blocks.ts';
import type { Inode } from './inode.ts';

/** Blocks of a file that lie in a row on the disk. What is in no run is a hole. */
export interface Run {
  /** The first one's number in the file. */
  readonly at: number;
  /** And on the disk. */
  readonly block: number;
  readonly count: number;
}

const BLOCK_FIELD = 0x28;
const EXTENT_MAGIC = 0xf30a;
/** As deep as ext4 ever goes. */
const DEEPEST = 5;
const UNWRITTEN = 32_768;

/** Where a file's content lies, in the file's order, from the block numbered `from` in the file on, up to its size. */
export async function* runsOf(blocks: Blocks, inode: Inode, from = 0): AsyncGenerator<Run> {
  const end = Math.ceil(inode.sizeBytes / blocks.blockBytes);
  const field = inode.raw.subarray(BLOCK_FIELD, BLOCK_FIELD + 60);
  const runs =
    inode.storage === 'extents'
      ? extents(blocks, field, { from, end }, undefined)
      : pointers(blocks, field, { from, end });
  // What does not go on and on cannot be gone through for ever.
  let next = 0;
  for await (const run of runs) {
    if (run.at < next) throw damaged('the pieces of a file lie over each other');
    next = run.at + run.count;
    const first = Math.max(run.at, from);
    const count = Math.min(next, end) - first;
    if (count > 0) yield { at: first, block: run.block + (first - run.at), count };
    if (next >= end) return;
  }
}

interface Wanted {
  readonly from: number;
  readonly end: number;
}

async function* extents(
  blocks: Blocks,
  node: Buffer,
  wanted: Wanted,
  expectedDepth: number | undefined,
): AsyncGenerator<Run> {
  const [magic, entries, most, depth] = [0, 2, 4, 6].map((at) => node.readUInt16LE(at));
  if (magic !== EXTENT_MAGIC || entries === undefined || most === undefined || depth === undefined)
    throw damaged('the map of a file is none');
  if (entries > most || 12 + entries * 12 > node.length) throw damaged('the map of a file is too long');
  // A node that led back to itself would have the wrong depth.
  if (depth > DEEPEST || (expectedDepth !== undefined && depth !== expectedDepth))
    throw damaged('the map of a file has a wrong depth');
  for (let i = 0; i < entries; i++) {
    const at = 12 + i * 12;
    const first = node.readUInt32LE(at);
    if (first >= wanted.end) return;
    if (depth === 0) {
      const length = node.readUInt16LE(at + 4);
      const block = node.readUInt32LE(at + 8) + node.readUInt16LE(at + 6) * 2 ** 32;
      if (length === 0) throw damaged('a piece of a file is empty');
      // Room that was reserved and never written reads as zeros, as a hole does.
      if (length <= UNWRITTEN && first + length > wanted.from) yield { at: first, block, count: length };
      continue;
    }
    const next = i + 1 < entries ? node.readUInt32LE(at + 12) : Infinity;
    if (next <= wanted.from) continue;
    const child = node.readUInt32LE(at + 4) + node.readUInt16LE(at + 8) * 2 ** 32;
    yield* extents(blocks, await blocks.block(child), wanted, depth - 1);
  }
}

/** As ext2 and ext3 have it: twelve blocks, and three trees of one, two and three levels. */
async function* pointers(blocks: Blocks, field: Buffer, wanted: Wanted): AsyncGenerator<Run> {
  const perBlock = blocks.blockBytes / 4;
  let at = 0;
  for (let i = 0; i < 15 && at < wanted.end; i++) {
    const levels = Math.max(0, i - 11);
    yield* pointed(blocks, field.readUInt32LE(i * 4), { at, levels, perBlock }, wanted);
    at += perBlock ** levels;
  }
}

async function* pointed(
  blocks: Blocks,
  block: number,
  { at, levels, perBlock }: { readonly at: number; readonly levels: number; readonly perBlock: number },
  wanted: Wanted,
): AsyncGenerator<Run> {
  if (block === 0 || at >= wanted.end || at + perBlock ** levels <= wanted.from) return;
  if (levels === 0) {
    yield { at, block, count: 1 };
    return;
  }
  const node = await blocks.block(block);
  const each = perBlock ** (levels - 1);
  let run: Run | undefined;
  for (let i = 0; i < perBlock; i++) {
    const child = node.readUInt32LE(i * 4);
    const place = { at: at + i * each, levels: levels - 1, perBlock };
    if (levels > 1) {
      yield* pointed(blocks, child, place, wanted);
    } else if (run && child === run.block + run.count) {
      run = { ...run, count: run.count + 1 };
    } else {
      if (run) yield run;
      run = child === 0 ? undefined : { at: place.at, block: child, count: 1 };
    }
  }
  if (run) yield run;
}
