import { Failure, invalid } from '../../model/failure.ts';
import type { Ext4 } from './ext4/file-system.ts';
import type { Inode } from './ext4/inode.ts';

/** As Linux has it: PATH_MAX, and how many links one path may lead through. */
const LONGEST_PATH = 4096;
const MOST_LINKS = 40;

/** Text is taken as UTF-8; bytes as they are, for names that are none. */
export type DiskPath = string | Uint8Array;

/** A path as a string of a character for each byte. Throws Failure `invalid_request` naming `path`. */
export function pathBytes(path: DiskPath): string {
  const bytes = typeof path === 'string' ? Buffer.from(path, 'utf8') : Buffer.from(path);
  const problem = !bytes.toString('latin1').startsWith('/')
    ? 'must be absolute: it begins with /'
    : bytes.includes(0)
      ? 'must not have a NUL character'
      : bytes.length > LONGEST_PATH
        ? `must be at most ${LONGEST_PATH} bytes long`
        : undefined;
  if (problem !== undefined) throw invalid('path', `"path" ${problem}.`);
  return bytes.toString('latin1');
}

/**
 * What a path leads to, links followed, as a process whose root is the disk would find it: nothing leads out of it. undefined:
 * nothing is there. Throws Failure `invalid_request` for a path through too many links.
 */
export async function find(disk: Ext4, path: string): Promise<Inode | undefined> {
  const root = await disk.root();
  const above: Inode[] = [];
  let here = root;
  let links = 0;
  const ahead = parts(path);
  for (let part = ahead.pop(); part !== undefined; part = ahead.pop()) {
    if (here.kind !== 'folder') return undefined;
    if (part === '.') continue;
    if (part === '..') {
      here = above.pop() ?? root;
      continue;
    }
    const next = await lookUp(disk, here, part);
    if (!next) return undefined;
    if (next.kind !== 'link') {
      above.push(here);
      here = next;
      continue;
    }
    if (++links > MOST_LINKS)
      throw invalid('path', `"path" leads through more than ${MOST_LINKS} links; they may go in a circle.`);
    const target = await disk.target(next);
    if (target === '') return undefined;
    if (target.startsWith('/')) {
      above.length = 0;
      here = root;
    }
    ahead.push(...parts(target));
  }
  return here;
}

/** A 404 that names the path as it was asked for. */
export function nothingAt(path: DiskPath): Failure {
  const text = typeof path === 'string' ? path : Buffer.from(path).toString('utf8');
  return new Failure('not_found', `There is nothing at ${JSON.stringify(text)} on the saved disk.`, {
    details: { path: text },
  });
}

/** Its parts, the last one first. A slash at the end asks for a folder, as `.` does. */
function parts(path: string): string[] {
  const all = path.split('/').filter((part) => part !== '');
  if (path.endsWith('/')) all.push('.');
  return all.reverse();
}

async function lookUp(disk: Ext4, folder: Inode, name: string): Promise<Inode | undefined> {
  for await (const entry of disk.names(folder)) {
    if (entry.name === name) return disk.inode(entry.inode);
  }
  return undefined;
}
