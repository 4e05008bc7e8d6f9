import { deadline } from '../base/deadline.ts';
import type { ExecCommand, ExecResult } from '../guest/agent.ts';
import { readFrom, tailFrom } from '../host/follow.ts';
import { Failure } from '../model/failure.ts';
import { CONSOLE_FILE } from '../vmm/driver.ts';
import type { Caller } from './hatch.ts';
import { translate } from './translate.ts';
import { findVm } from './vms.ts';
import { vmFolder, type World } from './world.ts';

/** How long the agent may take over a command's own timeout before we hold it for gone. */
const AGENT_SLACK_MS = 15_000;
/** How often a followed console is looked at. */
const FOLLOW_MS = 200;

/** Runs a command in a running guest through its agent. Throws `wrong_state`, `no_guest_agent`, `timeout`. */
export async function execIn(
  world: Pick<World, 'store' | 'fleet'>,
  caller: Caller,
  idOrName: string,
  command: ExecCommand,
): Promise<ExecResult> {
  const vm = await findVm(world, caller, idOrName);
  const live = vm.state === 'running' ? world.fleet.get(vm.id) : undefined;
  if (!live) {
    throw new Failure('wrong_state', `The VM is ${vm.state}; a command runs only in a running one.`, {
      details: { state: vm.state, allowed: ['running'] },
    });
  }
  try {
    return await deadline('the guest agent', command.timeoutMs + AGENT_SLACK_MS, (signal) =>
      live.agent.exec(command, signal),
    );
  } catch (error) {
    throw translate(error);
  }
}

/** The end of a VM's serial console, and where it ends. */
export async function consoleOf(
  world: Pick<World, 'store' | 'settings'>,
  caller: Caller,
  idOrName: string,
  tailBytes: number,
): Promise<{ readonly text: string; readonly offset: number }> {
  const vm = await findVm(world, caller, idOrName);
  return tailFrom(`${vmFolder(world.settings, vm.id)}/${CONSOLE_FILE}`, tailBytes);
}

/** What the console says after `offset`, as it comes, until the signal aborts or the VM is gone. */
export async function* followConsole(
  world: Pick<World, 'store' | 'settings' | 'clock'>,
  caller: Caller,
  idOrName: string,
  offset: number,
  signal: AbortSignal,
): AsyncIterable<string> {
  const vm = await findVm(world, caller, idOrName);
  const path = `${vmFolder(world.settings, vm.id)}/${CONSOLE_FILE}`;
  const decoder = new TextDecoder();
  for (let at = offset, rounds = 1; !signal.aborted; rounds++) {
    const more = await readFrom(path, at);
    at = more.offset;
    if (more.bytes.length > 0) {
      yield decoder.decode(more.bytes, { stream: true });
      continue;
    }
    if (rounds % 10 === 0 && !(await world.store.vms.get(vm.id))) return;
    try {
      await world.clock.sleep(FOLLOW_MS, signal);
    } catch (error) {
      if (signal.aborted) return;
      throw error;
    }
  }
}
