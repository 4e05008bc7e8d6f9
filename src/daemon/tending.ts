import { Cron } from 'croner';
import type { Clock } from '../base/clock.ts';
import { errorFields } from '../base/logger.ts';
import { Tender } from '../ops/archive/tend.ts';
import { proveAll } from '../ops/verify-snapshot.ts';
import type { World } from '../ops/world.ts';
import type { Values } from './config.ts';

const MIB = 1024 * 1024;
/** How often the store and the local copies are looked after. */
const TEND_MS = 60_000;
/** A timer holds no more than 24 days: a later time is slept towards in pieces. */
const LONGEST_SLEEP_MS = 24 * 3_600_000;

/** Looks after what is stored, and proves it on schedule, in the background; `close` resolves when it has let go. */
export function startTending(
  world: World,
  {
    HATCH_CACHE_MIB: cache,
    HATCH_VERIFY_SCHEDULE: schedule,
  }: Pick<Values, 'HATCH_CACHE_MIB' | 'HATCH_VERIFY_SCHEDULE'>,
): { close(): Promise<void> } {
  const ending = new AbortController();
  const tender = new Tender(world, { cacheBytes: cache === undefined ? null : cache * MIB });
  const loops = [tending(world, tender, ending.signal)];
  if (schedule !== undefined) loops.push(proving(world, schedule, ending.signal));
  return {
    async close() {
      ending.abort(new Error('the server is stopping'));
      await Promise.all(loops);
    },
  };
}

async function tending({ clock }: World, tender: Tender, signal: AbortSignal): Promise<void> {
  while (!signal.aborted) {
    await tender.round(signal);
    await clock.sleep(TEND_MS, signal).catch(() => undefined);
  }
}

async function proving(world: World, schedule: string, signal: AbortSignal): Promise<void> {
  while (!signal.aborted) {
    try {
      const at = nextRun(schedule, world.clock.now());
      if (at === undefined) return;
      await sleepUntil(world.clock, at, signal);
      await proveAll(world, signal);
    } catch (error) {
      if (!signal.aborted) world.log.error(errorFields(error), 'the scheduled check of snapshots failed');
    }
  }
}

/** When a cron line comes next after a time, in milliseconds since 1970, by the host's own clock and zone; undefined: never again. */
export function nextRun(schedule: string, now: number): number | undefined {
  return new Cron(schedule, { paused: true }).nextRun(new Date(now))?.getTime();
}

async function sleepUntil(clock: Clock, at: number, signal: AbortSignal): Promise<void> {
  for (let left = at - clock.now(); left > 0; left = at - clock.now())
    await clock.sleep(Math.min(left, LONGEST_SLEEP_MS), signal);
}
