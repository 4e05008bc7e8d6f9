import { diskContent } from '../../image-magic.ts';
import { damaged, unreadable } from '../refusals.ts';

/**
 * What ext4's superblock says (https://docs.kernel.org/filesystems/ext4/globals.html), as far as reading needs it. Every number
 * comes from the guest and is checked before it is used to count, divide or ask for memory.
 */
export interface Superblock {
  readonly blockBytes: number;
  readonly blocks: number;
  readonly firstDataBlock: number;
  readonly blocksPerGroup: number;
  readonly inodes: number;
  readonly inodesPerGroup: number;
  readonly inodeBytes: number;
  readonly descriptorBytes: number;
  readonly wide: boolean;
  /** The block that holds the superblock; with clusters the data may begin before it. */
  readonly ownBlock: number;
  /** The first group of descriptors that lies among its own groups (meta_bg); Infinity without that feature. */
  readonly firstMetaGroup: number;
  /** Whether a group begins with a copy of the superblock. */
  readonly hasCopy: (group: number) => boolean;
  /** 0: none. */
  readonly journalInode: number;
  readonly fastCommits: boolean;
}

/** How many bytes from the start of the disk are needed to read it, or to name what else lies there. */
export const SUPERBLOCK_END = 2048;
const AT = 1024;

const COMPAT = { fastCommit: 0x400, sparseSuper2: 0x200 };
const RO_COMPAT = { sparseSuper: 0x1 };
const INCOMPAT = { metaGroups: 0x10, wide: 0x80 };
/** Each has its own way to say no, or is read as it is. */
const READABLE = new Map<number, string>([
  [0x2, 'filetype'],
  [0x4, 'recover'],
  [0x10, 'meta_bg'],
  [0x40, 'extents'],
  [0x80, '64bit'],
  [0x100, 'mmp'],
  [0x200, 'flex_bg'],
  [0x400, 'ea_inode'],
  [0x1000, 'dirdata'],
  [0x2000, 'metadata_csum_seed'],
  [0x4000, 'large_dir'],
  [0x8000, 'inline_data'],
  [0x10000, 'encrypt'],
  [0x20000, 'casefold'],
]);

/** Reads the superblock out of the disk's first bytes. Throws Failure `invalid_request` for anything but a whole ext4. */
export function parseSuperblock(start: Buffer, diskBytes: number): Superblock {
  const content = diskContent(start);
  if (content.kind === 'partitions')
    throw unreadable('it has a partition table, and only a disk that is one ext4 file system can be read');
  if (content.kind === 'other') throw unreadable(`it holds ${content.name}, and only ext4 can be read`);
  const u16 = (at: number): number => start.readUInt16LE(AT + at);
  const u32 = (at: number): number => start.readUInt32LE(AT + at);

  const incompat = u32(0x60);
  for (let bit = 1; bit <= 0x80000000; bit *= 2) {
    if (incompat & bit && !READABLE.has(bit))
      throw unreadable(`its ext4 uses a feature Hatch cannot read (incompat 0x${bit.toString(16)})`);
  }
  const log = u32(0x18);
  if (log > 6) throw damaged('its blocks have no possible size');
  const blockBytes = 1024 * 2 ** log;
  const wide = (incompat & INCOMPAT.wide) !== 0;
  const blocks = u32(0x4) + (wide ? u32(0x150) * 2 ** 32 : 0);
  if (blocks * blockBytes > diskBytes) throw damaged('it is larger than its disk');
  const dynamic = u32(0x4c) > 0;
  const inodeBytes = dynamic ? u16(0x58) : 128;
  if (inodeBytes < 128 || inodeBytes > blockBytes || !isPowerOfTwo(inodeBytes))
    throw damaged('its inodes have no possible size');
  const descriptorBytes = wide ? u16(0xfe) : 32;
  if (descriptorBytes < (wide ? 64 : 32) || descriptorBytes > blockBytes || !isPowerOfTwo(descriptorBytes))
    throw damaged('its group descriptors have no possible size');
  const [blocksPerGroup, inodesPerGroup, firstDataBlock] = [u32(0x20), u32(0x28), u32(0x14)];
  if (blocksPerGroup === 0 || inodesPerGroup === 0 || firstDataBlock > 1 || u32(0) === 0)
    throw damaged('its groups have no possible size');

  const [compat, roCompat] = [u32(0x5c), u32(0x64)];
  const copies =
    compat & COMPAT.sparseSuper2
      ? (group: number) => group === 0 || group === u32(0x24c) || group === u32(0x250)
      : roCompat & RO_COMPAT.sparseSuper
        ? (group: number) => group < 2 || [3, 5, 7].some((base) => isPowerOf(base, group))
        : () => true;
  return {
    blockBytes,
    blocks,
    firstDataBlock,
    blocksPerGroup,
    inodes: u32(0),
    inodesPerGroup,
    inodeBytes,
    descriptorBytes,
    wide,
    ownBlock: blockBytes === 1024 ? 1 : 0,
    firstMetaGroup: incompat & INCOMPAT.metaGroups ? u32(0x104) : Infinity,
    hasCopy: copies,
    journalInode: u32(0xe0),
    fastCommits: (compat & COMPAT.fastCommit) !== 0,
  };
}

function isPowerOfTwo(value: number): boolean {
  return (value & (value - 1)) === 0;
}

function isPowerOf(base: number, value: number): boolean {
  let power = base;
  while (power < value) power *= base;
  return power === value;
}
