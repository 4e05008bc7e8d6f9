import { damaged, unreadable } from '../refusals.ts';
import { journaled, type Blocks, type Journaled } from './blocks.ts';
import type { Inode } from './inode.ts';
import { runsOf } from './runs.ts';

/**
 * ext4's journal (https://docs.kernel.org/filesystems/ext4/journal.html): what a running guest has made durable, by fsync too, may
 * be only there. Replaying it would write to the disk; here it is only worked out which block's newest content lies where.
 */

const MAGIC = 0xc03b3998;
const TYPE = { descriptor: 1, commit: 2, superblock1: 3, superblock2: 4, revoke: 5 };
const INCOMPAT = { revoke: 0x1, wide: 0x2, asyncCommit: 0x4, sums2: 0x8, sums3: 0x10, fastCommit: 0x20 };
const READABLE = 0x3f;
const TAG = { escaped: 0x1, sameUuid: 0x2, last: 0x8 };
/** 4 GiB in blocks of 4 KiB; mke2fs makes at most 1 GiB of itself. */
const MOST_BLOCKS = 1024 * 1024;
/** In one transaction; a guest that fills its journal with them is not one that Linux runs. */
const MOST_REVOKED = 4 * 1024 * 1024;

interface Journal {
  readonly wide: boolean;
  readonly sums2: boolean;
  readonly sums3: boolean;
  /** Of the blocks of the journal: the first and the one after the last that hold what happened. */
  readonly first: number;
  readonly end: number;
}

/** Which blocks have a newer content in the journal, and where. Empty when it was replayed or has nothing. */
export async function readJournal(blocks: Blocks, inode: Inode): Promise<Journaled> {
  const places = await placesOf(blocks, inode);
  const read = async (index: number): Promise<Buffer> => blocks.block(place(places, index));
  const start = await read(0);
  const type = start.readUInt32BE(4);
  if (start.readUInt32BE(0) !== MAGIC || (type !== TYPE.superblock1 && type !== TYPE.superblock2))
    throw damaged('its journal is none');
  const at = start.readUInt32BE(0x1c);
  // All of it is on the disk proper.
  if (at === 0) return new Map();
  const journal = parseSuperblock(start, type, { blockBytes: blocks.blockBytes, places });
  return collect(journal, { at, sequence: start.readUInt32BE(0x18) }, { read, places });
}

async function placesOf(blocks: Blocks, inode: Inode): Promise<Float64Array> {
  const count = Math.floor(inode.sizeBytes / blocks.blockBytes);
  if (count === 0 || count > MOST_BLOCKS) throw damaged('its journal has no possible size');
  const places = new Float64Array(count);
  for await (const run of runsOf(blocks, inode)) {
    for (let i = 0; i < run.count && run.at + i < count; i++) places[run.at + i] = run.block + i;
  }
  return places;
}

function place(places: Float64Array, index: number): number {
  const block = places[index];
  if (block === undefined || block === 0) throw damaged('its journal has a hole');
  return block;
}

function parseSuperblock(
  start: Buffer,
  type: number,
  { blockBytes, places }: { readonly blockBytes: number; readonly places: Float64Array },
): Journal {
  const incompat = type === TYPE.superblock2 ? start.readUInt32BE(0x28) : 0;
  if (incompat & ~READABLE) throw unreadable('its journal uses a feature Hatch cannot read');
  const fast = incompat & INCOMPAT.fastCommit ? start.readUInt32BE(0x54) || 256 : 0;
  const [first, end] = [start.readUInt32BE(0x14), start.readUInt32BE(0x10) - fast];
  if (start.readUInt32BE(0xc) !== blockBytes || first === 0 || end <= first || end > places.length)
    throw damaged('its journal has no possible size');
  return {
    wide: (incompat & INCOMPAT.wide) !== 0,
    sums2: (incompat & INCOMPAT.sums2) !== 0,
    sums3: (incompat & INCOMPAT.sums3) !== 0,
    first,
    end,
  };
}

/**
 * Goes through the transactions as recovery does, as far as they were committed. A block that a transaction revokes is not
 * taken from it or an earlier one: it has become something that is not journaled.
 */
async function collect(
  journal: Journal,
  begin: { readonly at: number; readonly sequence: number },
  { read, places }: { readonly read: (index: number) => Promise<Buffer>; readonly places: Float64Array },
): Promise<Journaled> {
  if (begin.at < journal.first || begin.at >= journal.end) throw damaged('its journal begins outside itself');
  const newest = new Map<number, number>();
  let transaction: { tags: [number, number][]; revoked: number[] } = { tags: [], revoked: [] };
  let { at, sequence } = begin;
  let left = journal.end - journal.first;
  const onward = (): void => {
    left--;
    at = at + 1 < journal.end ? at + 1 : journal.first;
  };
  while (left > 0) {
    const block = await read(at);
    if (block.readUInt32BE(0) !== MAGIC || block.readUInt32BE(8) !== sequence) break;
    onward();
    const type = block.readUInt32BE(4);
    if (type === TYPE.descriptor) {
      for (const { number, escaped } of tagsOf(journal, block)) {
        if (left <= 0) return newest;
        transaction.tags.push([number, journaled(place(places, at), escaped)]);
        onward();
      }
    } else if (type === TYPE.revoke) {
      transaction.revoked.push(...revokedIn(journal, block));
      if (transaction.revoked.length > MOST_REVOKED) throw damaged('its journal revokes more than it can');
    } else if (type === TYPE.commit) {
      for (const [number, where] of transaction.tags) newest.set(number, where);
      for (const number of transaction.revoked) newest.delete(number);
      transaction = { tags: [], revoked: [] };
      sequence = (sequence + 1) >>> 0;
    } else {
      break;
    }
  }
  return newest;
}

function tagsOf(
  { wide, sums2, sums3 }: Journal,
  block: Buffer,
): readonly { readonly number: number; readonly escaped: boolean }[] {
  const bytes = sums3 ? 16 : 8 + (wide ? 4 : 0) + (sums2 ? 2 : 0);
  const end = block.length - (sums2 || sums3 ? 4 : 0);
  const tags = [];
  for (let at = 12; at + bytes <= end;) {
    const flags = sums3 ? block.readUInt32BE(at + 4) : block.readUInt16BE(at + 6);
    const high = wide ? block.readUInt32BE(at + 8) : 0;
    tags.push({ number: block.readUInt32BE(at) + high * 2 ** 32, escaped: (flags & TAG.escaped) !== 0 });
    at += bytes + (flags & TAG.sameUuid ? 0 : 16);
    if (flags & TAG.last) break;
  }
  return tags;
}

function revokedIn({ wide }: Journal, block: Buffer): readonly number[] {
  const end = block.readUInt32BE(12);
  if (end < 16 || end > block.length) throw damaged('its journal revokes more than it can');
  const numbers = [];
  for (let at = 16; at + (wide ? 8 : 4) <= end; at += wide ? 8 : 4) {
    numbers.push(
      wide ? block.readUInt32BE(at) * 2 ** 32 + block.readUInt32BE(at + 4) : block.readUInt32BE(at),
    );
  }
  return numbers;
}
