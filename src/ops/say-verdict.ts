import type { WayIn } from '../model/activity.ts';
import { STAYS_AWAKE_MS, type Decision } from '../model/idle.ts';

const USES = {
  http: 'HTTP requests',
  upgrade: 'a WebSocket or another upgraded connection',
  ssh: 'SSH',
  exec: 'a command',
  file: 'a file on its way in or out',
  console: 'a followed console',
} as const satisfies Record<WayIn, string>;

/** Why a VM stays awake or goes to sleep, in a sentence. */
export function sayVerdict({ policy, signals, verdict }: Decision): string {
  const idle = seconds(verdict.idleMs);
  if (verdict.sleep) return `Nobody has used it for ${idle} s: it goes to sleep at the next look.`;
  const left = verdict.until === null ? 0 : seconds(verdict.until - signals.now);
  switch (verdict.reason) {
    case 'pinned':
      return 'It is pinned, and never sleeps unasked.';
    case 'no_action':
      return 'Its idle action is "none": it never sleeps unasked.';
    case 'operation':
      return `It stays awake while something is under way on it: ${verdict.verb}.`;
    case 'in_use':
      return `It is in use by ${verdict.by.map((way) => USES[way]).join(', ')}.`;
    case 'leased':
      return `Somebody has said that it is busy, for another ${left} s.`;
    case 'guest_busy':
      return `Its guest says that it is busy, for another ${left} s.`;
    case 'keep_awake':
      return `Its policy keeps it awake at this time, for another ${left} s.`;
    case 'cpu':
      return signals.activity.cpuPercent === null
        ? 'How much CPU it uses is not known yet.'
        : `It uses ${tenths(signals.activity.cpuPercent)} % of its CPUs, and sleeps below ${policy.cpuBelow ?? 0} %.`;
    case 'used':
      return `It was last used ${idle} s ago, and is idle after ${policy.timeoutSeconds} s: in ${left} s.`;
    case 'booting':
      return `Its guest has not answered yet: it boots, and is given another ${left} s.`;
    case 'just_woken':
      return `It was woken or started a moment ago, and stays awake for another ${left} s${
        left * 1000 > STAYS_AWAKE_MS ? ', for it is woken again and again' : ''
      }.`;
    case 'cannot_save':
      return 'It stays awake: the hypervisor of this host cannot save machines. Set its idle action to "stop" or "none".';
    case 'failed':
      return `It could not be put to sleep, which is tried again in ${left} s.`;
  }
}

/** What a decision was made on, as an event's data: for programs, in seconds. */
export function signalsOf({ policy, signals, verdict }: Decision): Readonly<Record<string, unknown>> {
  const { now, activity } = signals;
  const { leasedUntil } = activity;
  return {
    ...(verdict.sleep ? {} : { reason: verdict.reason }),
    idle_seconds: seconds(verdict.idleMs),
    timeout_seconds: policy.timeoutSeconds,
    action: policy.action,
    connections: policy.connections,
    awake_seconds: seconds(now - activity.awakeSince),
    wakes_in_last_hour: activity.wakesInLastHour,
    open: activity.open.map(({ by, since, lastPayloadAt }) => ({
      by,
      seconds: seconds(now - since),
      quiet_seconds: seconds(now - lastPayloadAt),
    })),
    ...(policy.cpuBelow === null || signals.activity.cpuPercent === null
      ? {}
      : { cpu_percent: tenths(signals.activity.cpuPercent), cpu_below: policy.cpuBelow }),
    ...(leasedUntil !== null && leasedUntil > now ? { leased_seconds: seconds(leasedUntil - now) } : {}),
  };
}

function tenths(value: number): number {
  return Math.round(value * 10) / 10;
}

function seconds(ms: number): number {
  return Math.round(ms / 1000);
}
