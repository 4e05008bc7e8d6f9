import { abortReason } from '../../base/clock.ts';
import { DeadlineExceeded, withTimeout } from '../../base/deadline.ts';
import { Failure, invalid } from '../../model/failure.ts';
import type { FileChange, FileEntry, FileFacts, FileListing } from '../../model/saved-files.ts';
import { explain } from '../tools.ts';
import type { ByteSource } from './byte-source.ts';
import { contentStream, type FileContent } from './content-stream.ts';
import { changes, type Pair } from './diff.ts';
import { openExt4, type Ext4 } from './ext4/file-system.ts';
import type { Inode } from './ext4/inode.ts';
import { factsOf, nameOf } from './facts.ts';
import { openDisk, type OpenDeps, type DiskToRead } from './open-disk.ts';
import { Pace } from './pace.ts';
import { find, nothingAt, pathBytes, type DiskPath } from './paths.ts';
import { damaged } from './refusals.ts';

/**
 * Looks inside disks that nothing writes to any more, without a guest and without the host's kernel: the guest wrote these file
 * systems and may have written them to do harm, so they are read by code that cannot be led outside a buffer, never mounted, and
 * with bounds on time and memory (about 20 MB a disk). It sees what the guest had made durable, its journal included, and not what
 * was only in its memory.
 *
 * Paths are as a process in the guest would have them; links are followed, within the disk. Everything rejects with Failure:
 * `not_found` and `invalid_request` (`details` name `path`; also for a disk that is no ext4 or is damaged), `timeout`,
 * `unavailable` when a program is missing or too many disks are looked into; or with the signal's reason. Whatever was started
 * has ended then.
 */
export interface SavedDisks {
  /** What is in a folder: up to `limit` entries, from after `after` on, which is the `next` of an earlier listing. */
  listFiles(
    disk: DiskToRead,
    wanted: { readonly path: DiskPath; readonly limit: number; readonly after?: string | undefined },
    signal: AbortSignal,
  ): Promise<FileListing>;

  /**
   * A file's facts and content. The stream reads no faster than it is read from, and holds the disk until it has ended, is
   * destroyed, or the signal aborts: one of these must come.
   */
  readFile(
    disk: DiskToRead,
    path: DiskPath,
    signal: AbortSignal,
  ): Promise<FileContent & { facts: FileFacts }>;

  /**
   * What is another on disk `after`, from `path` on: see `changes`. It may be left early, and must be gone through or left. The
   * disks should be of one VM; others compare as well, with more to read.
   */
  diffDisks(
    before: DiskToRead,
    after: DiskToRead,
    wanted: { readonly path: DiskPath },
    signal: AbortSignal,
  ): AsyncGenerator<FileChange>;
}

export interface SavedDisksDeps extends OpenDeps {
  /** How many disks may be open at once; each takes memory. 8 unless told. */
  readonly mostOpen?: number;
  /** How long a listing, or finding a file, may take; a comparison four times as long. 30 s unless told. */
  readonly limitMs?: number;
}

const MOST_OPEN = 8;
const LIMIT_MS = 30_000;
const POSITION = /^[0-9]{1,15}$/;

