import { deadline } from '../base/deadline.ts';
import { errorFields } from '../base/logger.ts';
import type { Vm } from '../model/vm.ts';
import type { Live } from './fleet.ts';
import type { World } from './world.ts';

/** How long a guest's agent may take to accept that it shall power off before the power button is pressed. */
const ASK_MS = 3000;
/** The part of its grace after which the button is pressed also for a guest whose agent took the request. */
const PATIENCE = 0.5;

/** One try at having a guest end, and when it was made. */
export interface Rung {
  readonly rung: 'agent' | 'power_button' | 'kill';
  /** Since the guest was first asked. */
  readonly ms: number;
  readonly message: string;
}

export interface Ladder {
  /** How long the guest may take. */
  readonly graceMs: number;
  readonly mode: 'powerdown' | 'reboot';
  /** Told of each rung as it is taken; the next is not taken before it resolves. */
  readonly onRung: (rung: Rung) => Promise<void>;
}

/**
 * Has a guest power off: asks its agent; presses its power button when the agent does not take the request, or the guest is
 * still there after half of its grace; and when that is over says that it must be killed, which is the caller's to do. True: it
 * has ended. Throws only when the daemon ends or the stop is overtaken by a deletion.
 */
export async function askToPowerOff(
  { driver, clock, log }: Pick<World, 'driver' | 'clock' | 'log'>,
  live: Live,
  { graceMs, mode, onRung }: Ladder,
  signal: AbortSignal,
): Promise<boolean> {
  const started = clock.steady();
  const take = async (rung: Rung['rung'], message: string): Promise<void> => {
    try {
      await onRung({ rung, ms: Math.round(clock.steady() - started), message });
    } catch (error) {
      log.warn(
        { vm: live.machine.vmId, rung, ...errorFields(error) },
        'could not note how a guest is stopped',
      );
    }
  };
  const climb = async (within: AbortSignal): Promise<void> => {
    await take('agent', `Asked the guest's agent to ${mode === 'reboot' ? 'reboot' : 'power off'}.`);
    const taken = await ask(live, mode, log, within);
    if (!driver.capabilities.powerButton) return;
    if (taken) await clock.sleep(Math.max(0, started + graceMs * PATIENCE - clock.steady()), within);
    // An agent whose guest has gone down falls silent too.
    if (within.aborted || live.exit) return;
    const why = taken ? 'The guest takes its time' : 'The agent did not take the request';
    await take('power_button', `${why}; pressed its power button.`);
    await live.machine
      .powerButton()
      .catch((broken: unknown) =>
        log.warn({ vm: live.machine.vmId, ...errorFields(broken) }, 'could not press the power button'),
      );
  };
  if (hasEnded(live)) return true;
  const over = new AbortController();
  try {
    if (graceMs > 0)
      await deadline(
        'the guest',
        graceMs,
        (within) => {
          const climbing = climb(AbortSignal.any([within, over.signal]));
          return Promise.race([climbing.then(() => live.machine.exited), live.machine.exited]);
        },
        signal,
      );
  } catch (error) {
    if (signal.aborted) throw error;
  } finally {
    over.abort(new Error('the guest has ended, or its time is over'));
  }
  if (hasEnded(live)) return true;
  await take('kill', graceMs > 0 ? 'The guest is still there; cut it off.' : 'Cut the guest off unasked.');
  return false;
}

/** What onRung does for a VM: an event of this kind for each rung. */
export function noteRungs(
  { store }: Pick<World, 'store'>,
  vm: Vm,
  kind: 'vm.stopping' | 'vm.rebooting',
): Ladder['onRung'] {
  return async ({ message, ...data }) => {
    await store.events.add({ accountId: vm.accountId, vmId: vm.id, kind, message, data });
  };
}

/** Whether the agent took the request: one whose guest goes down at once does not say so. */
async function ask(
  live: Live,
  mode: Ladder['mode'],
  log: World['log'],
  signal: AbortSignal,
): Promise<boolean> {
  try {
    await deadline('asking the agent', ASK_MS, (within) => live.agent.shutdown(mode, within), signal);
    return true;
  } catch (error) {
    log.debug({ vm: live.machine.vmId, error: String(error) }, 'the agent did not take the request');
    return false;
  }
}

function hasEnded({ exit }: Live): boolean {
  return exit !== undefined;
}
