import { fileName, type FileFacts, type FileName } from '../../model/saved-files.ts';
import type { Ext4 } from './ext4/file-system.ts';
import type { Inode } from './ext4/inode.ts';

/** What people are told of a file. */
export async function factsOf(disk: Ext4, inode: Inode): Promise<FileFacts> {
  const { kind, sizeBytes, mode, uid, gid, modifiedAt } = inode;
  const target = kind === 'link' && !inode.encrypted ? nameOf(await disk.target(inode)) : null;
  return { kind, sizeBytes, mode, uid, gid, modifiedAt, target };
}

/** A string of a character for each byte as a name with a text. */
export function nameOf(bytes: string): FileName {
  return fileName(Buffer.from(bytes, 'latin1'));
}