/** SavedDisks on the files of this host. */
export function openSavedDisks(deps: SavedDisksDeps): SavedDisks {
  const doors = new Doors(deps);
  const limitMs = deps.limitMs ?? LIMIT_MS;
  return {
    listFiles: async (disk, { path, limit, after }, signal) => {
      const bytes = pathBytes(path);
      if (after !== undefined && !POSITION.test(after))
        throw invalid('after', '"after" must be the "next" of an earlier listing of the same folder.');
      const time = withTimeout('looking into the saved disk', limitMs, signal);
      try {
        return await doors.within(disk, time.signal, async (ext4) => {
          const folder = await find(ext4, bytes);
          if (!folder) throw nothingAt(path);
          if (folder.kind !== 'folder')
            throw invalid('path', `"path" is a ${wordFor(folder)}, not a folder; read it instead.`);
          return page(ext4, folder, { limit, after: Number(after ?? 0) });
        });
      } catch (error) {
        throw explained(error, signal);
      } finally {
        time.clear();
      }
    },

    readFile: async (disk, path, signal) => {
      const bytes = pathBytes(path);
      const stop = new AbortController();
      const all = AbortSignal.any([signal, stop.signal]);
      const time = withTimeout('looking for the file', limitMs, all);
      let source: ByteSource | undefined;
      try {
        source = await doors.open(disk, time.signal);
        const ext4 = await openExt4(source, new Pace(time.signal));
        const file = await find(ext4, bytes);
        if (!file) throw nothingAt(path);
        if (file.kind !== 'file')
          throw invalid(
            'path',
            `"path" is a ${wordFor(file)}, not a file; only files have a content to read.`,
          );
        const facts = await factsOf(ext4, file);
        const content = contentStream(ext4.content(file), source, signal, (error) =>
          explained(error, signal),
        );
        return { facts, sizeBytes: file.sizeBytes, content };
      } catch (error) {
        await source?.close();
        stop.abort(new Error('the file was not found'));
        throw explained(error, signal);
      } finally {
        // From here on it takes as long as its reader does.
        time.clear();
      }
    },

    diffDisks: async function* (before, after, { path }, signal) {
      const asked = pathBytes(path);
      const bytes = asked.replace(/\/+$/, '') || '/';
      const time = withTimeout('comparing the saved disks', 4 * limitMs, signal);
      const sources: ByteSource[] = [];
      try {
        const pace = new Pace(time.signal);
        const disks: Ext4[] = [];
        for (const disk of [before, after]) {
          const source = await doors.open(disk, time.signal);
          sources.push(source);
          disks.push(await openExt4(source, pace));
        }
        const [old, now] = disks;
        if (!old || !now) return;
        const from: Pair = {
          path: bytes,
          before: await find(old, bytes),
          after: await find(now, bytes),
        };
        const found = [from.before, from.after].filter((one) => one !== undefined);
        // A slash at the end asks for a folder; on one of them will do.
        if (asked !== bytes && found.every(({ kind }) => kind !== 'folder')) throw nothingAt(path);
        if (found.length === 0) throw nothingAt(path);
        yield* changes(old, now, from, pace);
      } catch (error) {
        throw explained(error, signal);
      } finally {
        for (const source of sources) await source.close();
        time.clear();
      }
    },
  };
}

/** Counts the disks that are open. */
class Doors {
  readonly #deps: SavedDisksDeps;
  #open = 0;

  constructor(deps: SavedDisksDeps) {
    this.#deps = deps;
  }

  async open(disk: DiskToRead, signal: AbortSignal): Promise<ByteSource> {
    if (this.#open >= (this.#deps.mostOpen ?? MOST_OPEN)) {
      throw new Failure(
        'unavailable',
        'The server looks into as many saved disks as it can already; try again when one of them is done.',
      );
    }
    this.#open++;
    let source: ByteSource;
    try {
      signal.throwIfAborted();
      source = await openDisk(this.#deps, disk, signal);
    } catch (error) {
      this.#open--;
      throw error;
    }
    let closed: Promise<void> | undefined;
    return {
      sizeBytes: source.sizeBytes,
      read: (offset, length) => source.read(offset, length),
      close: () => (closed ??= source.close().finally(() => this.#open--)),
    };
  }

  async within<T>(disk: DiskToRead, signal: AbortSignal, work: (ext4: Ext4) => Promise<T>): Promise<T> {
    const source = await this.open(disk, signal);
    try {
      return await work(await openExt4(source, new Pace(signal)));
    } finally {
      await source.close();
    }
  }
}

async function page(
  ext4: Ext4,
  folder: Inode,
  { limit, after }: { readonly limit: number; readonly after: number },
): Promise<FileListing> {
  const entries: FileEntry[] = [];
  let last = after;
  for await (const { name, inode, position } of ext4.names(folder, after)) {
    if (entries.length === limit) return { entries, next: String(last) };
    entries.push({ name: nameOf(name), ...(await factsOf(ext4, await ext4.inode(inode))) });
    last = position;
  }
  return { entries, next: null };
}

function wordFor({ kind }: Inode): string {
  return kind === 'other' ? 'device, pipe or socket' : kind;
}

/** What went wrong as one who asked can use it; `signal` is theirs. */
function explained(error: unknown, signal: AbortSignal): unknown {
  if (signal.aborted) return abortReason(signal);
  if (error instanceof DeadlineExceeded) {
    return new Failure(
      'timeout',
      `The saved disk took longer than ${error.timeoutMs / 1000} seconds to look into; ask for a smaller part of it.`,
      { cause: error },
    );
  }
  // Numbers of the guest's making are checked where they are read; one that was missed ends here, at the edge of a buffer.
  if (error instanceof RangeError) return damaged('it points beyond itself');
  return explain(error);
}
