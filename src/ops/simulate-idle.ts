import type { VmId } from '../base/ids.ts';
import { sleptBy, wouldSleep, type Recorded } from '../model/simulate.ts';
import type { Vm } from '../model/vm.ts';
import type { Caller } from './hatch.ts';
import type { IdleSimulation } from './idle-answers.ts';
import { findVm } from './vms.ts';
import type { World } from './world.ts';

/** How far back uses are kept, in milliseconds. */
const KEPT_MS = 30 * 24 * 3_600_000;
const PAGE = 1000;

/**
 * Replays what was written down of VMs' use under their policies with another timeout. Each is looked at from when it was made, or as far
 * back as is known. The most asleep comes first.
 */
export async function simulateIdle(
  world: Pick<World, 'store' | 'settings' | 'clock'>,
  caller: Caller,
  { timeoutSeconds, vm: asked }: { readonly timeoutSeconds: number; readonly vm?: string | undefined },
): Promise<readonly IdleSimulation[]> {
  const { store, settings, clock } = world;
  const until = clock.now();
  const known = Math.max(await store.history.since(), until - KEPT_MS);
  const vms = asked === undefined ? await allOf(world, caller) : [await findVm(world, caller, asked)];
  const simulated: IdleSimulation[] = [];
  for (const vm of vms) {
    const from = Math.min(until, Math.max(known, vm.createdAt));
    const recorded: Recorded = {
      uses: await store.history.uses(vm.id, from),
      rests: await store.history.rests(vm.id),
      memMib: vm.memMib,
      from,
      until,
    };
    const policy = { ...(vm.idle ?? settings.idle), timeoutSeconds };
    simulated.push({ vm, from, until, was: sleptBy(recorded), would: wouldSleep(policy, recorded) });
  }
  return simulated.toSorted((a, b) => b.would.ms - a.would.ms);
}

async function allOf(
  { store }: Pick<World, 'store'>,
  { accountId }: Pick<Caller, 'accountId'>,
): Promise<readonly Vm[]> {
  const all: Vm[] = [];
  for (let after: VmId | undefined; ;) {
    const page = await store.vms.list({ accountId }, { limit: PAGE, after });
    all.push(...page);
    after = page.at(-1)?.id;
    if (page.length < PAGE) return all;
  }
}
