import { readdir, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { run } from '../../src/host/run.ts';

const TIMEOUT_MS = 300_000;

/** Of a snapshot, with absolute paths. */
export interface SavedFiles {
  readonly memory: string;
  readonly state: string;
  readonly disk: string;
}

/** The files that `work` adds to the folder of layers. Throws when they are not those of one snapshot. */
export async function filesOf(layers: string, work: () => Promise<void>): Promise<SavedFiles> {
  const before = await readdir(layers).catch((): string[] => []);
  await work();
  const made: Record<string, string> = {};
  for (const layer of await readdir(layers))
    if (!before.includes(layer))
      for (const name of await readdir(join(layers, layer))) made[name] = join(layers, layer, name);
  const { 'memory.bin': memory, 'state.bin': state, 'disk.qcow2': disk } = made;
  if (!memory || !state || !disk) throw new Error(`a snapshot made only ${Object.keys(made).join(', ')}`);
  return { memory, state, disk };
}

/** The size of all files in a folder. */
export async function bytesIn(folder: string): Promise<number> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true });
  const files = entries.filter((entry) => entry.isFile());
  const sizes = await Promise.all(files.map(({ parentPath, name }) => stat(join(parentPath, name))));
  return sizes.reduce((sum, { size }) => sum + size, 0);
}

/** What `gzip -1` makes of a guest's memory, and of all clusters its disk uses, those of the image too; works in `folder`. */
export async function gzipBytes(
  folder: string,
  { memory, disk }: SavedFiles,
): Promise<{ readonly memory: number; readonly disk: number }> {
  const [mem, clusters] = [join(folder, 'memory'), join(folder, 'clusters')];
  const limits = { timeoutMs: TIMEOUT_MS };
  await run(['cp', '--sparse=always', memory, mem], limits);
  await run(['qemu-img', 'convert', '-f', 'qcow2', '-O', 'qcow2', disk, clusters], limits);
  await run(['gzip', '-1', mem, clusters], limits);
  const [one, two] = await Promise.all([mem, clusters].map((path) => stat(`${path}.gz`)));
  for (const path of [mem, clusters]) await rm(`${path}.gz`);
  return { memory: one?.size ?? NaN, disk: two?.size ?? NaN };
}
