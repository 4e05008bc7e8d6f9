import { Failure } from '../../model/failure.ts';
import type { FileChange, FileDifference } from '../../model/saved-files.ts';
import type { Ext4 } from './ext4/file-system.ts';
import { sameInode, sameTimes, type Inode } from './ext4/inode.ts';
import { factsOf, nameOf } from './facts.ts';
import type { Pace } from './pace.ts';
import { damaged } from './refusals.ts';

/** How many names of the folders that lead to where it stands a comparison keeps, of both disks together. */
const MOST_NAMES = 500_000;
/** How much of files of the same size and other times is compared; after that they are `unread`. */
const MOST_COMPARED_BYTES = 512 * 1024 * 1024;

export interface Pair {
  /** A character for each byte. */
  readonly path: string;
  readonly before: Inode | undefined;
  readonly after: Inode | undefined;
}

interface Level {
  readonly path: string;
  readonly before: ReadonlyMap<string, number>;
  readonly after: ReadonlyMap<string, number>;
  readonly names: readonly string[];
  next: number;
}

/**
 * What is another on `after` than on `before`, from a path on that both are found at (or one of them), a folder before what is
 * in it, names in the order of their bytes. A file whose inode says nothing changed is taken as it was, unread; of one that was
 * only touched, the content is compared. Of folders the times are not told: they change with every file in them. Throws
 * Failure `too_large` when folders have too many names to be compared.
 */
export async function* changes(
  before: Ext4,
  after: Ext4,
  from: Pair,
  pace: Pace,
): AsyncGenerator<FileChange> {
  const comparison = new Comparison(before, after);
  yield* comparison.ofPair(from);
  const levels: Level[] = [await comparison.open(from)];
  for (let level = levels.at(-1); level; level = levels.at(-1)) {
    await pace.breathe();
    const name = level.names[level.next++];
    if (name === undefined) {
      levels.pop();
      comparison.leave(level);
      continue;
    }
    const pair = await comparison.pairAt(level, name);
    yield* comparison.ofPair(pair);
    if (pair.before?.kind === 'folder' || pair.after?.kind === 'folder')
      levels.push(await comparison.open(pair));
  }
}

class Comparison {
  readonly #disks: { readonly before: Ext4; readonly after: Ext4 };
  readonly #seen = { before: new Set<number>(), after: new Set<number>() };
  #names = 0;
  #bytesLeft = MOST_COMPARED_BYTES;

  constructor(before: Ext4, after: Ext4) {
    this.#disks = { before, after };
  }

  /** What a folder has on either disk. */
  async open({ path, before, after }: Pair): Promise<Level> {
    const [old, now] = [await this.#namesOf('before', before), await this.#namesOf('after', after)];
    const names = [...new Set([...old.keys(), ...now.keys()])].sort((a, b) => (a < b ? -1 : a > b ? 1 : 0));
    return { path: path === '/' ? '' : path, before: old, after: now, names, next: 0 };
  }

  leave({ before, after }: Level): void {
    this.#names -= before.size + after.size;
  }

  async pairAt({ path, before, after }: Level, name: string): Promise<Pair> {
    const inodeOn = async (disk: Ext4, names: ReadonlyMap<string, number>): Promise<Inode | undefined> => {
      const number = names.get(name);
      return number === undefined ? undefined : disk.inode(number);
    };
    return {
      path: `${path}/${name}`,
      before: await inodeOn(this.#disks.before, before),
      after: await inodeOn(this.#disks.after, after),
    };
  }

  async *ofPair({ path, before, after }: Pair): AsyncGenerator<FileChange> {
    const differences = before && after ? await this.#differences(before, after) : [];
    if (before && after && differences.length === 0) return;
    yield {
      path: nameOf(path),
      change: before ? (after ? 'changed' : 'removed') : 'added',
      differences,
      before: before ? await factsOf(this.#disks.before, before) : null,
      after: after ? await factsOf(this.#disks.after, after) : null,
    };
  }

  async #differences(before: Inode, after: Inode): Promise<readonly FileDifference[]> {
    if (sameInode(before, after)) return [];
    if (before.kind !== after.kind) return ['kind'];
    const found: FileDifference[] = [];
    if (before.kind === 'file') found.push(...(await this.#contents(before, after)));
    if (before.kind === 'link') found.push(...(await this.#targets(before, after)));
    if (before.mode !== after.mode) found.push('mode');
    if (before.uid !== after.uid || before.gid !== after.gid) found.push('owner');
    if (found.length === 0 && before.kind !== 'folder' && !sameTimes(before, after)) found.push('times');
    return found;
  }

  async #targets(before: Inode, after: Inode): Promise<readonly FileDifference[]> {
    if (before.encrypted || after.encrypted) return [];
    const targets = [await this.#disks.before.target(before), await this.#disks.after.target(after)];
    return targets[0] === targets[1] ? [] : ['content'];
  }

  async #contents(before: Inode, after: Inode): Promise<readonly FileDifference[]> {
    if (before.sizeBytes !== after.sizeBytes) return ['content', 'size'];
    if (before.encrypted || after.encrypted || before.sizeBytes > this.#bytesLeft) return ['unread'];
    this.#bytesLeft -= before.sizeBytes;
    const others = this.#disks.after.content(after);
    try {
      for await (const chunk of this.#disks.before.content(before)) {
        const other = await others.next();
        if (other.done || !chunk.equals(other.value)) return ['content'];
      }
      return [];
    } finally {
      await others.return(undefined);
    }
  }

  async #namesOf(which: 'before' | 'after', folder: Inode | undefined): Promise<ReadonlyMap<string, number>> {
    const names = new Map<string, number>();
    // What is in an encrypted one only the guest can tell.
    if (folder?.kind !== 'folder' || folder.encrypted) return names;
    // A folder has one name; one that has more may lead to itself.
    if (this.#seen[which].has(folder.number)) throw damaged('a folder is in two places');
    this.#seen[which].add(folder.number);
    for await (const { name, inode } of this.#disks[which].names(folder)) {
      if (names.has(name)) throw damaged('a folder has a name twice');
      if (++this.#names > MOST_NAMES) {
        throw new Failure(
          'too_large',
          `The folders have more than ${MOST_NAMES} names, too many to compare; compare a part of them with "path".`,
          { details: { field: 'path', limit: MOST_NAMES } },
        );
      }
      names.set(name, inode);
    }
    return names;
  }
}
