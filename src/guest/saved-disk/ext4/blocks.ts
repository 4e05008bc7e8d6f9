import type { ByteSource } from '../byte-source.ts';
import type { Pace } from '../pace.ts';
import { damaged } from '../refusals.ts';
import type { Superblock } from './superblock.ts';

/** Where the newest contents of blocks lie that the journal has, as `journaled` says it: there may be a million. */
export type Journaled = ReadonlyMap<number, number>;

/** The block of the journal; `escaped`: its first four bytes were the journal's own magic number, and were taken out of it. */
export function journaled(block: number, escaped: boolean): number {
  return block * 2 + (escaped ? 1 : 0);
}

const PAGE_BYTES = 64 * 1024;
const PAGES = 256;
const JOURNAL_MAGIC = 0xc03b3998;

/**
 * A file system's blocks as they would be once its journal is replayed. Nothing is written anywhere: where the journal has a
 * newer block, that one is read. What was read lately is kept, up to 16 MiB.
 */
export class Blocks {
  readonly blockBytes: number;
  readonly #source: ByteSource;
  readonly #pace: Pace;
  readonly #count: number;
  readonly #pages = new Map<number, Buffer>();
  #journal: Journaled = new Map();

  constructor(source: ByteSource, pace: Pace, of: Pick<Superblock, 'blockBytes' | 'blocks'>) {
    this.#source = source;
    this.#pace = pace;
    this.blockBytes = of.blockBytes;
    this.#count = of.blocks;
  }

  /** From now on, blocks are read as these say. */
  replay(journal: Journaled): void {
    this.#journal = journal;
  }

  /** A block by its number. Not to be written to. */
  async block(number: number): Promise<Buffer> {
    this.#check(number, 1);
    const newer = this.#journal.get(number);
    if (newer === undefined) return this.#bytes(number * this.blockBytes, this.blockBytes);
    const content = await this.#bytes(Math.floor(newer / 2) * this.blockBytes, this.blockBytes);
    return newer % 2 === 1 ? unescape(content) : content;
  }

  /** Reads many blocks in a row past what is kept, into `into`. */
  async fill(number: number, into: Buffer): Promise<void> {
    const count = into.length / this.blockBytes;
    this.#check(number, count);
    await this.#pace.breathe();
    (await this.#source.read(number * this.blockBytes, into.length)).copy(into);
    if (this.#journal.size === 0) return;
    for (let i = 0; i < count; i++) {
      if (this.#journal.has(number + i)) (await this.block(number + i)).copy(into, i * this.blockBytes);
    }
  }

  /** For work that reads nothing: holes are endless too. */
  async pause(): Promise<void> {
    await this.#pace.breathe();
  }

  #check(number: number, count: number): void {
    if (!Number.isSafeInteger(number) || number < 0 || number + count > this.#count)
      throw damaged('it points at a block beyond its end');
  }

  async #bytes(offset: number, length: number): Promise<Buffer> {
    // A block never lies in two pages: both are powers of two.
    const page = Math.floor(offset / PAGE_BYTES);
    const from = offset - page * PAGE_BYTES;
    return (await this.#page(page)).subarray(from, from + length);
  }

  async #page(number: number): Promise<Buffer> {
    await this.#pace.breathe();
    let page = this.#pages.get(number);
    if (page) {
      this.#pages.delete(number);
    } else {
      const offset = number * PAGE_BYTES;
      const end = Math.min(offset + PAGE_BYTES, this.#count * this.blockBytes);
      page = await this.#source.read(offset, end - offset);
      const oldest = this.#pages.keys().next();
      if (this.#pages.size >= PAGES && !oldest.done) this.#pages.delete(oldest.value);
    }
    this.#pages.set(number, page);
    return page;
  }
}

function unescape(content: Buffer): Buffer {
  const whole = Buffer.from(content);
  whole.writeUInt32BE(JOURNAL_MAGIC, 0);
  return whole;
}
