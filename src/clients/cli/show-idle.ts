import type { Idle } from '../../contract/common.ts';
import type { IdleSimulation, VmLease, VmWhy } from '../../contract/idle.ts';
import { formatFields, formatTable } from './table.ts';
import { age, duration } from './words.ts';

/** A policy in words: `snapshot after 600 s; connections: quiet; awake mon,tue 08:00-18:00 UTC`. */
export function showIdle({
  timeout_seconds: seconds,
  action,
  connections,
  pinned,
  cpu_below: cpu,
  keep_awake: windows = [],
}: Idle): string {
  const parts = [
    `${action} after ${seconds} s`,
    connections === 'hold' ? undefined : `connections: ${connections}`,
    cpu === undefined || cpu === null ? undefined : `below ${cpu} % CPU`,
    ...windows.map(
      ({ days, from, to, time_zone: zone = 'UTC' }) => `awake ${days.join(',')} ${from}-${to} ${zone}`,
    ),
    pinned ? 'pinned' : undefined,
  ];
  return parts.filter((part) => part !== undefined).join('; ');
}

/** Why a VM is awake or asleep, a line each, and its last sleeps and wakes below. `now` in milliseconds. */
export function showWhy({ now: is, events, asleep, waits }: VmWhy, now: number): string {
  const of = (kind: string): string | undefined => {
    const last = events.find((event) => event.kind === kind);
    return last && `${age(last.at, now)} ago. ${last.message}`;
  };
  const fields = formatFields({
    Now: `${is.is}. ${is.message}`,
    'Last slept': of('vm.slept'),
    'Last woken': of('vm.woken'),
    Asleep: asleep.times === 0 ? 'never' : `${asleep.times} times, ${duration(asleep.seconds)} in all`,
    Saved: `${asleep.gib_hours_saved} GiB-hours`,
    Waited: waits.mean_ms === undefined ? undefined : waited(waits),
  });
  if (events.length === 0) return fields;
  const table = formatTable(
    ['AGO', 'WHAT', 'WHY'],
    events.map(({ at, kind, message }) => [
      age(at, now),
      kind.replace('vm.', '').replaceAll('_', ' '),
      message,
    ]),
  );
  return `${fields}\n\n${table}`;
}

function waited({ wakes, visitors, mean_ms: mean = 0, longest_ms: longest = 0 }: VmWhy['waits']): string {
  return `${visitors} visitors at ${wakes} wakes, ${mean} ms on average, ${longest} ms at most`;
}

/** What became of a lease, in a sentence. */
export function showLease({ vm_id: id, leased_until: until }: VmLease): string {
  return until === undefined ? `${id} is not kept awake any more.` : `${id} is kept awake until ${until}.`;
}

/** How VMs slept and would have slept, and both sums below. */
export function showSimulation(all: readonly IdleSimulation[]): string {
  if (all.length === 0) return 'No VMs yet. Make one: hatch vm create';
  const row = (
    name: string,
    over: string | undefined,
    { was, would }: Pick<IdleSimulation, 'was' | 'would'>,
  ) => [
    name,
    over,
    was.sleeps,
    would.sleeps,
    duration(was.asleep_seconds),
    duration(would.asleep_seconds),
    was.gib_hours_saved,
    would.gib_hours_saved,
    was.wakes,
    would.wakes,
  ];
  const sum = (of: 'was' | 'would'): IdleSimulation['was'] => {
    const add = (field: keyof IdleSimulation['was']): number =>
      Math.round(all.reduce((so, one) => so + one[of][field], 0) * 1000) / 1000;
    return {
      sleeps: add('sleeps'),
      wakes: add('wakes'),
      asleep_seconds: add('asleep_seconds'),
      gib_hours_saved: add('gib_hours_saved'),
    };
  };
  const table = formatTable(
    ['VM', 'OVER', 'SLEEPS', 'WOULD', 'ASLEEP', 'WOULD', 'GIB-HOURS', 'WOULD', 'WAKES', 'WOULD'],
    [
      ...all.map((one) =>
        row(one.name ?? one.vm_id, duration((Date.parse(one.until) - Date.parse(one.from)) / 1000), one),
      ),
      ...(all.length > 1 ? [row('all', undefined, { was: sum('was'), would: sum('would') })] : []),
    ],
  );
  return `${table}\n\nAt each wake at least one visitor waits.`;
}
