import type { Clock } from './clock.ts';

/** Resolves with `event`, or after `ms` milliseconds when that is sooner. Rejects with the signal's reason when it aborts first. */
export async function sooner(
  { clock, signal }: { readonly clock: Clock; readonly signal: AbortSignal },
  event: Promise<void>,
  ms: number,
): Promise<void> {
  const over = new AbortController();
  try {
    await Promise.race([event, clock.sleep(ms, AbortSignal.any([signal, over.signal]))]);
  } finally {
    over.abort();
  }
}
