import type { FileKind } from '../../../model/saved-files.ts';
import { damaged } from '../refusals.ts';

/** An inode (https://docs.kernel.org/filesystems/ext4/dynamic.html#index-nodes), as far as reading needs it. */
export interface Inode {
  readonly number: number;
  readonly kind: FileKind;
  /** The permission bits. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly sizeBytes: number;
  /** Milliseconds since 1970, of the content's last change. */
  readonly modifiedAt: number;
  readonly storage: 'extents' | 'pointers' | 'inline';
  readonly encrypted: boolean;
  /** The inode itself, as it lies on the disk. */
  readonly raw: Buffer;
}

const TYPES: Readonly<Record<number, FileKind>> = { 0x4: 'folder', 0x8: 'file', 0xa: 'link' };
const SPECIAL = [0x1, 0x2, 0x6, 0xc];
const FLAGS = { encrypted: 0x800, extents: 0x80000, inline: 0x10000000 };

/** Reads an inode. Throws Failure for one that is free or cannot be. */
export function parseInode(number: number, raw: Buffer): Inode {
  const mode = raw.readUInt16LE(0);
  const type = mode >> 12;
  const kind = TYPES[type] ?? (SPECIAL.includes(type) ? 'other' : undefined);
  if (kind === undefined) throw damaged('a folder names a file that is none');
  const flags = raw.readUInt32LE(0x20);
  const sizeBytes = raw.readUInt32LE(0x4) + raw.readUInt32LE(0x6c) * 2 ** 32;
  if (!Number.isSafeInteger(sizeBytes)) throw damaged('a file has no possible size');
  return {
    number,
    kind,
    mode: mode & 0o7777,
    uid: raw.readUInt16LE(0x2) + raw.readUInt16LE(0x78) * 0x10000,
    gid: raw.readUInt16LE(0x18) + raw.readUInt16LE(0x7a) * 0x10000,
    sizeBytes: kind === 'other' ? 0 : sizeBytes,
    modifiedAt: modifiedAt(raw),
    storage: flags & FLAGS.inline ? 'inline' : flags & FLAGS.extents ? 'extents' : 'pointers',
    encrypted: (flags & FLAGS.encrypted) !== 0,
    raw,
  };
}

/** Seconds as they were in ext2, two more bits for the years after 2038, and nanoseconds where the inode has room for them. */
function modifiedAt(raw: Buffer): number {
  const seconds = raw.readInt32LE(0x10);
  const roomy = raw.length > 128 && raw.readUInt16LE(0x80) >= 12;
  const extra = roomy ? raw.readUInt32LE(0x88) : 0;
  return (seconds + (extra & 3) * 2 ** 32) * 1000 + Math.floor(Math.min(extra >>> 2, 999_999_999) / 1e6);
}

/** Whether two inodes are the same in all but when they were read last (and the checksums that go with it). */
export function sameInode(a: Inode, b: Inode): boolean {
  if (a.number !== b.number || a.raw.length !== b.raw.length) return false;
  const [one, other] = [timeless(a.raw), timeless(b.raw)];
  return one.equals(other);
}

/** Whether two inodes were changed last at the same times: their contents, and what else is kept of them. */
export function sameTimes(a: Inode, b: Inode): boolean {
  return changeTimes(a.raw).equals(changeTimes(b.raw));
}

function changeTimes(raw: Buffer): Buffer {
  const extra = raw.length > 128 ? raw.subarray(0x84, 0x8c) : Buffer.alloc(8);
  return Buffer.concat([raw.subarray(0xc, 0x14), extra]);
}

function timeless(raw: Buffer): Buffer {
  const copy = Buffer.from(raw);
  const atime = 0x8;
  copy.fill(0, atime, atime + 4);
  const checksumLow = 0x7c;
  copy.fill(0, checksumLow, checksumLow + 2);
  if (raw.length > 128) {
    const [checksumHigh, atimeExtra] = [0x82, 0x8c];
    copy.fill(0, checksumHigh, checksumHigh + 2);
    copy.fill(0, atimeExtra, atimeExtra + 4);
  }
  return copy;
}

const ATTRIBUTES_MAGIC = 0xea020000;
const SYSTEM = 7;

/** The content of a file that lies in its inode: the first 60 bytes, and the attribute `system.data` after them. */
export function inlineContent({ raw, sizeBytes }: Pick<Inode, 'raw' | 'sizeBytes'>): Buffer {
  const content = Buffer.concat([raw.subarray(0x28, 0x28 + 60), inlineRest(raw)]);
  if (sizeBytes > content.length) throw damaged('a file in its inode is larger than that');
  return content.subarray(0, sizeBytes);
}

function inlineRest(raw: Buffer): Buffer {
  if (raw.length <= 128) return Buffer.alloc(0);
  const header = 128 + raw.readUInt16LE(0x80);
  if (header + 8 > raw.length || raw.readUInt32LE(header) !== ATTRIBUTES_MAGIC) return Buffer.alloc(0);
  const first = header + 4;
  for (let at = first; at + 16 <= raw.length && raw.readUInt32LE(at) !== 0;) {
    const nameLength = raw.readUInt8(at);
    const name = raw.toString('latin1', at + 16, at + 16 + nameLength);
    if (raw.readUInt8(at + 1) === SYSTEM && name === 'data') {
      const from = first + raw.readUInt16LE(at + 2);
      const length = raw.readUInt32LE(at + 8);
      if (from + length > raw.length) throw damaged('an attribute lies beyond its inode');
      return raw.subarray(from, from + length);
    }
    at += 16 + Math.ceil(nameLength / 4) * 4;
  }
  return Buffer.alloc(0);
}
