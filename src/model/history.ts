import type { VmId } from '../base/ids.ts';
import type { WayIn } from './activity.ts';
import type { Vm } from './vm.ts';

/** How a VM does not run: asleep as a snapshot, stopped because nobody used it, or off for another reason. */
export const RESTS = ['snapshot', 'stop', 'off'] as const;

/** A time in which a VM did not run; milliseconds since 1970. */
export interface Rest {
  readonly vmId: VmId;
  readonly how: (typeof RESTS)[number];
  /** The memory it would have had. */
  readonly memMib: number;
  readonly from: number;
  /** null: it goes on. */
  readonly until: number | null;
}

/** A use that begins so soon after another of its way ended goes on as that, in milliseconds. */
export const SPAN_GAP_MS = 60_000;

/**
 * A time in which a VM was used one way, as good as without a break; milliseconds since 1970. `lease`: somebody said that it was busy; `api`:
 * something was done with it.
 */
export interface UseSpan {
  readonly vmId: VmId;
  readonly by: WayIn | 'lease' | 'api';
  readonly from: number;
  readonly until: number;
}

/** Adds a use to a list of them that ended before it, as a part of the last of its way where that was a moment ago. */
export function addSpan<S extends Pick<UseSpan, 'by' | 'from' | 'until'>>(spans: S[], span: S): void {
  const at = spans.findLastIndex(({ by }) => by === span.by);
  const last = spans[at];
  if (last && span.from - last.until < SPAN_GAP_MS)
    spans[at] = {
      ...last,
      from: Math.min(last.from, span.from),
      until: Math.max(last.until, span.until),
    };
  else spans.push(span);
}

/** How a VM rests; null: it does not. */
export function restOf({ state, stoppedBy }: Pick<Vm, 'state' | 'stoppedBy'>): Rest['how'] | null {
  switch (state) {
    case 'snapshotted':
      return 'snapshot';
    case 'stopped':
      return stoppedBy === 'policy' ? 'stop' : 'off';
    case 'error':
      return 'off';
    case 'starting':
    case 'running':
    case 'stopping':
      return null;
  }
}

/** What rests that count as sleep come to. */
export interface Asleep {
  readonly times: number;
  readonly ms: number;
  /** Memory that was not needed, times how long: GiB-hours. */
  readonly gibHours: number;
}

/** Sums up how long a VM slept from one time to another. */
export function asleepIn(rests: readonly Rest[], from: number, until: number): Asleep {
  let [times, ms, gibHours] = [0, 0, 0];
  for (const rest of rests) {
    const slept = Math.min(rest.until ?? until, until) - Math.max(rest.from, from);
    if (rest.how === 'off' || slept < 0) continue;
    if (rest.from >= from) times++;
    ms += slept;
    gibHours += gibHoursOf(rest.memMib, slept);
  }
  return { times, ms, gibHours };
}

/** So much memory for so long, in GiB-hours. */
export function gibHoursOf(memMib: number, ms: number): number {
  return (memMib / 1024) * (ms / 3_600_000);
}
