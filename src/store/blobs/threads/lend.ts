import { BlobError } from '../blob-error.ts';
import type { ThreadPool, Threads } from './pool.ts';

/** The threads of a pool for one user of several: closed, its jobs have ended, and the threads go on for the others. */
export function lend(pool: ThreadPool): Threads {
  const running = new Set<Promise<unknown>>();
  const closed = new AbortController();
  return {
    size: pool.size,
    run: (job, ask, options = {}) => {
      const signals = options.signal ? [options.signal, closed.signal] : [closed.signal];
      const work = pool.run(job, ask, { ...options, signal: AbortSignal.any(signals) });
      running.add(work);
      const ended = (): boolean => running.delete(work);
      work.then(ended, ended);
      return work;
    },
    close: async () => {
      closed.abort(new BlobError('failed', 'the chunk store is closed'));
      await Promise.allSettled(running);
    },
  };
}
