import { errorFields } from '../../base/logger.ts';
import type { World } from '../world.ts';
import { dropIdleOfAll } from '../idle-snapshots.ts';
import { collect, sweep } from './collect.ts';
import { evict } from './evict.ts';
import { mergeSmall, rewriteSparse, type LeftAlone } from './rewrite.ts';

const MINUTE_MS = 60_000;

export interface TendOptions {
  /** How long what nobody needs is kept in the store, in case that somebody comes for it. */
  readonly graceMs: number;
  /** How old a pack is at least when it is rewritten or merged with others. */
  readonly rewriteAgeMs: number;
  /** How long an object is not read whole at most, so that bits lost in silence are found... */
  readonly rereadAgeMs: number;
  /** ...and how many are read in a round; a round is a minute, and an object has 32 MiB at most. */
  readonly rereadAtOnce: number;
  /** How often it is looked for objects under tombstones. */
  readonly sweepMs: number;
  /** What local files of stored snapshots may take, in bytes; null: whatever they like. */
  readonly cacheBytes: number | null;
}

export const TEND: TendOptions = {
  graceMs: 15 * MINUTE_MS,
  rewriteAgeMs: 60 * MINUTE_MS,
  rereadAgeMs: 30 * 24 * 60 * MINUTE_MS,
  rereadAtOnce: 4,
  sweepMs: 24 * 60 * MINUTE_MS,
  cacheBytes: null,
};

/** Looks after the store and the local copies of what is in it, a bounded piece of work each time. */
export class Tender {
  readonly #world: World;
  readonly #options: TendOptions;
  readonly #leftAlone: LeftAlone = new Map();
  #sweptAt: number | undefined;

  constructor(world: World, options: Partial<TendOptions> = {}) {
    this.#world = world;
    this.#options = { ...TEND, ...options };
  }

  /** Collects, drops idle snapshots that were replaced, evicts, rewrites and merges packs, reads again what was not read for long, and now and then sweeps. What fails is logged, and does not keep the rest from being done. */
  async round(signal: AbortSignal): Promise<void> {
    const { archive, clock, log } = this.#world;
    const { graceMs, rewriteAgeMs, rereadAgeMs, rereadAtOnce, sweepMs, cacheBytes } = this.#options;
    const jobs: Readonly<Record<string, () => Promise<unknown>>> = {
      collect: () => collect(archive.deps, graceMs, signal),
      idle: () => dropIdleOfAll(this.#world),
      evict: async () => (cacheBytes === null ? [] : evict(this.#world, cacheBytes, signal)),
      rewrite: () => rewriteSparse(archive.deps, this.#leftAlone, rewriteAgeMs, signal),
      merge: () => mergeSmall(archive.deps, rewriteAgeMs, signal),
      reread: () => archive.reread({ ageMs: rereadAgeMs, limit: rereadAtOnce }, signal),
      sweep: async () => {
        if (this.#sweptAt !== undefined && clock.now() < this.#sweptAt + sweepMs) return;
        await sweep(archive.deps, signal);
        this.#sweptAt = clock.now();
      },
    };
    for (const [job, work] of Object.entries(jobs)) {
      if (signal.aborted) return;
      try {
        await work();
      } catch (error) {
        if (!signal.aborted) log.warn({ job, ...errorFields(error) }, 'could not look after the store');
      }
    }
  }
}
