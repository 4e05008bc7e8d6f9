import { randomBytes } from 'node:crypto';
import { createReadStream, rmSync } from 'node:fs';
import { link, lstat, open, rename, rm, stat } from 'node:fs/promises';
import { resolve } from 'node:path';
import { waiting, type Context } from './context.ts';
import type { Io } from './io.ts';
import { formatBytes, UsageError } from './words.ts';

/**
 * A file of this machine as it comes, up to where it ends now, its size where it says one, and its permission bits. Throws a UsageError when it
 * cannot be read.
 */
export async function openFile(
  io: Pick<Io, 'cwd'>,
  file: string,
): Promise<{
  readonly content: AsyncIterable<Uint8Array>;
  readonly bytes: number | undefined;
  readonly mode: number;
}> {
  const path = resolve(io.cwd, file);
  try {
    const there = await stat(path);
    if (there.isDirectory()) throw new UsageError(`${file} is a folder, not a file.`);
    const bytes = there.isFile() && there.size > 0 ? there.size : undefined;
    const content = createReadStream(path, bytes === undefined ? {} : { end: bytes - 1 });
    return { content, bytes, mode: there.mode & 0o777 };
  } catch (error) {
    if (error instanceof UsageError) throw error;
    throw new UsageError(`${file} cannot be read (${codeOf(error)}).`);
  }
}

/** Works with bytes on their way and gives how many there were; on a terminal, how many so far stands there meanwhile. */
export async function moving(
  context: Pick<Context, 'io'>,
  what: string,
  content: AsyncIterable<Uint8Array>,
  total: number | undefined,
  work: (pieces: AsyncIterable<Uint8Array>) => Promise<void>,
): Promise<number> {
  let bytes = 0;
  async function* counted(): AsyncGenerator<Uint8Array> {
    for await (const piece of content) {
      bytes += piece.length;
      yield piece;
    }
  }
  const shown = (): string =>
    total === undefined
      ? `${what}: ${formatBytes(bytes)}`
      : `${what}: ${formatBytes(bytes)} of ${formatBytes(total)}`;
  await waiting(context, shown, work(counted()));
  return bytes;
}

/** Writes a file that is whole or not there, with these permission bits. Throws a UsageError for one that is there, unless it may be replaced. */
export async function writeWhole(
  path: string,
  shown: string,
  pieces: AsyncIterable<Uint8Array>,
  { replace, mode }: { readonly replace: boolean; readonly mode: number },
): Promise<void> {
  // One that breaks off does not bear the name, and one that is to be replaced stays until the new one is whole.
  // Its own name, so that two at once do not write into each other's.
  const beside = `${path}.${randomBytes(4).toString('hex')}.part`;
  const taken = (): UsageError =>
    new UsageError(`${shown} is there already: name another file with -o, or say --force.`);
  let file;
  try {
    if (!replace && (await isThere(path))) throw taken();
    file = await open(beside, 'wx', 0o600);
  } catch (error) {
    if (error instanceof UsageError) throw error;
    throw new UsageError(`${shown} cannot be written (${codeOf(error)}).`);
  }
  const interrupted = (): void => {
    rmSync(beside, { force: true });
    process.exit(130);
  };
  process.once('SIGINT', interrupted);
  try {
    try {
      for await (const piece of pieces) await file.writeFile(piece);
      await file.chmod(mode);
      await file.sync();
    } finally {
      await file.close();
    }
    if (replace) await rename(beside, path);
    else {
      // It may have come since, and link(2) replaces nothing; not every file system has it.
      await link(beside, path).then(
        () => rm(beside),
        (error: unknown) => {
          if (codeOf(error) === 'EEXIST') throw taken();
          return rename(beside, path);
        },
      );
    }
  } catch (error) {
    await rm(beside, { force: true });
    throw error;
  } finally {
    process.off('SIGINT', interrupted);
  }
}

function isThere(path: string): Promise<boolean> {
  return lstat(path).then(
    () => true,
    (error: unknown) => {
      if (codeOf(error) === 'ENOENT') return false;
      throw error;
    },
  );
}

/** The system's word for what went wrong, such as ENOENT. */
export function codeOf(error: unknown): string {
  return error instanceof Error && 'code' in error ? String(error.code) : String(error);
}
