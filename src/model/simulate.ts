import { asleepIn, gibHoursOf, type Asleep, type Rest, type UseSpan } from './history.ts';
import { MANY_WAKES, staysAwakeMs } from './idle.ts';
import { keptAwakeUntil } from './keep-awake.ts';
import type { IdlePolicy } from './vm.ts';

const HOUR_MS = 3_600_000;

/** How a VM slept, or would have. */
export interface Slept extends Asleep {
  /** How often it was woken. */
  readonly wakes: number;
}

/** What is known of a VM from one time to another, in milliseconds since 1970; both lists the earliest first. */
export interface Recorded {
  readonly uses: readonly UseSpan[];
  readonly rests: readonly Rest[];
  readonly memMib: number;
  readonly from: number;
  readonly until: number;
}

/** A time in which a VM could not have fallen asleep. */
interface Held {
  readonly from: number;
  readonly until: number;
  /** Somebody came, who would have waited for a VM that slept; else it was off. */
  readonly visit: boolean;
}

/** How a VM slept. */
export function sleptBy({ rests, from, until }: Recorded): Slept {
  const ended = rests.filter((rest) => rest.how !== 'off' && rest.until !== null);
  const wakes = ended.filter((rest) => (rest.until ?? 0) >= from && (rest.until ?? 0) <= until).length;
  return { ...asleepIn(rests, from, until), wakes };
}

/**
 * How a VM would have slept by a policy, had it been used as it was. Each wake is one for whom at least one visitor would have waited. What
 * is not written down plays no part: CPU time, and whether anything went through a connection (`quiet` counts as `hold`).
 */
export function wouldSleep(policy: IdlePolicy, recorded: Recorded): Slept {
  const { memMib, from, until } = recorded;
  let [times, ms] = [0, 0];
  let [usedAt, awakeSince] = [from, from];
  const wakes: number[] = [];
  const sleepUntil = (end: number): boolean => {
    const lately = wakes.slice(-MANY_WAKES - 1).filter((at) => awakeSince - at < HOUR_MS).length;
    let at = Math.max(usedAt + policy.timeoutSeconds * 1000, awakeSince + staysAwakeMs(lately));
    // Windows may follow on each other.
    for (let kept = keptAwakeUntil(policy.keepAwake, at); kept !== null && at < end;)
      kept = keptAwakeUntil(policy.keepAwake, (at = kept));
    if (policy.pinned || policy.action === 'none' || end <= at) return false;
    times++;
    ms += end - at;
    return true;
  };
  for (const held of heldTimes(policy, recorded)) {
    const slept = sleepUntil(held.from);
    if (slept && held.visit) wakes.push(held.from);
    if (slept || !held.visit) awakeSince = held.visit ? held.from : held.until;
    usedAt = Math.max(usedAt, held.until);
  }
  sleepUntil(until);
  return { times, wakes: wakes.length, ms, gibHours: gibHoursOf(memMib, ms) };
}

function heldTimes({ connections }: IdlePolicy, { uses, rests, from, until }: Recorded): readonly Held[] {
  const counted = uses.filter(
    ({ by }) => connections !== 'ignore' || (by !== 'ssh' && by !== 'upgrade' && by !== 'console'),
  );
  return [
    ...counted.map((use) => ({ from: use.from, until: use.until, visit: true })),
    ...rests.flatMap((rest): Held[] => {
      if (rest.how === 'off') return [{ from: rest.from, until: rest.until ?? until, visit: false }];
      // Whoever woke it wanted something, whatever it was.
      return rest.until === null ? [] : [{ from: rest.until, until: rest.until, visit: true }];
    }),
  ]
    .filter((held) => held.until >= from && held.from <= until)
    .map((held) => ({ ...held, from: Math.max(held.from, from), until: Math.min(held.until, until) }))
    .toSorted((a, b) => a.from - b.from);
}
