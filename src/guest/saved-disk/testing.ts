import { buffer } from 'node:stream/consumers';
import { run } from '../../host/run.ts';
import type { ByteSource } from './byte-source.ts';
import type { Ext4 } from './ext4/file-system.ts';
import type { Inode } from './ext4/inode.ts';
import type { SavedDisk } from './open-disk.ts';
import type { SavedDisks } from './inside.ts';

/** For this folder's tests: disks made by e2fsprogs, which need no root. */

/** An ext4 (or what `args` make of it) with what is in a folder. */
export async function makeExt4(
  path: string,
  {
    from,
    size = '16M',
    args = [],
  }: { readonly from?: string; readonly size?: string; readonly args?: readonly string[] },
): Promise<SavedDisk> {
  const content = from === undefined ? [] : ['-d', from];
  const type = args.includes('-t') ? [] : ['-t', 'ext4'];
  await run(['mke2fs', '-q', '-F', ...type, ...args, ...content, path, size]);
  return { path, format: 'raw' };
}

/** Does things to a file system by debugfs(8), a command a line. Throws when one of them did not work. */
export async function debugfs(path: string, commands: readonly string[]): Promise<string> {
  const { stdout, stderr } = await run(['debugfs', '-w', '-f', '-', path], {
    input: `${commands.join('\n')}\n`,
  });
  const complaints = stderr.split('\n').filter((line) => line !== '' && !line.startsWith('debugfs 1.'));
  if (complaints.length > 0) throw new Error(complaints.join('\n'));
  return stdout
    .split('\n')
    .filter((line) => !line.startsWith('debugfs: '))
    .join('\n');
}

/** Bytes as a disk. */
export function inMemory(bytes: Buffer): ByteSource {
  return {
    sizeBytes: bytes.length,
    read: (offset, length) =>
      offset + length > bytes.length
        ? Promise.reject(new Error('beyond the disk'))
        : Promise.resolve(Buffer.from(bytes.subarray(offset, offset + length))),
    close: () => Promise.resolve(),
  };
}

const signal = new AbortController().signal;

/** A whole file. */
export async function read(disks: SavedDisks, disk: SavedDisk, path: string | Uint8Array): Promise<Buffer> {
  return buffer((await disks.readFile(disk, path, signal)).content);
}

/** The names in a folder, sorted. */
export async function names(disks: SavedDisks, disk: SavedDisk, path: string): Promise<readonly string[]> {
  const { entries } = await disks.listFiles(disk, { path, limit: 10_000 }, signal);
  return entries.map(({ name }) => name.text).sort();
}

/** Every file there is, by its path, with its inode; folders that were seen are not gone into again. */
export async function* everything(ext4: Ext4): AsyncGenerator<readonly [string, Inode]> {
  const folders: [string, Inode][] = [['', await ext4.root()]];
  const seen = new Set<number>();
  for (let next = folders.pop(); next; next = folders.pop()) {
    const [path, folder] = next;
    if (seen.has(folder.number)) continue;
    seen.add(folder.number);
    for await (const { name, inode: number } of ext4.names(folder)) {
      const inode = await ext4.inode(number);
      yield [`${path}/${name}`, inode];
      if (inode.kind === 'folder') folders.push([`${path}/${name}`, inode]);
    }
  }
}
