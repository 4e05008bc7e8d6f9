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

interface Migration {
  readonly status?: string;
  readonly 'error-desc'?: string;
  readonly ram?: { readonly 'dirty-sync-count'?: number };
}

/**
 * Has QEMU write its machine to `statePath`, `withMemory` or without the memory that lies in a shared file; it stands still
 * afterwards. One that runs, runs until little of its memory is left to send. Throws VmmError; then no state is left, and a guest
 * that ran does so again or can go on.
 */
export async function sendMachine(
  monitors: Pick<Monitors, 'execute'>,
  {
    folder,
    statePath,
    withMemory,
  }: { readonly folder: string; readonly statePath: string; readonly withMemory: boolean },
): Promise<void> {
  await monitors.execute('migrate-set-capabilities', {
    capabilities: [{ capability: 'x-ignore-shared', state: !withMemory }],
  });
  await monitors.execute('migrate-set-parameters', { 'max-bandwidth': 2 ** 40, 'downtime-limit': STILL_MS });
  await receiveState({ folder, statePath }, async (socket) => {
    const from = systemClock.now();
    let stopped = false;
    await monitors.execute('migrate', { uri: `unix:${socket}` });
    await deadline('saving the machine', SAVE_MS, (signal) =>
      until(
        { clock: systemClock, signal },
        async () => {
          const { status, 'error-desc': why, ram } = (await monitors.execute('query-migrate')) as Migration;
          if (status === 'failed' || status === 'cancelled')
            throw new VmmError(`the machine could not be saved: ${why ?? status}`);
          if (status === 'completed') return true;
          const rounds = ram?.['dirty-sync-count'] ?? 0;
          if (!stopped && (rounds > MOST_ROUNDS || systemClock.now() - from > MOST_MS)) {
            stopped = true;
            await monitors.execute('stop');
          }
          return undefined;
        },
        { firstMs: 1, mostMs: 5 },
      ),
    );
  });
}
