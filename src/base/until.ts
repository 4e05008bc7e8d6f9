import type { Clock } from './clock.ts';

/**
 * Asks `probe` again and again until it gives something other than undefined, and gives that back. Waits between tries,
 * from `firstMs` doubling up to `mostMs`. Rejects with the signal's reason when it aborts; what `probe` throws ends it.
 */
export async function until<T>(
  { clock, signal }: { readonly clock: Clock; readonly signal: AbortSignal },
  probe: () => Promise<T | undefined> | T | undefined,
  { firstMs = 5, mostMs = 250 }: { readonly firstMs?: number; readonly mostMs?: number } = {},
): Promise<T> {
  for (let wait = firstMs; ; wait = Math.min(wait * 2, mostMs)) {
    signal.throwIfAborted();
    const found = await probe();
    if (found !== undefined) return found;
    await clock.sleep(wait, signal);
  }
}
