/** How a VM is used: each is one connection, request or command that is open for as long as it is used so. */
export const WAYS_IN = ['http', 'upgrade', 'ssh', 'exec', 'file', 'console'] as const;
export type WayIn = (typeof WAYS_IN)[number];

/** One use of a VM that is open now; times are milliseconds of a clock that only goes forward. */
export interface OpenUse {
  readonly by: WayIn;
  readonly since: number;
  /** When something last went through it. */
  readonly lastPayloadAt: number;
}

/** What is known of the use of a VM; times are milliseconds of a clock that only goes forward. */
export interface Activity {
  /** Goes up with every use that begins, every lease and every wake: a decision made on another version is void. */
  readonly version: number;
  readonly open: readonly OpenUse[];
  /** When it was last used, or began to run; an open use counts as now only by the policy. */
  readonly lastUsedAt: number;
  /** When it was last woken or started, as far as this process knows. */
  readonly awakeSince: number;
  /** How often that was within the last hour. */
  readonly wakesInLastHour: number;
  /** Until when somebody has said that it is busy, also once that is over; null: nobody. */
  readonly leasedUntil: number | null;
  /** Until when its guest said that it is busy when it was last asked; null: it did not. */
  readonly guestBusyUntil: number | null;
  /** How much of its vCPUs it used between the last two times that was measured, in percent; null: not known. */
  readonly cpuPercent: number | null;
}
