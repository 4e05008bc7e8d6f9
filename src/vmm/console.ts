import { watch } from 'node:fs';
import { appendFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { isErrno } from '../base/errno.ts';
import { systemClock } from '../base/clock.ts';
import { tail } from '../host/files.ts';
import { readFrom, tailFrom } from '../host/follow.ts';
import { CONSOLE_FILE } from './driver.ts';

/**
 * What stands in the console between one machine and the next: what is before was said by one before it. It is in the file and
 * not beside it, since the file is cut at its front while machines run.
 */
const MARK = '--- hatch: a machine starts';
const LAST_WORDS_BYTES = 16 * 1024;
/** A console is cut long before it is this long. */
const MOST_BYTES = 16 * 1024 * 1024;
/** Longer than any word that is listened for. */
const CARRY = 200;

/** Marks in the console that a machine is started in the folder. */
export async function markConsole(folder: string): Promise<void> {
  const path = join(folder, CONSOLE_FILE);
  const before = (await sizeOf(path)) > 0 ? '\r\n' : '';
  const at = new Date(systemClock.now()).toISOString();
  await appendFile(path, `${before}${MARK}, ${at} ---\r\n`, { mode: 0o600 });
}

/** The end (16 KiB) of what the guest has written since the machine was started; empty when the folder is gone. */
export async function consoleSinceLaunch(folder: string): Promise<string> {
  try {
    return sinceMark(await tail(join(folder, CONSOLE_FILE), LAST_WORDS_BYTES));
  } catch {
    // A deletion does not wait for the last words.
    return '';
  }
}

/**
 * Calls `onText` with what the guest has written since the machine was started, and then with each piece it writes (inotify(7)),
 * with the end of the piece before it, so that a word is never torn. When the file is cut meanwhile, what is left is heard again.
 * The file must be there. Gives what ends the watching.
 */
export async function watchConsole(folder: string, onText: (text: string) => void): Promise<() => void> {
  const path = join(folder, CONSOLE_FILE);
  let position = -1;
  let carry = '';
  let ended = false;
  const hear = (text: string): void => {
    if (ended || text === '') return;
    carry = text.slice(-CARRY);
    onText(text);
  };
  const beginAnew = async (): Promise<void> => {
    const { text, offset } = await tailFrom(path, MOST_BYTES);
    [position, carry] = [offset, ''];
    hear(sinceMark(text));
  };
  const read = async (): Promise<void> => {
    for (let more = true; more && !ended;) {
      // A cut between this look and the reading shows in that the reading begins elsewhere.
      const piece = (await sizeOf(path)) < position ? undefined : await readFrom(path, position);
      if (!piece || piece.offset - piece.bytes.length !== position) return beginAnew();
      position = piece.offset;
      more = piece.bytes.length > 0;
      if (more) hear(carry + Buffer.from(piece.bytes).toString('latin1'));
    }
  };
  let reading: Promise<void> = Promise.resolve();
  const watcher = watch(path, { persistent: false }, () => {
    reading = reading.then(read).catch(() => undefined);
  });
  watcher.on('error', () => undefined);
  reading = beginAnew();
  try {
    await reading;
  } catch (error) {
    watcher.close();
    throw error;
  }
  return () => {
    ended = true;
    watcher.close();
  };
}

function sinceMark(text: string): string {
  const at = text.lastIndexOf(MARK);
  if (at === -1) return text;
  const end = text.indexOf('\n', at);
  return end === -1 ? '' : text.slice(end + 1);
}

async function sizeOf(path: string): Promise<number> {
  try {
    return (await stat(path)).size;
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return 0;
    throw error;
  }
}
