import { deadline } from '../base/deadline.ts';
import { errorFields } from '../base/logger.ts';
import { refresh, setClock } from '../guest/identity.ts';
import type { Vm } from '../model/vm.ts';
import { noteHooks } from './identity-step.ts';
import type { World } from './world.ts';

const CLOCK_MS = 10_000;
const REFRESH_MS = 120_000;
/** A guest whose clock is off by more has not been brought up to date, in milliseconds. */
const OFF_MS = 2000;

type Refreshing = Pick<World, 'store' | 'fleet' | 'clock' | 'log'>;

/**
 * What is not needed for the guest to answer: its clock, its random state and its hooks, while it is in use already. Each is tried
 * whatever became of the one before. Commands for it wait for its clock.
 */
export async function refreshGuest(world: Refreshing, vm: Vm): Promise<void> {
  const { fleet, clock, log } = world;
  const agent = fleet.get(vm.id)?.agent;
  if (!agent) return;
  const clockSet = deadline("setting a woken guest's clock", CLOCK_MS, (signal) =>
    setClock({ agent, clock }, signal),
  ).catch((error: unknown) =>
    log.warn({ vm: vm.id, ...errorFields(error) }, "a woken guest's clock could not be set"),
  );
  fleet.holdCommands(vm.id, clockSet);
  await clockSet;
  try {
    const { hooks } = await deadline('refreshing the guest', REFRESH_MS, (signal) =>
      refresh({ agent, clock }, signal),
    );
    await noteHooks(world, vm, hooks);
  } catch (error) {
    log.warn({ vm: vm.id, ...errorFields(error) }, 'a woken guest could not be brought up to date');
  }
}

/**
 * Brings a guest up to date whose wake owed it that: hatchd ended before it had, or its agent had not answered yet when it was saved. It is
 * waited for until it answers, and its clock tells whether there is anything to do. One that was booted since is owed nothing. Never throws.
 */
export async function catchUp(world: Refreshing, vm: Vm): Promise<void> {
  const { store, fleet, clock, log } = world;
  const live = fleet.get(vm.id);
  if (!live || !(await wasWoken(world, vm).catch(() => false))) return;
  try {
    await fleet.watch(vm.id, async () => (await store.vms.get(vm.id))?.readyAt ?? undefined, live.ended);
    const off = await deadline("a guest's word on what time it is", CLOCK_MS, async (signal) =>
      Math.abs((await live.agent.time(signal)) - clock.now()),
    );
    if (off > OFF_MS) await refreshGuest(world, vm);
  } catch (error) {
    // It has ended, or has no agent.
    log.debug({ vm: vm.id, ...errorFields(error) }, 'a guest does not tell what time it is');
  }
}

/** Whether its guest came out of a snapshot as itself, and has not been booted since. */
async function wasWoken({ store }: Pick<World, 'store'>, { id: vmId }: Vm): Promise<boolean> {
  const last = async (kind: string): Promise<number> =>
    (await store.events.list({ vmId, kind }, { limit: 1 }))[0]?.at ?? 0;
  const woken = await last('vm.restored');
  return woken > 0 && woken > Math.max(await last('vm.running'), await last('vm.rebooted'));
}
