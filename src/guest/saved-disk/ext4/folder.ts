import { damaged } from '../refusals.ts';
import type { Blocks } from './blocks.ts';
import { inlineContent, type Inode } from './inode.ts';
import { runsOf } from './runs.ts';

/** What a folder says of a file in it. */
export interface Named {
  /** A character for each byte: names on Linux are bytes, and so they compare and look up as such. */
  readonly name: string;
  readonly inode: number;
  /** Where in the folder it stands: larger than that of what stands before it, never 0. */
  readonly position: number;
}

/** Where the entries begin in a folder that lies in its inode: after the number of the folder it is in. */
const INLINE_START = 4;
const INLINE_SPLIT = 60;

/**
 * What a folder has, as it stands there (https://docs.kernel.org/filesystems/ext4/dynamic.html#directory-entries), from after
 * `position` on; without `.` and `..`. An index over it (htree) hides in what reads as unused entries, so there is no need to
 * know of it.
 */
export async function* namedIn(blocks: Blocks, inode: Inode, position = 0): AsyncGenerator<Named> {
  if (inode.storage === 'inline') {
    const content = inlineContent(inode);
    const entries = [
      ...entriesOf(content.subarray(INLINE_START, INLINE_SPLIT), INLINE_START),
      ...entriesOf(content.subarray(INLINE_SPLIT), INLINE_SPLIT),
    ];
    yield* entries.filter((entry) => entry.position > position);
    return;
  }
  const from = Math.floor(position / blocks.blockBytes);
  for await (const run of runsOf(blocks, inode, from)) {
    for (let i = 0; i < run.count; i++) {
      const block = await blocks.block(run.block + i);
      for (const entry of entriesOf(block, (run.at + i) * blocks.blockBytes)) {
        if (entry.position > position) yield entry;
      }
    }
  }
}

function* entriesOf(block: Buffer, start: number): Generator<Named> {
  for (let at = 0; at + 8 <= block.length;) {
    const inode = block.readUInt32LE(at);
    const length = recordLength(block.readUInt16LE(at + 4), block.length);
    const nameLength = block.readUInt8(at + 6);
    if (length < 8 || length % 4 !== 0 || at + length > block.length || 8 + nameLength > length)
      throw damaged('a folder has an entry that cannot be');
    if (inode !== 0) {
      const name = block.toString('latin1', at + 8, at + 8 + nameLength);
      // The kernel refuses these too; who unpacks what we list must not be led elsewhere by them.
      if (name === '' || name.includes('/') || name.includes('\0'))
        throw damaged('a folder has a name that cannot be');
      // The end of an entry is never 0, and grows from one to the next.
      if (name !== '.' && name !== '..') yield { name, inode, position: start + at + length };
    }
    at += length;
  }
}

/** In blocks of 64 KiB the length of a record does not fit into its field as it is. */
function recordLength(field: number, blockBytes: number): number {
  if (blockBytes < 65_536) return field;
  return field === 65_535 || field === 0 ? blockBytes : (field & 65_532) | ((field & 3) << 16);
}
