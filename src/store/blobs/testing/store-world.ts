import { mkdtemp, open, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import type { ChunkStore, Saved, SaveOrder } from '../chunk-store.ts';
import { fileSource } from '../byte-source.ts';
import { openFolderHome } from '../folder-home.ts';
import { CHUNK, manifestName, packName } from '../format.ts';
import type { BlobHome } from '../home.ts';
import { accountKeys, newAccountSecret, parseMasterKey, type AccountKeys } from '../keys.ts';
import { ChunkIndex } from '../lookup.ts';
import { decodeManifest, type Manifest } from '../manifest.ts';
import { openChunkStore } from '../open.ts';
import { readPackIndex } from '../pack.ts';

export const master = parseMasterKey(Buffer.alloc(32, 7));
/** An account whose packs are sealed, and one whose are not. */
export const sealedKeys = accountKeys('acct-sealed', newAccountSecret('acct-sealed', master), master);
export const openKeys = accountKeys('acct-open', newAccountSecret('acct-open', undefined), undefined);

/** A chunk store over a folder, for tests: what is saved is put at once. */
export interface StoreWorld {
  readonly folder: string;
  readonly home: BlobHome;
  readonly store: ChunkStore;
  /** All packs that were put. */
  readonly index: ChunkIndex;
  /** Saves, puts everything, and reads the manifest back from the home. */
  keep(order: Omit<SaveOrder, 'spool' | 'known' | 'identity'>): Promise<{ saved: Saved; manifest: Manifest }>;
  /** Puts what a save wrote. */
  put(saved: Saved, keys: AccountKeys): Promise<Manifest>;
  /** Writes an image as chunks: a number fills one with pseudo-random bytes of that seed, 0 is a hole. */
  image(name: string, chunks: readonly number[], bytes?: number): Promise<string>;
  load(manifest: Manifest, image: string): Promise<Buffer>;
  /** A path in the folder that nobody has used. */
  fresh(): string;
}

export async function storeWorld(t: Pick<TestContext, 'after'>, threads = 1): Promise<StoreWorld> {
  const folder = await mkdtemp(join(tmpdir(), 'hatch-store-'));
  const home = await openFolderHome(join(folder, 'home'));
  const keys = new Map([sealedKeys, openKeys].map((each) => [each.account, each]));
  const store = openChunkStore({
    home,
    threads,
    keys: async (account) => {
      const found = keys.get(account);
      if (!found) throw new Error(`no keys of ${account}`);
      return found;
    },
  });
  t.after(async () => {
    await store.close();
    await rm(folder, { recursive: true });
  });
  const index = new ChunkIndex();
  let used = 0;
  const world: StoreWorld = {
    folder,
    home,
    store,
    index,
    fresh: () => join(folder, `f${used++}`),
    async keep(order) {
      const saved = await store.save({
        ...order,
        identity: { vmm: 'test' },
        known: index,
        spool: world.fresh(),
      });
      return { saved, manifest: await world.put(saved, order.keys) };
    },
    async put({ packs, manifest: { account, id, file, sha256 } }, own) {
      for (const { pack, file, sha256 } of packs) {
        await home.put(packName(pack), { file }, { sha256 });
        index.add(await readPackIndex(await fileSource(file, 'the pack'), pack.id, own));
      }
      const name = manifestName(account, id);
      await home.put(name, { file }, { sha256 });
      return decodeManifest(await home.get(name, { maxBytes: 2 ** 26 }), own, sha256);
    },
    async image(name, chunks, bytes = chunks.length * CHUNK) {
      const path = join(folder, `${used++}-${name}`);
      const file = await open(path, 'wx');
      for (const [at, seed] of chunks.entries())
        if (seed !== 0) await file.write(chunkOf(seed), 0, CHUNK, at * CHUNK);
      await file.truncate(bytes);
      await file.close();
      return path;
    },
    async load(manifest, image) {
      const to = world.fresh();
      await store.load({ manifest, image, to, flush: false });
      return readFile(to);
    },
  };
  return world;
}

/** A chunk that is the same for the same seed; odd seeds can be compressed, even ones cannot. */
export function chunkOf(seed: number): Buffer {
  const chunk = Buffer.alloc(CHUNK);
  let state = seed * 2654435761;
  for (let i = 0; i < CHUNK; i += 4) {
    state = (Math.imul(state ^ (state >>> 15), 2246822519) + 0x9e3779b9) >>> 0;
    chunk.writeUInt32LE(seed % 2 === 1 ? state & 0x0f : state, i);
  }
  return chunk;
}
