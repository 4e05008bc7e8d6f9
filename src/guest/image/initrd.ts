import { readFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { constants, zstdCompressSync } from 'node:zlib';
import { Failure } from '../../model/failure.ts';
import { packCpio } from './cpio.ts';
import type { Recipe } from './recipe.ts';

/**
 * Makes the initrd: busybox, the init program, and the modules it loads, in the order they are loaded. `root` is the root
 * file system's folder, `kernelVersion` the folder's name under /usr/lib/modules.
 */
export async function makeInitrd(
  recipe: Recipe,
  { root, kernelVersion }: { readonly root: string; readonly kernelVersion: string },
): Promise<Buffer> {
  const folder = join(root, 'usr/lib/modules', kernelVersion);
  const [dependencies, builtin, busybox] = await Promise.all([
    readFile(join(folder, 'modules.dep'), 'utf8'),
    readFile(join(folder, 'modules.builtin'), 'utf8'),
    readFile(join(root, 'usr/bin/busybox')),
  ]);
  const files = moduleOrder({ dependencies, builtin }, recipe.initrd.modules);
  const modules = await Promise.all(files.map((file) => readFile(join(folder, file))));
  const list = files.map((file) => `${basename(file)}\n`).join('');
  const archive = packCpio([
    ...['bin', 'dev', 'lib', 'proc', 'root', 'sys'].map((path) => ({ path, mode: 0o755 })),
    { path: 'init', mode: 0o755, content: Buffer.from(recipe.initrd.init) },
    { path: 'modules', mode: 0o644, content: Buffer.from(list) },
    { path: 'bin/busybox', mode: 0o755, content: busybox },
    ...modules.map((content, i) => ({ path: `lib/${basename(files[i] ?? '')}`, mode: 0o644, content })),
  ]);
  return zstdCompressSync(archive, { params: { [constants.ZSTD_c_compressionLevel]: 19 } });
}

/**
 * The files to load for some modules, each after those it needs (modules.dep(5): a line names a file, then what must be
 * loaded before it, from the right to the left). What is built into the kernel needs no file.
 */
export function moduleOrder(
  { dependencies, builtin }: { readonly dependencies: string; readonly builtin: string },
  names: readonly string[],
): readonly string[] {
  const lines = dependencies.split('\n').flatMap((line) => {
    const [file, needed] = line.split(':');
    return file && needed !== undefined ? [{ file, needed: needed.split(' ').filter(Boolean) }] : [];
  });
  const known = new Set(builtin.split('\n').map(moduleName));
  const order = new Set<string>();
  for (const name of names) {
    const found = lines.find(({ file }) => moduleName(file) === moduleName(name));
    if (!found && known.has(moduleName(name))) continue;
    if (!found)
      throw new Failure('internal', `The kernel has no module ${name}, which the image needs to start.`);
    for (const file of [...found.needed].reverse()) order.add(file);
    order.add(found.file);
  }
  return [...order];
}

/** A module's name as the kernel has it: the file's, with underscores. */
function moduleName(file: string): string {
  return basename(file)
    .replace(/\.ko(\.\w+)?$/, '')
    .replaceAll('-', '_');
}
