import { abortReason } from '../base/clock.ts';
import { raceAbort } from '../base/deadline.ts';
import type { VmId } from '../base/ids.ts';
import { readGuestFile, writeGuestFile, type FileDeps } from '../guest/guest-file.ts';
import { Failure } from '../model/failure.ts';
import type { GuestCalls } from './guest-calls.ts';
import { mustBeHere } from './elsewhere.ts';
import type { Live } from './fleet.ts';
import type { Caller, Visitor } from './hatch.ts';
import { liveOf, wakeFor } from './see-into.ts';
import { translate } from './translate.ts';
import { findVm, findVmForUse } from './vms.ts';
import type { Waker } from './waker.ts';
import type { World } from './world.ts';

/** So many files of a VM are on their way at once: its agent moves one piece after the other, and each has a few pieces in memory here. */
export const MOST_FILES = 8;

/**
 * Files of running guests, through their agents. Each counts as a use of its VM for as long as it is on its way; what stops the VM or puts
 * it to sleep ends it. Throws `wrong_state`, `busy`, `no_guest_agent`, `timeout`, as `Waker.wake`, as guest/guest-file.ts, and
 * `unavailable` with `retry_after_seconds` when too many are on their way.
 */
export function guestFiles(world: World, waker: Waker): Pick<GuestCalls, 'readFile' | 'writeFile'> {
  const underWay = new Map<VmId, number>();

  const enter = (id: VmId): (() => void) => {
    const before = underWay.get(id) ?? 0;
    if (before >= MOST_FILES)
      throw new Failure(
        'unavailable',
        `${MOST_FILES} files of this VM are on their way already; ask again when one has arrived.`,
        { details: { limit: MOST_FILES, retry_after_seconds: 1 } },
      );
    underWay.set(id, before + 1);
    const use = world.activity.begin(id, 'file');
    let left = false;
    return () => {
      if (left) return;
      left = true;
      use.end();
      const now = (underWay.get(id) ?? 1) - 1;
      if (now === 0) underWay.delete(id);
      else underWay.set(id, now);
    };
  };

  /** Does something with a guest, until the caller's signal aborts or the guest has ended. `work` calls `leave` when its file has arrived. */
  const begin = async <T>(
    caller: Caller,
    idOrName: string,
    { signal, visitor }: { readonly signal: AbortSignal; readonly visitor: Visitor | undefined },
    work: (deps: FileDeps, until: AbortSignal, leave: () => void) => Promise<T>,
  ): Promise<T> => {
    const { id } = await findVm(world, caller, idOrName);
    const leave = enter(id);
    let live: Live | undefined;
    try {
      if (visitor) await wakeFor(waker, id, visitor);
      const vm = await findVmForUse(world, caller, id);
      mustBeHere(world, vm);
      const woken = vm.state === 'snapshotted' ? ', and "wake=true" wakes it for that' : '';
      live = liveOf(world, vm, `files are read and written only in a running one${woken}`);
      const until = AbortSignal.any([signal, live.ended]);
      await raceAbort(live.commandable, until);
      return await work({ guest: live, log: world.log }, until, leave);
    } catch (error) {
      leave();
      if (signal.aborted) throw abortReason(signal);
      if (live?.ended.aborted)
        throw new Failure('wrong_state', 'The VM stopped running while the file was on its way.', {
          details: { allowed: ['running'] },
          cause: error,
        });
      throw translate(error);
    }
  };

  return {
    readFile: (caller, idOrName, path, signal, visitor) =>
      begin(caller, idOrName, { signal, visitor }, async (deps, until, leave) => {
        const found = await readGuestFile(deps, path, until);
        found.content.once('close', leave);
        return found;
      }),
    writeFile: (caller, idOrName, file, source, signal, visitor) =>
      begin(caller, idOrName, { signal, visitor }, async (deps, until, leave) => {
        const facts = await writeGuestFile(deps, file, source, until);
        leave();
        return facts;
      }),
  };
}
