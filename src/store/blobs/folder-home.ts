import { createHash, randomBytes } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { lstat, open, readdir, rename, rm, stat, type FileHandle } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { isErrno } from '../../base/errno.ts';
import { abortReason } from '../../base/clock.ts';
import { makeFolder } from '../../host/files.ts';
import { BlobError, damaged, fromErrno, isBlobError } from './blob-error.ts';
import { checkBlobName, checkRange, type BlobHome, type BlobInfo, type BlobSource } from './home.ts';

/** Where blobs lie until they are whole; no blob's name begins with a dot. */
const INCOMING = '.incoming';
/** What a killed writer left there is removed after a day: nobody takes so long for one blob. */
const STALE_MS = 24 * 3600 * 1000;
const PIECE = 1024 * 1024;

/**
 * Opens a folder as a home for blobs, making it when it is not there. A blob is written beside, flushed, renamed into its
 * place, and its folder flushed; what was left half by a killed process is never seen, and removed at the next start.
 */
export async function openFolderHome(root: string, now: number = Date.now()): Promise<BlobHome> {
  const incoming = join(root, INCOMING);
  try {
    await makeFolder(incoming);
    for (const name of await readdir(incoming)) {
      const path = join(incoming, name);
      const there = await lstat(path).catch(() => undefined);
      if (there && there.mtimeMs < now - STALE_MS) await rm(path, { force: true });
    }
  } catch (error) {
    throw fromErrno(error, 'the snapshot folder cannot be used');
  }
  return new FolderHome(root, incoming);
}

class FolderHome implements BlobHome {
  readonly #root: string;
  readonly #incoming: string;

  constructor(root: string, incoming: string) {
    this.#root = root;
    this.#incoming = incoming;
  }

