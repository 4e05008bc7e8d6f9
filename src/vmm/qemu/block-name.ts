import { VmmError } from '../driver.ts';

/**
 * The file a disk is written to, out of how QEMU names the disk: the file itself, or where the disk was given an overlay while the
 * guest ran, `json:` and the whole tree of it.
 */
export function topFile(name: string): string {
  if (!name.startsWith('json:')) return name;
  const tree: unknown = JSON.parse(name.slice('json:'.length));
  if (typeof tree === 'object' && tree !== null && 'file' in tree) {
    const { file } = tree;
    if (typeof file === 'object' && file !== null && 'filename' in file && typeof file.filename === 'string')
      return file.filename;
  }
  throw new VmmError(`QEMU names a disk in a way not known here: ${name.slice(0, 200)}`);
}
