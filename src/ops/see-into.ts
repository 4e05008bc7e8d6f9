import { deadline, raceAbort } from '../base/deadline.ts';
import { AgentGone, type ExecCommand, type ExecResult } from '../guest/agent.ts';
import { readFrom, tailFrom } from '../host/follow.ts';
import { Failure } from '../model/failure.ts';
import type { Vm } from '../model/vm.ts';
import { CONSOLE_FILE } from '../vmm/driver.ts';
import { isGood } from './accounts.ts';
import { mustBeHere } from './elsewhere.ts';
import type { Live } from './fleet.ts';
import { busy } from './flights.ts';
import type { Caller, Visitor, VmMetrics } from './hatch.ts';
import { translate } from './translate.ts';
import { findVm, findVmForUse } from './vms.ts';
import type { Waker } from './waker.ts';
import type { World } from './world.ts';
import { vmFolder } from './settings.ts';

/** How long the agent may take over a command's own timeout before we hold it for gone. */
const AGENT_SLACK_MS = 15_000;
/** How long the hypervisor and the host's network may take to tell their counters. */
const COUNT_MS = 5000;
/** How often a followed console is looked at. */
const FOLLOW_MS = 200;
/** How often it is looked whether it may still be followed: a revoked key is dead within a second. */
const MAY_MS = 800;

/** A wake nobody has had an end of by then is no longer waited for. */
const WAKE_MS = 60_000;

type ExecDeps = Pick<World, 'store' | 'fleet' | 'settings' | 'activity' | 'flights'>;

/**
 * Runs a command in a running guest through its agent; for a `visitor` it is woken first. Throws `wrong_state`, `busy`,
 * `no_guest_agent`, `timeout`, and as `Waker.wake`.
 */
export async function execIn(
  world: ExecDeps,
  waker: Waker,
  caller: Caller,
  idOrName: string,
  command: ExecCommand,
  visitor?: Visitor,
): Promise<ExecResult> {
  const { id } = await findVm(world, caller, idOrName);
  const use = world.activity.begin(id, 'exec');
  try {
    if (visitor) await wakeFor(waker, id, visitor);
    const vm = await findVmForUse(world, caller, id);
    return await runIn(world, vm, command);
  } finally {
    use.end();
  }
}

async function runIn(world: ExecDeps, vm: Vm, command: ExecCommand): Promise<ExecResult> {
  mustBeHere(world, vm);
  const live = liveOf(
    world,
    vm,
    `a command runs only in a running one${vm.state === 'snapshotted' ? ', and "wake=true" wakes it for that' : ''}`,
  );
  try {
    return await deadline('the guest agent', command.timeoutMs + AGENT_SLACK_MS, async (signal) => {
      await raceAbort(live.commandable, signal);
      return live.agent.exec(command, signal);
    });
  } catch (error) {
    throw error instanceof AgentGone ? await whySilent(world, vm, live, error) : translate(error);
  }
}

/** Why a guest's agent did not answer, by what has become of its VM. */
async function whySilent(
  { store }: Pick<World, 'store'>,
  { id }: Vm,
  live: Live,
  cause: AgentGone,
): Promise<Failure> {
  const now = await store.vms.get(id);
  const state = now?.state ?? 'deleted';
  if (state !== 'running' || live.ended.aborted)
    return new Failure(
      'wrong_state',
      state === 'running'
        ? 'The guest ended while the command ran; the VM has been started anew since.'
        : `The VM is ${state} by now: the command was cut short, or sleeps with it.`,
      { details: { state, allowed: ['running'] }, cause },
    );
  if (now?.readyAt === null)
    return new Failure(
      'unavailable',
      'The guest has not answered since it was started: it still boots, or has no agent. Ask again, or wait for it first (`?wait=ready`).',
      { cause },
    );
  return translate(cause);
}

/** Wakes a VM for a visitor; who is turned away is noted. Throws as `Waker.wake`, and `timeout`. */
export async function wakeFor(waker: Waker, id: Vm['id'], visitor: Visitor): Promise<void> {
  try {
    await deadline('waking the VM', WAKE_MS, (signal) => waker.wake(id, visitor, signal));
  } catch (error) {
    const failure = translate(error);
    await waker.refusals.note(id, visitor, failure);
    throw failure;
  }
}