  async put(
    name: string,
    source: BlobSource,
    { sha256, signal }: { readonly sha256: string; readonly signal?: AbortSignal },
  ): Promise<void> {
    const path = this.#path(name, signal);
    const beside = join(this.#incoming, randomBytes(12).toString('hex'));
    try {
      const file = await open(beside, 'wx', 0o600);
      try {
        const found = await copyInto(file, source, signal);
        if (found !== sha256)
          throw damaged(`${name} was not kept: its bytes are not those of its checksum (${found})`);
        await file.sync();
      } finally {
        await file.close();
      }
      const made = await this.#makeFolders(dirname(path));
      await rename(beside, path);
      for (const folder of made) await syncFolder(folder);
    } catch (error) {
      await rm(beside, { force: true });
      throw this.#explain(error, `${name} could not be kept`, signal);
    }
  }

  async get(
    name: string,
    { maxBytes, signal }: { readonly maxBytes: number; readonly signal?: AbortSignal },
  ): Promise<Buffer> {
    return this.#reading(name, signal, async (file) => {
      const { size } = await file.stat();
      if (size > maxBytes)
        throw new BlobError('refused', `${name} has ${size} bytes, and at most ${maxBytes} were wanted`);
      return readExactly(file, name, 0, size);
    });
  }

  async getRange(name: string, offset: number, length: number, signal?: AbortSignal): Promise<Buffer> {
    checkRange(name, offset, length);
    return this.#reading(name, signal, (file) => readExactly(file, name, offset, length));
  }

  async head(name: string, signal?: AbortSignal): Promise<BlobInfo | undefined> {
    const path = this.#path(name, signal);
    try {
      const there = await stat(path);
      return there.isFile() ? { name, bytes: there.size } : undefined;
    } catch (error) {
      const failure = this.#explain(error, `${name} could not be looked at`, signal);
      if (isBlobError(failure, 'missing')) return undefined;
      throw failure;
    }
  }

  async *list(prefix: string, signal?: AbortSignal): AsyncGenerator<BlobInfo> {
    const folder = prefix.slice(0, prefix.lastIndexOf('/') + 1);
    if (folder) checkBlobName(folder.slice(0, -1));
    yield* this.#walk(folder, prefix, signal);
  }

  async remove(name: string, signal?: AbortSignal): Promise<void> {
    const path = this.#path(name, signal);
    try {
      await rm(path);
      await syncFolder(dirname(path));
    } catch (error) {
      const failure = this.#explain(error, `${name} could not be removed`, signal);
      if (!isBlobError(failure, 'missing')) throw failure;
    }
  }

  /** All below `folder` ('' or with a slash at its end) that begins with `prefix`, in order of whole names. */
  async *#walk(folder: string, prefix: string, signal?: AbortSignal): AsyncGenerator<BlobInfo> {
    signal?.throwIfAborted();
    let entries;
    try {
      entries = await readdir(join(this.#root, folder), { withFileTypes: true });
    } catch (error) {
      if (isErrno(error, 'ENOENT') || isErrno(error, 'ENOTDIR')) return;
      throw fromErrno(error, `what begins with "${prefix}" could not be listed`);
    }
    const names = entries
      .filter((entry) => !entry.name.startsWith('.'))
      .map((entry) => folder + entry.name + (entry.isDirectory() ? '/' : ''))
      .filter((name) => name.startsWith(prefix) || prefix.startsWith(name))
      .sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)));
    for (const name of names) {
      if (name.endsWith('/')) {
        yield* this.#walk(name, prefix, signal);
        continue;
      }
      // Gone since the folder was read: it is not there.
      const info = name.startsWith(prefix) ? await this.head(name, signal) : undefined;
      if (info) yield info;
    }
  }

  async #reading(
    name: string,
    signal: AbortSignal | undefined,
    read: (file: FileHandle) => Promise<Buffer>,
  ): Promise<Buffer> {
    const path = this.#path(name, signal);
    try {
      const file = await open(path, 'r');
      try {
        return await read(file);
      } finally {
        await file.close();
      }
    } catch (error) {
      throw this.#explain(error, `${name} could not be read`, signal);
    }
  }

  /** Makes a folder and those above it; gives back those whose entries must be flushed. */
  async #makeFolders(folder: string): Promise<string[]> {
    const toSync = [folder];
    try {
      await stat(folder);
    } catch (error) {
      if (!isErrno(error, 'ENOENT')) throw error;
      await makeFolder(folder);
      for (let above = folder; above !== this.#root;) toSync.push((above = dirname(above)));
    }
    return toSync;
  }

  #path(name: string, signal?: AbortSignal): string {
    checkBlobName(name);
    if (signal?.aborted) throw abortReason(signal);
    return join(this.#root, name);
  }

  #explain(error: unknown, what: string, signal?: AbortSignal): Error {
    if (signal?.aborted) return abortReason(signal);
    return fromErrno(error, what);
  }
}

/** Copies bytes or another file's into a file, and gives back their SHA-256. */
async function copyInto(file: FileHandle, source: BlobSource, signal?: AbortSignal): Promise<string> {
  const hash = createHash('sha256');
  const pieces =
    'bytes' in source
      ? [source.bytes]
      : createReadStream(source.file, { highWaterMark: PIECE, ...(signal && { signal }) });
  for await (const piece of pieces as AsyncIterable<Buffer>) {
    signal?.throwIfAborted();
    hash.update(piece);
    await writeAll(file, piece);
  }
  return hash.digest('hex');
}

async function writeAll(file: FileHandle, bytes: Uint8Array): Promise<void> {
  for (let at = 0; at < bytes.length;) at += (await file.write(bytes, at)).bytesWritten;
}

async function readExactly(file: FileHandle, name: string, offset: number, length: number): Promise<Buffer> {
  const bytes = Buffer.allocUnsafeSlow(length);
  for (let at = 0; at < length;) {
    const { bytesRead } = await file.read(bytes, at, length - at, offset + at);
    if (bytesRead === 0) throw damaged(`${name} ends at ${offset + at}, before ${offset + length}`);
    at += bytesRead;
  }
  return bytes;
}

/** Makes the entries of a folder last (fsync of a directory). */
export async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, 'r');
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}
