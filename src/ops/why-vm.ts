import { asleepIn, restOf } from '../model/history.ts';
import type { HatchEvent } from '../model/records.ts';
import { OPERATION_NAMES, type Vm } from '../model/vm.ts';
import { mustBeHere } from './elsewhere.ts';
import type { Caller } from './hatch.ts';
import type { WhyVm } from './idle-answers.ts';
import { SLEEP_EVENTS } from './note-sleep.ts';
import { sayVerdict, signalsOf } from './say-verdict.ts';
import type { Sleeper } from './sleeper.ts';
import { findVm } from './vms.ts';
import type { World } from './world.ts';

/** How many of the last events are told, and of how many wakes it is said how long they took. */
const MOST = { events: 20, wakes: 1000 } as const;

/** Says why a VM is awake or asleep. Asking is no use of it. Throws `wrong_host` for one that is awake elsewhere. */
export async function whyVm(
  world: Pick<World, 'store' | 'settings' | 'clock'>,
  sleeper: Sleeper,
  caller: Caller,
  idOrName: string,
): Promise<WhyVm> {
  const { store, clock } = world;
  const vm = await findVm(world, caller, idOrName);
  const at = clock.now();
  const about = { vmId: vm.id };
  const [events, woken, rests] = await Promise.all([
    store.events.list({ ...about, kinds: SLEEP_EVENTS }, { limit: MOST.events }),
    store.events.list({ ...about, kind: 'vm.woken' }, { limit: MOST.wakes }),
    store.history.rests(vm.id),
  ]);
  if (vm.state === 'running') mustBeHere(world, vm);
  return {
    vm,
    now: vm.state === 'running' ? runningNow(sleeper, vm, at) : restingNow(vm),
    events,
    asleep: asleepIn(rests, 0, at),
    waits: waitsOf(woken),
  };
}

function runningNow(sleeper: Sleeper, vm: Vm, at: number): WhyVm['now'] {
  const decision = sleeper.decide(vm);
  const { verdict, signals } = decision;
  return {
    is: verdict.sleep ? 'idle' : 'awake',
    reason: verdict.sleep ? null : verdict.reason,
    message: sayVerdict(decision),
    until: verdict.sleep || verdict.until === null ? null : Math.round(at + verdict.until - signals.now),
    signals: signalsOf(decision),
  };
}

function restingNow(vm: Vm): WhyVm['now'] {
  const now = { reason: null, until: null, signals: {} };
  if (vm.operation !== null)
    return { ...now, is: 'changing', message: `It is ${OPERATION_NAMES[vm.operation.verb]}.` };
  switch (restOf(vm)) {
    case 'snapshot':
      return { ...now, is: 'asleep', message: 'It sleeps as a snapshot, and wakes for whoever may wake it.' };
    case 'stop':
      return {
        ...now,
        is: 'asleep',
        message: 'It was stopped because nobody used it; who comes by starts it.',
      };
    case 'off':
      return vm.state === 'error'
        ? {
            ...now,
            is: 'off',
            message: `It is in error${vm.stateReason ? `: ${vm.stateReason.message}` : '.'}`,
          }
        : { ...now, is: 'off', message: 'It is stopped, and only a start by its owner brings it up.' };
    case null:
      return { ...now, is: 'changing', message: `It is ${vm.state}.` };
  }
}

function waitsOf(woken: readonly HatchEvent[]): WhyVm['waits'] {
  const number = (value: unknown): number => (typeof value === 'number' ? value : 0);
  const times = woken.map(({ data }) => number(data['waited_ms']));
  const sum = times.reduce((one, other) => one + other, 0);
  return {
    wakes: woken.length,
    visitors: woken.reduce((all, { data }) => all + Math.max(1, number(data['waiters'])), 0),
    meanMs: times.length === 0 ? null : Math.round(sum / times.length),
    longestMs: times.length === 0 ? null : Math.max(...times),
  };
}
