import type * as contract from '../contract/idle.ts';
import type { Slept } from '../model/simulate.ts';
import type { Vm } from '../model/vm.ts';
import type { IdleSimulation, WhyVm } from '../ops/idle-answers.ts';
import { presentEvent, rfc3339 } from './present.ts';

/** A lease as the API shows it. */
export function presentLease({
  vm,
  until,
}: {
  readonly vm: Pick<Vm, 'id'>;
  readonly until: number | null;
}): contract.VmLease {
  return { vm_id: vm.id, ...(until === null ? {} : { leased_until: rfc3339(until) }) };
}

/** Why a VM is awake or asleep, as the API shows it. */
export function presentWhy({ vm, now, events, asleep, waits }: WhyVm): contract.VmWhy {
  return {
    vm_id: vm.id,
    state: vm.state,
    now: {
      is: now.is,
      ...(now.reason === null ? {} : { reason: now.reason }),
      message: now.message,
      ...(now.until === null ? {} : { until: rfc3339(now.until) }),
      signals: { ...now.signals },
    },
    events: events.map(presentEvent),
    asleep: {
      times: asleep.times,
      seconds: Math.round(asleep.ms / 1000),
      gib_hours_saved: thousandths(asleep.gibHours),
    },
    waits: {
      wakes: waits.wakes,
      visitors: waits.visitors,
      ...(waits.meanMs === null ? {} : { mean_ms: waits.meanMs }),
      ...(waits.longestMs === null ? {} : { longest_ms: waits.longestMs }),
    },
  };
}

/** A simulation as the API shows it. */
export function presentSimulation({ vm, from, until, was, would }: IdleSimulation): contract.IdleSimulation {
  return {
    vm_id: vm.id,
    ...(vm.name === null ? {} : { name: vm.name }),
    from: rfc3339(from),
    until: rfc3339(until),
    was: presentSlept(was),
    would: presentSlept(would),
  };
}

function presentSlept({ times, wakes, ms, gibHours }: Slept): contract.IdleSimulation['was'] {
  return {
    sleeps: times,
    wakes,
    asleep_seconds: Math.round(ms / 1000),
    gib_hours_saved: thousandths(gibHours),
  };
}

function thousandths(value: number): number {
  return Math.round(value * 1000) / 1000;
}
