import type { Command } from 'commander';
import type { IdlePatch } from '../../contract/common.ts';
import { parseSeconds, parseWhole, UsageError } from './words.ts';

const ACTIONS = ['snapshot', 'stop', 'none'] as const;
const CONNECTIONS = ['hold', 'quiet', 'ignore'] as const;
const DAYS = ['mon', 'tue', 'wed', 'thu', 'fri', 'sat', 'sun'] as const;

/** What happens to a VM nobody uses, as typed. */
export interface IdleOptions {
  readonly idleTimeout?: string;
  readonly idleAction?: string;
  readonly idleConnections?: string;
  readonly cpuBelow?: string;
  readonly keepAwake?: readonly string[];
  /** False with --no-pin. */
  readonly pin?: boolean;
}

/** Adds them to a command. */
export function withIdle(command: Command): Command {
  return command
    .option('--idle-timeout <duration>', 'how long nobody may use it before it is idle')
    .option('--idle-action <action>', `what happens then: ${ACTIONS.join(', ')}`)
    .option('--idle-connections <how>', `what open connections mean: ${CONNECTIONS.join(', ')}`)
    .option('--cpu-below <percent>', 'it sleeps only while it uses less of its CPUs; off: whatever it uses')
    .option(
      '--keep-awake <window>',
      'when it does not sleep: "mon-fri 08:00-18:00 Europe/Berlin"; may be given again; never: at no time',
      (value: string, before: readonly string[] | undefined) => [...(before ?? []), value],
    )
    .option('--pin', 'it never sleeps unasked')
    .option('--no-pin', 'it may sleep');
}

/** What they ask for; undefined when nothing was said. Throws a UsageError naming the option. */
export function readIdle(options: IdleOptions): IdlePatch | undefined {
  const { idleTimeout, idleAction, idleConnections, cpuBelow, keepAwake, pin } = options;
  const patch: IdlePatch = {
    ...(idleTimeout === undefined ? {} : { timeout_seconds: parseSeconds('--idle-timeout', idleTimeout) }),
    ...(idleAction === undefined ? {} : { action: oneOf('--idle-action', ACTIONS, idleAction) }),
    ...(idleConnections === undefined
      ? {}
      : { connections: oneOf('--idle-connections', CONNECTIONS, idleConnections) }),
    ...(cpuBelow === undefined
      ? {}
      : { cpu_below: cpuBelow === 'off' ? null : parseWhole('--cpu-below', cpuBelow) }),
    ...(keepAwake === undefined
      ? {}
      : { keep_awake: keepAwake.filter((one) => one !== 'never').map(readWindow) }),
    ...(pin === undefined ? {} : { pinned: pin }),
  };
  return Object.keys(patch).length === 0 ? undefined : patch;
}

/** Reads `mon-fri,sun 08:00-18:00 Europe/Berlin`; days and zone may be left out: every day, and UTC. */
function readWindow(text: string): NonNullable<IdlePatch['keep_awake']>[number] {
  const [, days, from = '', to = '', zone] =
    /^(?:([a-z,-]+) +)?(\d\d:\d\d)-(\d\d:\d\d)(?: +(\S+))?$/.exec(text.trim()) ?? [];
  if (from === '')
    throw new UsageError(
      `--keep-awake must be days, times and a time zone such as "mon-fri 08:00-18:00 Europe/Berlin"; it is "${text}".`,
    );
  return {
    days: days === undefined ? [...DAYS] : days.split(',').flatMap(readDays),
    from,
    to,
    ...(zone === undefined ? {} : { time_zone: zone }),
  };
}

function readDays(text: string): readonly (typeof DAYS)[number][] {
  const [first = '', last = first] = text.split('-');
  const [begin, end] = [first, last].map((day) => DAYS.indexOf(oneOf('--keep-awake', DAYS, day)));
  if (begin === undefined || end === undefined) return [];
  // From Saturday to Monday goes over the end of the week.
  return begin <= end ? DAYS.slice(begin, end + 1) : [...DAYS.slice(begin), ...DAYS.slice(0, end + 1)];
}

function oneOf<T extends string>(option: string, all: readonly T[], text: string): T {
  const found = all.find((one) => one === text);
  if (found === undefined)
    throw new UsageError(`${option} must be one of ${all.join(', ')}; it is "${text}".`);
  return found;
}
