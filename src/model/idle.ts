import type { Activity, OpenUse, WayIn } from './activity.ts';
import { keptAwakeUntil } from './keep-awake.ts';
import type { IdlePolicy, Verb } from './vm.ts';

/** A connection through which nothing went for so long does not count where the policy says `quiet`; in milliseconds. */
export const QUIET_MS = 600_000;
/** A VM that was just woken or started stays awake at least so long, in milliseconds; twice that when it is woken again and again. */
export const STAYS_AWAKE_MS = 60_000;
/** More wakes than this within an hour are "again and again". */
export const MANY_WAKES = 6;

/** A guest that has not answered yet is booting, for as long as this at most, in milliseconds; some never answer. */
export const BOOTS_MS = 300_000;

/** What a decision is made on; times are milliseconds of a clock that only goes forward. */
export interface IdleSignals {
  readonly now: number;
  readonly activity: Activity;
  /** What is under way on the VM. */
  readonly operation: Verb | null;
  /** Whether the guest has answered since it was started. */
  readonly answered: boolean;
  /** Whether its hypervisor can save machines. */
  readonly canSave: boolean;
  /** Milliseconds since 1970, for the windows of the policy. */
  readonly wallNow: number;
  /** Until when it is left alone after it could not be put to sleep; null: it is not. */
  readonly failedUntil: number | null;
}

/** Why a VM stays awake. */
export type StaysAwake =
  | { readonly reason: 'pinned' | 'no_action' | 'cannot_save' }
  | { readonly reason: 'operation'; readonly verb: Verb }
  | { readonly reason: 'in_use'; readonly by: readonly WayIn[] }
  | {
      readonly reason:
        'used' | 'leased' | 'guest_busy' | 'keep_awake' | 'booting' | 'just_woken' | 'cpu' | 'failed';
    };

/** What becomes of a VM now. */
export type Verdict =
  | { readonly sleep: true; readonly action: 'snapshot' | 'stop'; readonly idleMs: number }
  | (StaysAwake & {
      readonly sleep: false;
      readonly idleMs: number;
      /** Nobody has used it for as long as its policy says, and it stays awake all the same. */
      readonly refused: boolean;
      /** When it is worth looking again; null: when something has changed. */
      readonly until: number | null;
    });

/** What was decided about a VM, and on what. */
export interface Decision {
  readonly policy: IdlePolicy;
  readonly signals: IdleSignals;
  readonly verdict: Verdict;
}

/**
 * Decides whether a VM goes to sleep. Open uses that count, a lease and an operation keep it awake; else it sleeps when nobody has used it
 * for `timeoutSeconds`, unless it still boots, its time, its guest or its CPU keep it awake, it was just woken, or cannot sleep.
 */
export function decideIdle(policy: IdlePolicy, signals: IdleSignals): Verdict {
  const { now, activity, operation, canSave, failedUntil } = signals;
  const idleMs = now - lastUse(policy, activity, now);
  const due = idleMs >= policy.timeoutSeconds * 1000;
  const stays = (why: StaysAwake, until: number | null = null, refused = due): Verdict => ({
    ...why,
    sleep: false,
    idleMs,
    refused,
    until,
  });
  // What the VM was made for is no refusal.
  if (policy.pinned) return stays({ reason: 'pinned' }, null, false);
  if (policy.action === 'none') return stays({ reason: 'no_action' }, null, false);
  if (operation !== null) return stays({ reason: 'operation', verb: operation });
  const counted = activity.open.filter((use) => counts(use, policy, now));
  if (counted.length > 0)
    return stays(
      { reason: 'in_use', by: [...new Set(counted.map(({ by }) => by))] },
      quietAt(counted, policy),
      false,
    );
  const bootsUntil = activity.awakeSince + BOOTS_MS;
  if (!signals.answered && bootsUntil > now) return stays({ reason: 'booting' }, bootsUntil, false);
  const { leasedUntil } = activity;
  if (leasedUntil !== null && leasedUntil > now) return stays({ reason: 'leased' }, leasedUntil);
  const mayFrom = activity.awakeSince + staysAwakeMs(activity.wakesInLastHour);
  const dueFrom = now - idleMs + policy.timeoutSeconds * 1000;
  if (!due && dueFrom >= mayFrom) return stays({ reason: 'used' }, dueFrom);
  if (mayFrom > now) return stays({ reason: 'just_woken' }, mayFrom);
  const windowEnds = keptAwakeUntil(policy.keepAwake, signals.wallNow);
  if (windowEnds !== null) return stays({ reason: 'keep_awake' }, now + windowEnds - signals.wallNow);
  const { guestBusyUntil, cpuPercent } = activity;
  if (guestBusyUntil !== null && guestBusyUntil > now) return stays({ reason: 'guest_busy' }, guestBusyUntil);
  // Not measured yet is no leave to sleep.
  if (policy.cpuBelow !== null && (cpuPercent === null || cpuPercent >= policy.cpuBelow))
    return stays({ reason: 'cpu' });
  if (policy.action === 'snapshot' && !canSave) return stays({ reason: 'cannot_save' });
  if (failedUntil !== null && failedUntil > now) return stays({ reason: 'failed' }, failedUntil);
  return { sleep: true, action: policy.action, idleMs };
}

/**
 * Decides whether a VM may be put to sleep because its memory is needed: as `decideIdle`, but its timeout is not waited for. Whatever else
 * keeps it awake does so here too, its first minute awake among that: two VMs that want the same room would else take turns at it.
 */
export function decideUnderPressure(policy: IdlePolicy, signals: IdleSignals): Verdict {
  return decideIdle({ ...policy, timeoutSeconds: 0 }, signals);
}

/** How long a VM stays awake at least after a wake, in milliseconds, when there were so many within the last hour. */
export function staysAwakeMs(wakesInLastHour: number): number {
  return wakesInLastHour > MANY_WAKES ? 2 * STAYS_AWAKE_MS : STAYS_AWAKE_MS;
}

/** Whether an open use keeps its VM awake by a policy. Requests, commands and files on their way always do: somebody waits for their end. */
function counts(use: OpenUse, { connections }: IdlePolicy, now: number): boolean {
  if (!isConnection(use)) return true;
  if (connections === 'quiet') return now - use.lastPayloadAt < QUIET_MS;
  return connections === 'hold';
}

function isConnection({ by }: OpenUse): boolean {
  return by !== 'http' && by !== 'exec' && by !== 'file';
}

/** When the last of some uses that count no longer does if nothing goes through them; null: not by itself. */
function quietAt(uses: readonly OpenUse[], { connections }: IdlePolicy): number | null {
  if (connections !== 'quiet' || !uses.every(isConnection)) return null;
  return Math.max(...uses.map(({ lastPayloadAt }) => lastPayloadAt)) + QUIET_MS;
}

/** When a VM was last used by a policy: now, for one that is. */
function lastUse(policy: IdlePolicy, { open, lastUsedAt, leasedUntil }: Activity, now: number): number {
  const payloads = policy.connections === 'quiet' ? open.map(({ lastPayloadAt }) => lastPayloadAt) : [];
  const uses = open.some((use) => counts(use, policy, now)) ? [now] : payloads;
  // A lease is a use that ends by itself.
  return Math.max(lastUsedAt, ...uses, leasedUntil === null ? 0 : Math.min(leasedUntil, now));
}