/** What a running VM has used. Throws `wrong_state`, `busy`, `vmm_failed`, `timeout`, `unavailable`. */
export async function metricsOf(
  world: Pick<World, 'store' | 'fleet' | 'net' | 'clock' | 'settings'>,
  caller: Caller,
  idOrName: string,
): Promise<VmMetrics> {
  const vm = await findVm(world, caller, idOrName);
  mustBeHere(world, vm);
  const { machine } = liveOf(world, vm, 'only a running one uses anything');
  try {
    const [counters, traffic] = await deadline('counting what the VM has used', COUNT_MS, () =>
      Promise.all([machine.counters(), vm.network === null ? null : world.net.traffic(vm.id)]),
    );
    return { vmId: vm.id, at: world.clock.now(), memMib: vm.memMib, machine: counters, traffic };
  } catch (error) {
    throw translate(error);
  }
}

/** The guest of a VM that runs; `rule` ends the sentence of the refusal. */
export function liveOf({ fleet }: Pick<World, 'fleet'>, vm: Vm, rule: string): Live {
  if (vm.state !== 'running')
    throw new Failure('wrong_state', `The VM is ${vm.state}; ${rule}.`, {
      details: { state: vm.state, allowed: ['running'] },
    });
  const live = fleet.get(vm.id);
  if (live) return live;
  // A reboot stays `running` and has no guest for a moment; another change has overtaken what we read.
  if (vm.operation !== null) throw busy(vm.operation.verb);
  throw new Failure('unavailable', 'The VM changed in the meantime; ask again.');
}

/** The end of a VM's serial console, and where it ends. */
export async function consoleOf(
  world: Pick<World, 'store' | 'settings'>,
  caller: Caller,
  idOrName: string,
  tailBytes: number,
): Promise<{ readonly text: string; readonly offset: number }> {
  const vm = await findVm(world, caller, idOrName);
  mustBeHere(world, vm);
  return tailFrom(`${vmFolder(world.settings, vm.id)}/${CONSOLE_FILE}`, tailBytes);
}

/**
 * What the console says after `offset`, as it comes, until the signal aborts or the VM is gone. Throws `unauthorized` when the
 * caller's key is revoked or expires meanwhile.
 */
export async function* followConsole(
  world: Pick<World, 'store' | 'settings' | 'clock' | 'activity'>,
  caller: Caller,
  idOrName: string,
  offset: number,
  signal: AbortSignal,
): AsyncIterable<string> {
  const vm = await findVm(world, caller, idOrName);
  mustBeHere(world, vm);
  const use = world.activity.begin(vm.id, 'console');
  try {
    for await (const text of follow(world, caller, vm, offset, signal)) {
      use.payload();
      yield text;
    }
  } finally {
    use.end();
  }
}

async function* follow(
  world: Pick<World, 'store' | 'settings' | 'clock'>,
  caller: Caller,
  vm: Vm,
  offset: number,
  signal: AbortSignal,
): AsyncIterable<string> {
  const { store, settings, clock } = world;
  const path = `${vmFolder(settings, vm.id)}/${CONSOLE_FILE}`;
  const decoder = new TextDecoder();
  let looked = clock.steady();
  for (let at = offset; !signal.aborted;) {
    if (clock.steady() - looked >= MAY_MS) {
      looked = clock.steady();
      if (!(await store.vms.get(vm.id))) return;
      if (!isGood(await store.keys.get(caller.accountId, caller.keyId), clock))
        throw new Failure('unauthorized', 'This API key has been revoked or has expired.');
    }
    const more = await readFrom(path, at);
    at = more.offset;
    if (more.bytes.length > 0) {
      yield decoder.decode(more.bytes, { stream: true });
      continue;
    }
    try {
      await clock.sleep(FOLLOW_MS, signal);
    } catch (error) {
      if (signal.aborted) return;
      throw error;
    }
  }
}
