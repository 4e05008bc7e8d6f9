import { open, type FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import { isErrno } from '../../base/errno.ts';
import { readIfThere, remove, writeFileAtomic } from '../../host/files.ts';
import { FILES } from './boot.ts';

/** What a guest's disks have carried since the process was started, in bytes. */
export interface BlockBytes {
  readonly read: number;
  readonly written: number;
}

/** What is added up so far, and where in the metrics file that ends: kept beside it, for the next daemon. */
interface Sums extends BlockBytes {
  readonly offset: number;
  /** Where it ended when what is before was cut away. */
  readonly cutAt: number;
}

const SUMS_FILE = 'fc.counters';
const PIECE_BYTES = 256 * 1024;
/** A line is some kilobytes; what is longer is none of Firecracker's. */
const LONGEST_LINE = 256 * 1024;
/** What has been read is cut away when it is more than this. */
const CUT_BYTES = 1024 * 1024;

/** Forgets what an earlier process in the folder counted. */
export async function forgetMetrics(folder: string): Promise<void> {
  await remove(join(folder, SUMS_FILE));
}

/**
 * Adds up Firecracker's metrics file: a JSON object a line, every minute and at each flush, whose values count from the line
 * before (docs/metrics.md). Firecracker writes on where it stands, whatever becomes of the file (src/vmm/src/utils/mod.rs), so
 * what was read is a hole once it is cut away. One at a time in a folder.
 */
export async function takeMetrics(folder: string): Promise<BlockBytes> {
  const before = await readSums(folder);
  let file: FileHandle;
  try {
    file = await open(join(folder, FILES.metrics), 'r+');
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return before;
    throw error;
  }
  try {
    let sums = before;
    let rest = '';
    for (let at = before.offset; ;) {
      const { buffer, bytesRead } = await file.read(Buffer.alloc(PIECE_BYTES), 0, PIECE_BYTES, at);
      if (bytesRead === 0) break;
      at += bytesRead;
      const lines = (rest + buffer.toString('latin1', 0, bytesRead)).split('\n');
      rest = lines.pop() ?? '';
      if (rest.length > LONGEST_LINE) rest = '';
      sums = lines.reduce(addLine, { ...sums, offset: at - rest.length });
    }
    const cut = sums.offset - sums.cutAt > CUT_BYTES && (await file.stat()).size === sums.offset;
    const known = cut ? { ...sums, cutAt: sums.offset } : sums;
    // First what is known, then the cut: who is killed between the two counts nothing twice.
    const kept = sums.offset === before.offset || (await keepSums(folder, known));
    if (cut && kept) await file.truncate(0);
    return sums;
  } finally {
    await file.close();
  }
}

/** Notes what is added up; false when the disk is full: it is read again, then. */
async function keepSums(folder: string, sums: Sums): Promise<boolean> {
  try {
    await writeFileAtomic(join(folder, SUMS_FILE), JSON.stringify(sums));
    return true;
  } catch (error) {
    if (isErrno(error, 'ENOSPC') || isErrno(error, 'EDQUOT')) return false;
    throw error;
  }
}

async function readSums(folder: string): Promise<Sums> {
  const kept = parse((await readIfThere(join(folder, SUMS_FILE))) ?? '');
  return {
    read: countIn(kept, 'read'),
    written: countIn(kept, 'written'),
    offset: countIn(kept, 'offset'),
    cutAt: countIn(kept, 'cutAt'),
  };
}

function addLine(sums: Sums, line: string): Sums {
  const { block } = parse(line);
  return {
    ...sums,
    read: sums.read + countIn(block, 'read_bytes'),
    written: sums.written + countIn(block, 'write_bytes'),
  };
}

function parse(line: string): Readonly<Record<string, unknown>> {
  try {
    const found: unknown = JSON.parse(line);
    return typeof found === 'object' && found !== null ? (found as Readonly<Record<string, unknown>>) : {};
  } catch {
    return {};
  }
}

/** A count of an object; 0 where there is none, or none that can be. */
function countIn(value: unknown, name: string): number {
  const found = typeof value === 'object' && value !== null ? (value as Record<string, unknown>)[name] : 0;
  return typeof found === 'number' && Number.isSafeInteger(found) && found >= 0 ? found : 0;
}
