import { mkdtemp, rm, stat } from 'node:fs/promises';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { run, type Argv } from '../src/host/run.ts';
import type { ImageFile, Saved } from '../src/store/blobs/chunk-store.ts';
import { openFolderHome } from '../src/store/blobs/folder-home.ts';
import { manifestName, packName } from '../src/store/blobs/format.ts';
import { accountKeys, newAccountSecret } from '../src/store/blobs/keys.ts';
import { knowsNothing } from '../src/store/blobs/lookup.ts';
import { decodeManifest, type Manifest } from '../src/store/blobs/manifest.ts';
import { MOST_THREADS, openChunkStore } from '../src/store/blobs/open.ts';
import { beside, type Figure } from './lib/figures.ts';
import { makeMemoryImage } from './lib/memory-image.ts';

/**
 * `node bench/chunk-store.ts [file...]`: the chunk store on a folder beside `zstd -1` and `zstd -d` of the same files on the same
 * cores, first one core and then all. The files are those of a saved guest (its memory, its disk), or else made here. "save" is
 * from the files to packs and manifest flushed in the spool (zstd flushes nothing), "put" is from there into the folder, "load" is
 * from the folder to files not flushed, as for a wake. Before that, how much memory a save and a load of a guest of 4 GiB take.
 */
const RUNS = 5;
const MIB = 2 ** 20;
const LIMITS = { save: 0.6, load: 0.5, growthMb: 200 };
const TIMEOUT_MS = 300_000;

const folder = await mkdtemp(join(tmpdir(), 'bench-chunks-'));
const home = await openFolderHome(join(folder, 'home'));
const keys = accountKeys('acct-bench', newAccountSecret('acct-bench', undefined), undefined);
let used = 0;
try {
  await growth();
  const given = process.argv.slice(2);
  const images: ImageFile[] = given.map((path, i) => ({ name: `image.${i}`, path }));
  if (images.length === 0) {
    const path = join(folder, 'memory');
    await makeMemoryImage(path, 512 * MIB);
    images.push({ name: 'memory', path });
  }
  for (const cores of new Set([1, availableParallelism()])) await throughput(images, cores);
} finally {
  await rm(folder, { recursive: true });
}

/** Saves, puts and loads a guest of 4 GiB, half of which was touched, and says how much this process grew. */
async function growth(): Promise<void> {
  const path = join(folder, 'large');
  await makeMemoryImage(path, 4096 * MIB, { seed: 2, holes: 0.5 });
  // As on a machine with more processors than this one may have.
  const store = openChunkStore({ home, keys: async () => keys, threads: MOST_THREADS });
  const before = process.memoryUsage.rss();
  let most = 0;
  const watch = setInterval(() => (most = Math.max(most, process.memoryUsage.rss() - before)), 10);
  const told = (what: string): void => {
    const grownMb = Math.round(most / 1e6);
    console.log(
      JSON.stringify({
        name: `chunk store: growth while a guest of 4 GiB is ${what}`,
        grownMb,
        limit: LIMITS.growthMb,
        holds: grownMb <= LIMITS.growthMb,
      }),
    );
    most = 0;
  };
  const saved = await store.save(orderOf([{ name: 'memory', path }]));
  told('saved');
  const manifest = await put(saved);
  most = 0;
  const to = join(folder, 'large-back');
  await store.load({ manifest, image: 'memory', to, flush: false });
  told('loaded');
  clearInterval(watch);
  await run(['cmp', path, to], { timeoutMs: TIMEOUT_MS });
  await store.close();
  for (const each of [path, to, saved.manifest.file, ...saved.packs.map(({ file }) => file)]) await rm(each);
  await rm(join(folder, 'home', 'a'), { recursive: true });
}

