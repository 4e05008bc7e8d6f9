import type { Decision, IdleSignals, Verdict } from '../model/idle.ts';
import type { IdlePolicy, Vm } from '../model/vm.ts';
import type { World } from './world.ts';

/** When and by whom a VM is decided about. */
export interface Asking {
  /** Milliseconds of the steady clock. */
  readonly now: number;
  /** Until when it is left alone after it could not be put to sleep, on the same clock; null: it is not. */
  readonly failedUntil: number | null;
  readonly decide: (policy: IdlePolicy, signals: IdleSignals) => Verdict;
}

/** Decides about a VM by all that is known of it at this moment. */
export function decideNow(
  { activity, driver, flights, settings, clock }: World,
  vm: Vm,
  { now, failedUntil, decide }: Asking,
): Decision {
  const policy = vm.idle ?? settings.idle;
  const signals: IdleSignals = {
    now,
    activity: activity.of(vm.id),
    // What has just begun may not be in the row that was read.
    operation: vm.operation?.verb ?? flights.verbOf(vm.id) ?? null,
    answered: vm.readyAt !== null,
    wallNow: clock.now(),
    canSave: driver.capabilities.snapshot,
    failedUntil,
  };
  return { policy, signals, verdict: decide(policy, signals) };
}
