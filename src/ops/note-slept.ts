import type { Vm } from '../model/vm.ts';
import type { FallingAsleep } from './activity.ts';
import type { World } from './world.ts';

/** Why a VM is put to sleep unasked. */
export interface IdleSleep {
  /** Whoever uses the VM before it is too late ends this, and it runs on: `busy` then. */
  readonly falling: Pick<FallingAsleep, 'signal' | 'seal'>;
  /** What it was decided on, for its event. */
  readonly decided: Readonly<Record<string, unknown>>;
}

/** Writes into the ledger that a VM sleeps, and on what that was decided; `decided` null: somebody asked for it. */
export async function noteSlept(
  { store }: Pick<World, 'store'>,
  { id, accountId, memMib }: Vm,
  action: 'snapshot' | 'stop',
  decided: Readonly<Record<string, unknown>> | null,
): Promise<void> {
  const idle = decided?.['idle_seconds'];
  await store.events.add({
    accountId,
    vmId: id,
    kind: 'vm.slept',
    message:
      decided === null
        ? 'It sleeps because somebody asked for that.'
        : `It ${action === 'stop' ? 'was stopped' : 'sleeps'} because nobody used it for ${String(idle)} s.`,
    data: { reason: decided === null ? 'asked' : 'idle', action, mem_mib: memMib, ...decided },
  });
}
