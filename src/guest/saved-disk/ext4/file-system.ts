import type { ByteSource } from '../byte-source.ts';
import type { Pace } from '../pace.ts';
import { damaged, unreadable } from '../refusals.ts';
import { Blocks } from './blocks.ts';
import { namedIn, type Named } from './folder.ts';
import { inlineContent, parseInode, type Inode } from './inode.ts';
import { readJournal } from './journal.ts';
import { runsOf } from './runs.ts';
import { parseSuperblock, SUPERBLOCK_END, type Superblock } from './superblock.ts';

const ROOT = 2;
const LONGEST_TARGET = 4096;
/** How much of a file is read at once. */
export const CHUNK_BYTES = 256 * 1024;
/** What diskContent needs to name what is not ext4. */
const NAMING_BYTES = 128 * 1024;

/** Opens the ext4 on a disk, as if its journal had been replayed. Throws Failure `invalid_request` for anything else. */
export async function openExt4(source: ByteSource, pace: Pace): Promise<Ext4> {
  const start = await source.read(0, Math.min(source.sizeBytes, NAMING_BYTES));
  const asItLies = parseSuperblock(start, source.sizeBytes);
  const blocks = new Blocks(source, pace, asItLies);
  if (asItLies.journalInode === 0) return new Ext4(asItLies, blocks);
  const inode = await new Ext4(asItLies, blocks).inode(asItLies.journalInode);
  if (inode.kind !== 'file') throw damaged('its journal is no file');
  const journal = await readJournal(blocks, inode);
  if (journal.size === 0) return new Ext4(asItLies, blocks);
  blocks.replay(journal);
  // The superblock itself may be in the journal: a file system that has just grown.
  const newest = Buffer.alloc(SUPERBLOCK_END);
  for (let at = 0; at < SUPERBLOCK_END; at += blocks.blockBytes)
    (await blocks.block(at / blocks.blockBytes)).copy(newest, at);
  const superblock = parseSuperblock(newest, source.sizeBytes);
  if (superblock.blockBytes !== blocks.blockBytes) throw damaged('the size of its blocks has changed');
  const replayed = new Blocks(source, pace, superblock);
  replayed.replay(journal);
  return new Ext4(superblock, replayed);
}

/** A file system to read. Names and paths are strings of a character for each byte. */
export class Ext4 {
  readonly #superblock: Superblock;
  readonly #blocks: Blocks;

  constructor(superblock: Superblock, blocks: Blocks) {
    this.#superblock = superblock;
    this.#blocks = blocks;
  }

  async root(): Promise<Inode> {
    const inode = await this.inode(ROOT);
    if (inode.kind !== 'folder') throw damaged('its root is no folder');
    return inode;
  }

  async inode(number: number): Promise<Inode> {
    const { inodes, inodesPerGroup, inodeBytes } = this.#superblock;
    if (number < 1 || number > inodes) throw damaged('a folder names a file beyond the last');
    const group = Math.floor((number - 1) / inodesPerGroup);
    const offset = ((number - 1) % inodesPerGroup) * inodeBytes;
    const table = await this.#inodeTable(group);
    const block = await this.#blocks.block(table + Math.floor(offset / this.#blocks.blockBytes));
    const from = offset % this.#blocks.blockBytes;
    return parseInode(number, block.subarray(from, from + inodeBytes));
  }

  /** What a folder has, from after a position on. */
  names(folder: Inode, position = 0): AsyncGenerator<Named> {
    if (folder.encrypted) throw unreadable('this folder is encrypted, and only the guest has the key');
    return namedIn(this.#blocks, folder, position);
  }

  /** Where a link points. */
  async target(link: Inode): Promise<string> {
    if (link.encrypted) throw unreadable('this link is encrypted, and only the guest has the key');
    if (link.sizeBytes > LONGEST_TARGET) throw damaged('a link points at more than a path');
    if (link.storage === 'pointers' && link.sizeBytes < 60)
      return link.raw.toString('latin1', 0x28, 0x28 + link.sizeBytes);
    for await (const chunk of this.content(link)) return chunk.toString('latin1');
    return '';
  }

  /** A file's content in pieces of CHUNK_BYTES, the last one as long as what is left. Each is the reader's own. */
  async *content(file: Inode): AsyncGenerator<Buffer> {
    if (file.encrypted) throw unreadable('this file is encrypted, and only the guest has the key');
    if (file.storage === 'inline') {
      const content = inlineContent(file);
      if (content.length > 0) yield Buffer.from(content);
      return;
    }
    const { blockBytes } = this.#blocks;
    const perChunk = CHUNK_BYTES / blockBytes;
    const runs = runsOf(this.#blocks, file);
    let run = await runs.next();
    for (let offset = 0; offset < file.sizeBytes; offset += CHUNK_BYTES) {
      const chunk = Buffer.alloc(CHUNK_BYTES);
      const first = offset / blockBytes;
      while (!run.done && run.value.at < first + perChunk) {
        const { at, block, count } = run.value;
        const from = Math.max(at, first);
        const until = Math.min(at + count, first + perChunk);
        const into = chunk.subarray((from - first) * blockBytes, (until - first) * blockBytes);
        await this.#blocks.fill(block + (from - at), into);
        if (at + count > until) break;
        run = await runs.next();
      }
      await this.#blocks.pause();
      yield chunk.subarray(0, Math.min(CHUNK_BYTES, file.sizeBytes - offset));
    }
  }

  async #inodeTable(group: number): Promise<number> {
    const { descriptorBytes, wide } = this.#superblock;
    const perBlock = this.#blocks.blockBytes / descriptorBytes;
    const block = await this.#blocks.block(this.#descriptorBlock(Math.floor(group / perBlock), perBlock));
    const at = (group % perBlock) * descriptorBytes;
    return block.readUInt32LE(at + 8) + (wide ? block.readUInt32LE(at + 0x28) * 2 ** 32 : 0);
  }

  /** Descriptors lie behind the superblock, or each block of them at the beginning of the groups it describes (meta_bg). */
  #descriptorBlock(index: number, perBlock: number): number {
    const { firstDataBlock, firstMetaGroup, blocksPerGroup, hasCopy, ownBlock } = this.#superblock;
    if (index < firstMetaGroup) return ownBlock + 1 + index;
    const group = index * perBlock;
    if (group === 0) return ownBlock + 1;
    return firstDataBlock + group * blocksPerGroup + (hasCopy(group) ? 1 : 0);
  }
}
