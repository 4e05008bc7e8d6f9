import type { Asleep } from '../model/history.ts';
import type { HatchEvent } from '../model/records.ts';
import type { Slept } from '../model/simulate.ts';
import type { Vm } from '../model/vm.ts';

/** How a VM slept, and how it would have by another policy; times are milliseconds since 1970. */
export interface IdleSimulation {
  readonly vm: Vm;
  readonly from: number;
  readonly until: number;
  readonly was: Slept;
  readonly would: Slept;
}

/** Why a VM is awake or asleep, and what came of that; times are milliseconds since 1970. */
export interface WhyVm {
  readonly vm: Vm;
  /** What is so now: `awake` has the reason a VM stays awake, `idle` goes to sleep, the others do not run. */
  readonly now: {
    readonly is: 'awake' | 'idle' | 'asleep' | 'off' | 'changing';
    readonly reason: string | null;
    readonly message: string;
    /** Until when that holds if nothing happens. */
    readonly until: number | null;
    readonly signals: Readonly<Record<string, unknown>>;
  };
  /** What was written down of its sleep, newest first. */
  readonly events: readonly HatchEvent[];
  /** In all its life. */
  readonly asleep: Asleep;
  /** Of the last 30 days: how often somebody woke it, how many waited for that, and how long in milliseconds. */
  readonly waits: {
    readonly wakes: number;
    readonly visitors: number;
    readonly meanMs: number | null;
    readonly longestMs: number | null;
  };
}
