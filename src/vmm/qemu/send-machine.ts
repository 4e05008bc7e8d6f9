import { systemClock } from '../../base/clock.ts';
import { deadline } from '../../base/deadline.ts';
import { until } from '../../base/until.ts';
import { VmmError } from '../driver.ts';
import type { Monitors } from './monitors.ts';
import { receiveState } from './state-stream.ts';

const SAVE_MS = 600_000;
/** How long a guest may stand still for what is left of its memory, as QEMU reckons it. */
const STILL_MS = 50;
/** A guest that writes its memory faster than it is sent is sent so often, or for so long, and then stands still for the rest. */
const MOST_ROUNDS = 12;
const MOST_MS = 20_000;
/** How often QEMU is asked how it stands, besides that it says when it is done. */
const LOOK_MS = 10;
const ENDS = ['completed', 'failed', 'cancelled'];

interface Migration {
  readonly status?: string;
  readonly 'error-desc'?: string;
  readonly ram?: { readonly 'dirty-sync-count'?: number };
}

/** What is asked of a QEMU, and where it tells how its migration stands (its event `MIGRATION`). */
export interface Sender extends Pick<Monitors, 'execute'> {
  readonly listen: (hear: (status: string) => void) => void;
}

/**
 * Whether a QEMU sends all that its guest writes while it is saved. Before 9.0 an emulated processor goes on writing to pages whose mark
 * was just taken (cpu_physical_memory_sync_dirty_bitmap() did not tell its TLB), and what it writes there is missing in what was saved.
 */
export function tellsWhatIsWritten({
  accel,
  version,
}: {
  readonly accel: 'kvm' | 'tcg';
  readonly version: string;
}): boolean {
  return accel === 'kvm' || Number.parseInt(version, 10) >= 9;
}

/**
 * Has QEMU write its machine to `statePath`, `withMemory` or without the memory that lies in a shared file. One that runs, runs until
 * little of its memory is left to send; it stands still then, and `still` is called as soon as QEMU has nothing left to say: all that
 * comes after that is between us and the file. Throws VmmError, also for what `still` throws; then no state is left, and a guest
 * that ran does so again or can go on.
 */
export async function sendMachine(
  { execute, listen }: Sender,
  {
    folder,
    pid,
    statePath,
    withMemory,
    still = async () => undefined,
  }: {
    readonly folder: string;
    readonly pid: number;
    readonly statePath: string;
    readonly withMemory: boolean;
    readonly still?: () => Promise<void>;
  },
): Promise<void> {
  await execute('migrate-set-capabilities', {
    capabilities: [
      { capability: 'x-ignore-shared', state: !withMemory },
      { capability: 'events', state: true },
    ],
  });
  await execute('migrate-set-parameters', { 'max-bandwidth': 2 ** 40, 'downtime-limit': STILL_MS });
  try {
    await receiveState({ folder, pid, statePath }, async (socket) => {
      let said: string | undefined;
      const ended = new AbortController();
      listen((status) => {
        if (!ENDS.includes(status)) return;
        said = status;
        ended.abort();
      });
      await execute('migrate', { uri: `unix:${socket}` });
      await deadline('saving the machine', SAVE_MS, async (signal) => {
        const soon = AbortSignal.any([signal, ended.signal]);
        await sentWhole(execute, () => said, soon, signal);
        await until({ clock: systemClock, signal }, () => isOver(execute), { firstMs: 1, mostMs: 1 });
      });
      await still();
    });
  } finally {
    listen(() => undefined);
  }
}

/** Resolves when QEMU has sent all: when it has `said` so, or, should that have been missed, is found to have. */
async function sentWhole(
  execute: Sender['execute'],
  said: () => string | undefined,
  soon: AbortSignal,
  signal: AbortSignal,
): Promise<void> {
  const from = systemClock.steady();
  let stopped = false;
  while (said() !== 'completed') {
    signal.throwIfAborted();
    const { status, 'error-desc': why, ram } = (await execute('query-migrate')) as Migration;
    if (status === 'failed' || status === 'cancelled')
      throw new VmmError(`the machine could not be saved: ${why ?? status}`);
    if (status === 'completed') return;
    const rounds = ram?.['dirty-sync-count'] ?? 0;
    if (!stopped && (rounds > MOST_ROUNDS || systemClock.steady() - from > MOST_MS)) {
      stopped = true;
      await execute('stop');
    }
    await systemClock.sleep(LOOK_MS, soon).catch(() => undefined);
  }
}

/**
 * Whether QEMU has left its migration. It says `completed` a moment before: a guest told to go on in between would be told to stand
 * still by the migration's last act, which QEMU does not survive (migration_iteration_finish() sets the run state it ends in).
 */
async function isOver(execute: Sender['execute']): Promise<true | undefined> {
  const { status } = (await execute('query-status')) as { readonly status: string };
  return status === 'finish-migrate' ? undefined : true;
}
