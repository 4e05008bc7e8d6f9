import { open, type FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import { isErrno } from '../../base/errno.ts';
import { FILES } from './boot.ts';

/** Firecracker's own output, in the VM's folder. */
export const OUTPUT_FILE = 'vmm.log';

/** What a guest can make Firecracker write is cut when it takes more room than this, file by file. */
const MOST_BYTES = 1024 * 1024;

/** Cuts the log and the output of a running Firecracker to their last half MiB, where they are larger than a MiB. */
export async function cutLogs(folder: string): Promise<void> {
  for (const name of [FILES.log, OUTPUT_FILE]) await cutInPlace(join(folder, name), MOST_BYTES);
}

/**
 * Gives back the room of all but the end of a file that is being written: `limit`/2 bytes stay where they are, and what was before
 * is a hole. Firecracker does not open its log to append but writes on where it stands (src/vmm/src/utils/mod.rs), so what is cut
 * to its beginning would be all hole the next time. What is written in the very moment may be lost. No file is nothing to cut.
 */
export async function cutInPlace(path: string, limit: number): Promise<void> {
  let file: FileHandle;
  try {
    file = await open(path, 'r+');
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return;
    throw error;
  }
  try {
    const { size, blocks } = await file.stat();
    // Its length says nothing of a file with a hole; it has 512 bytes a block, whatever the file system (stat(2)).
    if (blocks * 512 <= limit) return;
    const keep = Math.min(size, Math.floor(limit / 2));
    const at = size - keep;
    const { buffer, bytesRead } = await file.read(Buffer.alloc(keep), 0, keep, at);
    await file.truncate(0);
    await file.write(buffer, 0, bytesRead, at);
  } finally {
    await file.close();
  }
}
