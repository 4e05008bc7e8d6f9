import { mkdir, rm, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { run } from '../../src/host/run.ts';

/**
 * Runs `work` with a folder on an ext4 that nobody has used, made in a file in `folder` (which it grows in by what is written). ext4 looks at
 * every inode that was freed within the last minutes before it gives one out (`recently_deleted` in fs/ext4/ialloc.c): where much was
 * deleted just now each new file takes a millisecond, five times as long as elsewhere. Needs root.
 */
export async function onFreshDisk(folder: string, work: (disk: string) => Promise<void>): Promise<void> {
  const [image, disk] = [join(folder, 'disk.img'), join(folder, 'disk')];
  await writeFile(image, '');
  await truncate(image, 4 * 1024 ** 3);
  await run(['mkfs.ext4', '-q', '-F', image]);
  await mkdir(disk);
  await run(['mount', '-o', 'loop', image, disk]);
  try {
    await work(disk);
  } finally {
    // What hatchd leaves running, its DHCP server, ends with the network namespace; the disk goes then.
    await run(['umount', '--lazy', disk]);
    await rm(image);
  }
}
