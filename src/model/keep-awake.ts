/** The days of a week, as policies name them. */
export const DAYS = ['mon', 'tue', 'wed', 'thu', 'fri', 'sat', 'sun'] as const;
export type Day = (typeof DAYS)[number];

/** A time of the week in which a VM is not put to sleep. */
export interface KeepAwake {
  /** The days it begins on. */
  readonly days: readonly Day[];
  /** `HH:MM`. */
  readonly from: string;
  /** `HH:MM`, to 24:00; on the next day where it is not after `from`. */
  readonly to: string;
  /** An IANA name such as `Europe/Berlin`. */
  readonly timeZone: string;
}

const DAY_MINUTES = 24 * 60;
const MINUTE_MS = 60_000;

/**
 * Until when the latest of the windows lasts that a time (milliseconds since 1970) lies in; null: it lies in none. Within an hour of a change
 * of the clocks the end may be told an hour too early or too late; whether it lies in one is always right.
 */
export function keptAwakeUntil(windows: readonly KeepAwake[], at: number): number | null {
  const ends = windows.map((window) => minutesLeft(window, at)).filter((left) => left !== null);
  if (ends.length === 0) return null;
  return Math.floor(at / MINUTE_MS) * MINUTE_MS + Math.max(...ends) * MINUTE_MS;
}

function minutesLeft({ days, from, to, timeZone }: KeepAwake, at: number): number | null {
  const { day, minute } = localTime(timeZone, at);
  const [begin, end] = [minutesOf(from), minutesOf(to)];
  const before = DAYS[(DAYS.indexOf(day) + 6) % 7] ?? day;
  if (begin < end) return days.includes(day) && minute >= begin && minute < end ? end - minute : null;
  // It goes on after midnight.
  if (days.includes(day) && minute >= begin) return DAY_MINUTES - minute + end;
  return days.includes(before) && minute < end ? end - minute : null;
}

function localTime(timeZone: string, at: number): { readonly day: Day; readonly minute: number } {
  const parts = new Intl.DateTimeFormat('en-US', {
    timeZone,
    weekday: 'short',
    hour: '2-digit',
    minute: '2-digit',
    hourCycle: 'h23',
  }).formatToParts(at);
  const part = (type: string): string => parts.find((one) => one.type === type)?.value ?? '';
  const weekday = part('weekday').toLowerCase();
  const day = DAYS.find((one) => one === weekday);
  if (!day) throw new Error(`"${weekday}" is no day`);
  return { day, minute: Number(part('hour')) * 60 + Number(part('minute')) };
}

function minutesOf(time: string): number {
  return Number(time.slice(0, 2)) * 60 + Number(time.slice(3));
}

/** Whether this runtime knows a time zone of that name. */
export function isTimeZone(name: string): boolean {
  try {
    new Intl.DateTimeFormat('en-US', { timeZone: name });
    return true;
  } catch {
    return false;
  }
}