async function throughput(images: readonly ImageFile[], cores: number): Promise<void> {
  const cpus = cores === 1 ? '0' : `0-${cores - 1}`;
  // All threads of ours, and what we start inherits it.
  await run(['taskset', '-a', '-c', '-p', cpus, String(process.pid)]);
  const store = openChunkStore({ home, keys: async () => keys, threads: cores });
  const where = cores === 1 ? 'one core' : `${cores} cores`;
  const logical = (await Promise.all(images.map(({ path }) => stat(path)))).reduce(
    (sum, { size }) => sum + size,
    0,
  );
  const packed = images.map(({ name }) => join(folder, `${name}.zst`));
  const putMs: number[] = [];
  let last: { readonly saved: Saved; readonly manifest: Manifest } | undefined;

  const save = async (): Promise<number> => {
    const order = orderOf(images);
    const from = performance.now();
    const saved = await store.save(order);
    const took = performance.now() - from;
    const manifest = await put(saved);
    putMs.push(performance.now() - from - took);
    await rm(order.spool, { recursive: true });
    if (last) for (const { pack } of last.saved.packs) await home.remove(packName(pack));
    last = { saved, manifest };
    return took;
  };
  const zstd = async (): Promise<number> => {
    const from = performance.now();
    for (const [i, { path }] of images.entries())
      await command(['zstd', '-1', '-q', '-f', `-T${cores}`, path, '-o', packed[i] ?? '']);
    return performance.now() - from;
  };
  const saves = await beside(`chunk store: save, ${where}`, RUNS, save, {
    what: `zstd -1 -T${cores}`,
    run: zstd,
  });
  if (!last) throw new Error('nothing was saved');
  const { saved, manifest } = last;
  const zstdBytes = (await Promise.all(packed.map((path) => stat(path)))).reduce(
    (sum, { size }) => sum + size,
    0,
  );
  tell(saves, saved.sizes.data, LIMITS.save, {
    logicalMib: Math.round(logical / MIB),
    storedMib: Math.round(saved.sizes.stored / MIB),
    zstdMib: Math.round(zstdBytes / MIB),
    putMs: Math.round(putMs.toSorted((a, b) => a - b)[Math.floor(putMs.length / 2)] ?? 0),
  });

  const load = async (): Promise<number> => {
    const to = images.map(({ name }) => join(folder, `${used++}-${name}`));
    const from = performance.now();
    for (const [i, { name }] of images.entries())
      await store.load({ manifest, image: name, to: to[i] ?? '', flush: false });
    const took = performance.now() - from;
    for (const [i, { path }] of images.entries()) {
      await run(['cmp', path, to[i] ?? ''], { timeoutMs: TIMEOUT_MS });
      await rm(to[i] ?? '');
    }
    return took;
  };
  const unzstd = async (): Promise<number> => {
    const to = images.map(({ name }) => join(folder, `${used++}-${name}`));
    const from = performance.now();
    for (const [i, path] of packed.entries()) await command(['zstd', '-d', '-q', path, '-o', to[i] ?? '']);
    const took = performance.now() - from;
    for (const path of to) await rm(path);
    return took;
  };
  tell(
    await beside(`chunk store: load, ${where}`, RUNS, load, { what: 'zstd -d', run: unzstd }),
    saved.sizes.data,
    LIMITS.load,
  );
  await store.close();
}

/** A figure as a ratio of speeds; MB/s are of what is not zero. */
function tell(
  figure: Figure,
  data: number,
  limit: number,
  more: Readonly<Record<string, number>> = {},
): void {
  const speed = (ms: number): number => Math.round(data / 1000 / ms);
  const ratio = Math.round((figure.bare.p50 / figure.p50) * 100) / 100;
  console.log(
    JSON.stringify({
      ...figure,
      dataMib: Math.round(data / MIB),
      ...more,
      mbPerS: speed(figure.p50),
      bareMbPerS: speed(figure.bare.p50),
      ratio,
      limit,
      holds: ratio >= limit,
    }),
  );
}

function orderOf(images: readonly ImageFile[]) {
  return { keys, images, identity: {}, known: knowsNothing, spool: join(folder, `spool-${used++}`) };
}

/** Puts what was saved into the home, as it is done in the background, and reads the manifest back. */
async function put({ packs, manifest: { account, id, file, sha256 } }: Saved): Promise<Manifest> {
  for (const { pack, file, sha256 } of packs) await home.put(packName(pack), { file }, { sha256 });
  const name = manifestName(account, id);
  await home.put(name, { file }, { sha256 });
  return decodeManifest(await home.get(name, { maxBytes: 2 ** 26 }), keys, sha256);
}

async function command(argv: Argv): Promise<void> {
  await run(argv, { timeoutMs: TIMEOUT_MS });
}
