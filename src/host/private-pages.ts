import { open, readFile, type FileHandle } from 'node:fs/promises';

const PAGE_BYTES = 4096;
/** Bytes of /proc/PID/pagemap for one page. */
const ENTRY_BYTES = 8;
const PAGES_AT_ONCE = 65_536;
/** Pages between two of the process's own that are copied with them: one long read is less work than two short ones. */
const GAP_PAGES = 16;
const MOST_BYTES = 2 ** 20;
const COPIES_AT_ONCE = 4;

/** Part of a process's memory: from an address on, so many bytes. */
export interface MappedRange {
  readonly address: number;
  readonly length: number;
}

/** A map of a file, from its first byte on. */
export interface FileMap extends MappedRange {
  /** Absolute path of the file, as it is called now. */
  readonly file: string;
}

/** The one private (copy-on-write) map of a file that has this length, in bytes; undefined when there is none or more than one. */
export async function privateMapOf(pid: number, length: number): Promise<FileMap | undefined> {
  const found = (await readFile(`/proc/${pid}/maps`, 'utf8')).split('\n').flatMap((line) => {
    // "7fc5fbfff000-7fc61bfff000 rw-p 00000000 fe:00 10027040   /path": address, flags, offset, device, inode, name (proc(5)).
    const [, from, to, file] = /^([0-9a-f]+)-([0-9a-f]+) ..-p 0+ \S+ \d+ +(\/.*)$/.exec(line) ?? [];
    if (from === undefined || to === undefined || file === undefined || file.endsWith(' (deleted)'))
      return [];
    const address = Number.parseInt(from, 16);
    return Number.parseInt(to, 16) - address === length ? [{ address, length, file }] : [];
  });
  return found.length === 1 ? found[0] : undefined;
}

/**
 * Copies what a process has written to a private map of a file over a copy of that file, at the same offsets: with it that is what the
 * process sees. The process must stand still meanwhile. Gives how many bytes were copied. Throws the system's error, `EACCES` or `EPERM`
 * where this process may not look into the other's memory (CAP_SYS_PTRACE; ptrace(2), "Ptrace access mode checking").
 */
export async function copyPrivatePages(
  pid: number,
  { address, length }: MappedRange,
  path: string,
): Promise<number> {
  await using pagemap = await open(`/proc/${pid}/pagemap`, 'r');
  await using memory = await open(`/proc/${pid}/mem`, 'r');
  await using file = await open(path, 'r+');
  let copied = 0;
  const runs = runsOf(pagemap, address, length);
  const copier = async (): Promise<void> => {
    const buffer = Buffer.allocUnsafe(MOST_BYTES);
    for await (const { offset, bytes } of runs) {
      await readWhole(memory, buffer, bytes, address + offset);
      await file.write(buffer, 0, bytes, offset);
      copied += bytes;
    }
  };
  await Promise.all(Array.from({ length: COPIES_AT_ONCE }, copier));
  return copied;
}

/** Runs of pages that are the process's own, of at most MOST_BYTES, by their offset in the map. Several may draw from it at once. */
async function* runsOf(
  pagemap: FileHandle,
  address: number,
  length: number,
): AsyncGenerator<{ readonly offset: number; readonly bytes: number }, void, void> {
  const entries = Buffer.alloc(PAGES_AT_ONCE * ENTRY_BYTES);
  const pages = length / PAGE_BYTES;
  for (let first = 0; first < pages; first += PAGES_AT_ONCE) {
    const count = Math.min(PAGES_AT_ONCE, pages - first);
    await readWhole(pagemap, entries, count * ENTRY_BYTES, (address / PAGE_BYTES + first) * ENTRY_BYTES);
    let from = -1;
    let end = -1;
    const run = (): { offset: number; bytes: number } => ({
      offset: (first + from) * PAGE_BYTES,
      bytes: (end - from) * PAGE_BYTES,
    });
    for (let page = 0; page < count; page++) {
      if (!isOwn(entries, page)) continue;
      if (from >= 0 && (page - end > GAP_PAGES || (page + 1 - from) * PAGE_BYTES > MOST_BYTES)) {
        yield run();
        from = -1;
      }
      if (from < 0) from = page;
      end = page + 1;
    }
    if (from >= 0) yield run();
  }
}

/**
 * Whether a page is no longer the file's: present (bit 63) or swapped out (62), and not of a file (61)
 * (https://docs.kernel.org/admin-guide/mm/pagemap.html).
 */
function isOwn(entries: Buffer, page: number): boolean {
  const high = entries[page * ENTRY_BYTES + 7] ?? 0;
  return (high & 0xc0) !== 0 && (high & 0x20) === 0;
}

async function readWhole(from: FileHandle, buffer: Buffer, bytes: number, position: number): Promise<void> {
  for (let got = 0; got < bytes;) {
    const { bytesRead } = await from.read(buffer, got, bytes - got, position + got);
    if (bytesRead === 0) throw new Error(`the memory of a process ends at ${position + got}`);
    got += bytesRead;
  }
}
