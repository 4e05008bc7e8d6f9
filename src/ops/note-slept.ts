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
  await store.events.add({
    accountId,
    vmId: id,
    kind: 'vm.slept',
    message: decided === null ? 'It sleeps because somebody asked for that.' : whyItSlept(action, decided),
    data: { reason: decided === null ? 'asked' : 'idle', action, mem_mib: memMib, ...decided },
  });
}

function whyItSlept(action: 'snapshot' | 'stop', decided: Readonly<Record<string, unknown>>): string {
  const sleeps = action === 'stop' ? 'was stopped' : 'sleeps';
  const idle = String(decided['idle_seconds']);
  if (decided['reason'] !== 'memory') return `It ${sleeps} because nobody used it for ${idle} s.`;
  const needed = String(decided['wanted_mib']);
  return `It ${sleeps} to make room in the host's memory: nobody had used it for ${idle} s, and ${needed} MiB were needed.`;
}
