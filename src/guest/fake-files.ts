import { copyFile, mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { exists, writeFileAtomic } from '../host/files.ts';
import type { GuestFiles } from './files.ts';

/** A step to fail in a test, before or after its effect. */
export type FailingFile = Partial<
  Record<'makeDisk' | 'makeDiskOn' | 'makeOverlay' | 'copyDisk' | 'makeSeed', 'before' | 'after'>
>;

/**
 * Pretends a guest's disk and seed with small files where the real ones would be, so that what is left behind shows. `fail` may
 * be changed while it is in use.
 */
export function fakeGuestFiles(fail: FailingFile = {}): GuestFiles {
  const around = async <T>(what: keyof FailingFile, work: () => Promise<T>): Promise<T> => {
    if (fail[what] === 'before') throw new Error(`${what} was told to fail before its effect`);
    const made = await work();
    if (fail[what] === 'after') throw new Error(`${what} was told to fail after its effect`);
    return made;
  };
  return {
    makeDisk: (disk) =>
      around('makeDisk', async () => {
        const path = join(disk.folder, 'disk.raw');
        if (!(await exists(path)))
          await writeFile(path, JSON.stringify({ image: disk.imagePath, sizeBytes: disk.sizeBytes }));
        return { path: 'disk.raw', format: 'raw' as const };
      }),
    makeDiskOn: (disk) =>
      around('makeDiskOn', async () => {
        await writeFile(
          join(disk.folder, 'disk.raw'),
          JSON.stringify({ layer: await readFile(disk.layerPath, 'utf8'), sizeBytes: disk.sizeBytes }),
        );
        return { path: 'disk.raw', format: 'raw' as const };
      }),
    prepareDiskOn: async () => undefined,
    makeOverlay: ({ folder, path, layerPath }) =>
      around('makeOverlay', async () => {
        const layer = await readFile(layerPath, 'utf8');
        await writeFileAtomic(join(folder, path), JSON.stringify({ layer, sizeBytes: null }));
      }),
    flushDisk: async () => undefined,
    copyDisk: ({ path, to }) => around('copyDisk', () => copyFile(path, to)),
    flattenDisk: ({ path, to }) => copyFile(path, to),
    growDisk: async ({ folder, disk, sizeBytes }) =>
      writeFile(join(folder, disk.path), JSON.stringify({ sizeBytes })),
    makeSeed: (seed) =>
      around('makeSeed', async () => {
        await mkdir(join(seed.path, '..'), { recursive: true });
        await writeFileAtomic(
          seed.path,
          JSON.stringify({ hostname: seed.hostname, userData: seed.userData }),
        );
      }),
  };
}
