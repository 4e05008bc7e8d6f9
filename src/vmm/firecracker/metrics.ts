import { open } from 'node:fs/promises';
import { isErrno } from '../../host/files.ts';

/** What a guest's disks have carried since the process was started, in bytes. */
export interface BlockBytes {
  readonly read: number;
  readonly written: number;
}

/**
 * Adds up Firecracker's metrics file: a JSON object a line, every minute and at each flush, whose values count from the line
 * before (docs/metrics.md). What is read is cut away, so that the file stays small; `before` is what was added up so far.
 */
export async function takeMetrics(path: string, before: BlockBytes): Promise<BlockBytes> {
  let file;
  try {
    file = await open(path, 'r+');
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return before;
    throw error;
  }
  try {
    const text = await file.readFile('latin1');
    const end = text.lastIndexOf('\n') + 1;
    if (end === 0) return before;
    if (end === text.length) await file.truncate(0);
    let { read, written } = before;
    for (const line of text.slice(0, end).split('\n')) {
      // A writer that does not append leaves a hole where the file was cut.
      const { block } = parse(line.replaceAll('\0', ''));
      read += numberIn(block, 'read_bytes');
      written += numberIn(block, 'write_bytes');
    }
    return { read, written };
  } finally {
    await file.close();
  }
}

function parse(line: string): Readonly<Record<string, unknown>> {
  try {
    return JSON.parse(line) as Readonly<Record<string, unknown>>;
  } catch {
    return {};
  }
}

function numberIn(value: unknown, name: string): number {
  const found = typeof value === 'object' && value !== null ? (value as Record<string, unknown>)[name] : 0;
  return typeof found === 'number' ? found : 0;
}
