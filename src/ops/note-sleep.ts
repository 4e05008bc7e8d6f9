import type { Vm } from '../model/vm.ts';
import type { FallingAsleep } from './activity.ts';
import type { Visitor } from './hatch.ts';
import type { World } from './world.ts';

/** Why a VM is put to sleep unasked. */
export interface IdleSleep {
  /** Whoever uses the VM before it is too late ends this, and it runs on: `busy` then. */
  readonly falling: Pick<FallingAsleep, 'signal' | 'seal'>;
  /** What it was decided on, for its event. */
  readonly decided: Readonly<Record<string, unknown>>;
}

/** The events that tell of a VM's sleep: those above all that say why. */
export const SLEEP_EVENTS = [
  'vm.slept',
  'vm.woken',
  'vm.sleep_refused',
  'vm.sleep_cancelled',
  'vm.wake_refused',
  'vm.restore_failed',
] as const;

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

/** Writes into the ledger that a VM was woken, who did, and how many waited for how many milliseconds; `vm`: as it was. */
export async function noteWoken(
  { store }: Pick<World, 'store'>,
  { id, accountId, state }: Vm,
  visitor: Visitor,
  waited: { readonly waiters: number; readonly ms: number },
): Promise<void> {
  await store.events.add({
    accountId,
    vmId: id,
    kind: 'vm.woken',
    message: `Woken by ${visitor.by}${visitor.from === null ? '' : ` from ${visitor.from}`}.`,
    data: { ...visitor, was: state, waiters: waited.waiters, waited_ms: waited.ms },
  });
}
