import { availableParallelism } from 'node:os';
import type { ChunkStore } from './chunk-store.ts';
import type { BlobHome } from './home.ts';
import type { KeyRing } from './keys.ts';
import { load } from './load.ts';
import { look } from './look.ts';
import { save } from './save.ts';
import { lend } from './threads/lend.ts';
import { ThreadPool } from './threads/pool.ts';

/** More would take more memory, and a disk seldom keeps up with them. */
export const MOST_THREADS = 4;

export interface ChunkStoreOptions {
  /** Where packs are read from. */
  readonly home: BlobHome;
  readonly keys: KeyRing;
  /** Worker threads; as many as there are processors, but MOST_THREADS at the most, when it is not given. */
  readonly threads?: number;
  /** Threads that others use too, instead of its own; they are not ended with it. */
  readonly pool?: ThreadPool | undefined;
  /** Milliseconds since 1970; the machine's when it is not given. */
  readonly now?: () => number;
}

/** Opens the chunk store. Threads are started when there is work for them. */
export function openChunkStore({
  home,
  keys,
  threads = Math.min(MOST_THREADS, availableParallelism()),
  pool: shared,
  now = Date.now,
}: ChunkStoreOptions): ChunkStore {
  const pool = shared ? lend(shared) : new ThreadPool(threads);
  return {
    save: (order) => save(pool, now, order),
    load: (order) => load({ pool, home, keys }, order),
    look: (manifest, image) => look(home, keys, manifest, image),
    close: () => pool.close(),
  };
}
