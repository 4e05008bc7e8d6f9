import type { Clock } from '../base/clock.ts';
import { Failure } from '../model/failure.ts';

/** How many requests a key may send. */
export interface RateLimit {
  /** In the long run, per second; 0: no limit. */
  readonly perSecond: number;
  /** At once, after a pause. */
  readonly burst: number;
}

/**
 * A bucket of tokens for each key: a request takes one, time puts them back. Only keys that lately asked are remembered.
 * The returned function throws `rate_limited`, with the seconds to wait in its details.
 */
export function rateLimiter(clock: Clock, { perSecond, burst }: RateLimit): (key: string) => void {
  if (perSecond <= 0) return () => undefined;
  const buckets = new Map<string, { tokens: number; at: number }>();
  const refillMs = (burst / perSecond) * 1000;
  let swept = clock.steady();

  return (key) => {
    const now = clock.steady();
    if (now - swept > refillMs) {
      for (const [other, { at }] of buckets) if (now - at > refillMs) buckets.delete(other);
      swept = now;
    }
    const bucket = buckets.get(key) ?? { tokens: burst, at: now };
    const tokens = Math.min(burst, bucket.tokens + ((now - bucket.at) / 1000) * perSecond);
    const enough = tokens >= 1;
    buckets.set(key, { tokens: enough ? tokens - 1 : tokens, at: now });
    if (enough) return;
    const seconds = Math.ceil((1 - tokens) / perSecond);
    throw new Failure(
      'rate_limited',
      `This key may send ${perSecond} requests a second; try again in ${seconds} s.`,
      { details: { per_second: perSecond, burst, retry_after_seconds: seconds } },
    );
  };
}
