import { deadline } from '../base/deadline.ts';
import { errorFields } from '../base/logger.ts';
import { askIfBusy } from '../guest/busy.ts';
import type { Vm } from '../model/vm.ts';
import type { World } from './world.ts';

/** How long a guest has to say whether it is busy, in milliseconds. */
const BUSY_MS = 10_000;

/**
 * Asks the guest of a VM that would be put to sleep whether it is busy, and remembers for how long. One that cannot be asked says nothing, and
 * sleeps. Rejects with the signal's reason.
 */
export async function isGuestBusy(
  { fleet, activity, log }: Pick<World, 'fleet' | 'activity' | 'log'>,
  { id, readyAt }: Vm,
  signal: AbortSignal,
): Promise<boolean> {
  const live = fleet.get(id);
  if (!live || readyAt === null) return false;
  try {
    const ms = await deadline(
      'asking a guest whether it is busy',
      BUSY_MS,
      (until) => askIfBusy(live.agent, until),
      signal,
    );
    if (ms > 0) activity.guestBusy(id, ms);
    return ms > 0;
  } catch (error) {
    signal.throwIfAborted();
    log.debug({ vm: id, ...errorFields(error) }, 'a guest could not be asked whether it is busy');
    return false;
  }
}
