import { watch } from 'node:fs';
import { open, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { isErrno, readIfThere, tail, writeFileAtomic } from '../host/files.ts';
import { CONSOLE_FILE } from './driver.ts';

/** Where the console stood when this VMM was started: what is before was said by one before it. */
const OFFSET_FILE = 'console.offset';
const CONSOLE_BYTES = 16 * 1024;

/** Notes where the console stands before a machine is started in the folder. */
export async function markConsole(folder: string): Promise<void> {
  await writeFileAtomic(join(folder, OFFSET_FILE), String(await sizeOf(join(folder, CONSOLE_FILE))));
}

/** The end (16 KiB) of what the guest has written since the machine was started; empty when the folder is gone. */
export async function consoleSinceLaunch(folder: string): Promise<string> {
  const path = join(folder, CONSOLE_FILE);
  try {
    const from = Number((await readIfThere(join(folder, OFFSET_FILE))) ?? 0);
    const size = await sizeOf(path);
    // Shorter than it was at launch: it has been cut since, and all of it is this machine's.
    const mine = from > size ? size : size - from;
    return await tail(path, Math.min(CONSOLE_BYTES, mine));
  } catch {
    // A deletion does not wait for the last words.
    return '';
  }
}

/**
 * Calls `onText` with each piece the guest writes to the console from now on, with the end of the piece before it, so that a
 * word is never torn (inotify(7)). The file must be there. Gives what ends the watching.
 */
export async function watchConsole(folder: string, onText: (text: string) => void): Promise<() => void> {
  const path = join(folder, CONSOLE_FILE);
  let position = await sizeOf(path);
  let carry = '';
  let reading: Promise<void> = Promise.resolve();
  const read = async (): Promise<void> => {
    const size = await sizeOf(path);
    if (size < position) [position, carry] = [0, ''];
    if (size === position) return;
    const file = await open(path, 'r');
    try {
      const buffer = Buffer.alloc(Math.min(size - position, 1024 * 1024));
      const { bytesRead } = await file.read(buffer, 0, buffer.length, position);
      position += bytesRead;
      const text = carry + buffer.subarray(0, bytesRead).toString('latin1');
      carry = text.slice(-200);
      onText(text);
    } finally {
      await file.close();
    }
  };
  const watcher = watch(path, { persistent: false }, () => {
    reading = reading.then(read).catch(() => undefined);
  });
  watcher.on('error', () => undefined);
  return () => watcher.close();
}

async function sizeOf(path: string): Promise<number> {
  try {
    return (await stat(path)).size;
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return 0;
    throw error;
  }
}
