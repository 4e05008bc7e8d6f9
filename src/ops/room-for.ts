import type { AccountId, VmId } from '../base/ids.ts';
import { errorFields } from '../base/logger.ts';
import { Failure } from '../model/failure.ts';
import { decideUnderPressure, type Decision } from '../model/idle.ts';
import { decideRoom, heldBy, whoHolds, type MemoryHolder } from '../model/memory.ts';
import type { Vm } from '../model/vm.ts';
import { VmmError } from '../vmm/driver.ts';
import { isGuestBusy } from './ask-guest.ts';
import type { Live } from './fleet.ts';
import { decideNow } from './idle-signals.ts';
import type { Promised } from './room.ts';
import { signalsOf } from './say-verdict.ts';
import { sleepVm } from './snapshot-vm.ts';
import { Closing } from './steps.ts';
import { stopIdle } from './stop-vm.ts';
import { translate } from './translate.ts';
import type { World } from './world.ts';

const MIB = 1024 * 1024;
/** How soon it is worth asking again, in seconds: at most, and where nothing says. */
const ASK_AGAIN_SECONDS = 60;

/** Who wants memory, and for what. */
export interface RoomAsked {
  readonly verb: 'create' | 'start' | 'restore' | 'fork';
  readonly accountId: AccountId;
  /** The VMs that are to run, and what each may come to hold. */
  readonly vms: readonly { readonly vmId: VmId; readonly memMib: number }[];
  /** The VM it is about, where there is one already: it is not put to sleep for itself. */
  readonly about: VmId | null;
}

/** Asks for memory. Throws `no_capacity`, and the signal's reason. */
export type AskRoom = (asked: RoomAsked, signal?: AbortSignal) => Promise<void>;

/**
 * Lets `work` ask for memory for VMs that are about to run, and keeps what it was promised until `work` has ended: by then they hold it,
 * or never will. Where the host's memory has no limit, nothing is counted. What does not fit puts VMs to sleep first that nobody uses, the
 * least recently used first; where that is not enough it is refused with `no_capacity`, and nobody sleeps for it.
 */
export async function withRoom<T>(world: World, work: (ask: AskRoom) => Promise<T>): Promise<T> {
  const promised: Promised[] = [];
  try {
    return await work(async (asked, signal) => {
      const { budgetMib } = world.room;
      if (budgetMib === null) return;
      promised.push(
        await world.room.inTurn(() =>
          makeRoom(world, budgetMib, asked, signal ?? new AbortController().signal),
        ),
      );
    });
  } finally {
    for (const one of promised) one.release();
  }
}

async function makeRoom(
  world: World,
  budgetMib: number,
  asked: RoomAsked,
  signal: AbortSignal,
): Promise<Promised> {
  const { room } = world;
  const already = room.promised();
  // The copies of a fork were promised theirs before their source was disturbed.
  const vms = asked.vms.filter(({ vmId }) => !already.has(vmId));
  const wantedMib = vms.reduce((sum, { memMib }) => sum + memMib, 0);
  const tried = new Set(asked.about === null ? [] : [asked.about]);
  for (;;) {
    signal.throwIfAborted();
    const holders = await holdersNow(world, tried);
    const decision = decideRoom({ budgetMib, wantedMib, holders });
    if (!decision.fits) throw await refuse(world, asked, { budgetMib, wantedMib, holders });
    const [next] = decision.first;
    if (next === undefined) return room.promise(vms);
    // What was freed is seen by looking anew: it may be less than it seemed, as of memory that is shared.
    tried.add(next);
    await letGo(world, next, asked, { wanted_mib: wantedMib, budget_mib: budgetMib }, signal);
  }
}

/** Who holds memory of this host now. Those in `tried` do not yield. */
async function holdersNow(world: World, tried: ReadonlySet<VmId>): Promise<readonly MemoryHolder[]> {
  const { store, fleet, room, settings } = world;
  // Before anything is looked at: who begins to run meanwhile counts as promised, and is not left out.
  const promised = room.promised();
  const rows = new Map((await store.vms.ofHost(settings.hostId)).map((vm) => [vm.id, vm]));
  const live = new Map(fleet.all());
  const ids = new Set([...rows.keys(), ...live.keys(), ...promised.keys()]);
  const holders = await Promise.all(
    [...ids].map(async (vmId): Promise<MemoryHolder> => {
      const vm = rows.get(vmId);
      const own = live.get(vmId);
      const heldMib = Math.max(promised.get(vmId) ?? 0, await heldMibOf(vm, own));
      const base = { vmId, accountId: vm?.accountId ?? null, name: vm?.name ?? null, heldMib };
      return { ...base, ...yielding(world, vm, own, tried) };
    }),
  );
  return holders.filter(({ heldMib }) => heldMib > 0);
}

async function heldMibOf(vm: Vm | undefined, live: Live | undefined): Promise<number> {
  if (!live) return vm && holdsUnseen(vm) ? vm.memMib : 0;
  // What boots or was just woken has touched little of its memory yet, and is about to.
  const leastMib = vm?.state === 'running' && vm.readyAt === null ? vm.memMib : 0;
  try {
    return Math.max(leastMib, Math.ceil((await live.machine.heldBytes()) / MIB));
  } catch (error) {
    // It has ended in this moment.
    if (error instanceof VmmError) return 0;
    throw error;
  }
}

/** Whether a VM whose machine is not held here has one all the same: one that is just being ended, or goes on in another in a moment. */
function holdsUnseen({ process, operation }: Vm): boolean {
  return process !== null || ['snapshot', 'fork', 'reboot'].includes(operation?.verb ?? '');
}

type Yielding = Pick<MemoryHolder, 'yields' | 'idleMs' | 'because' | 'yieldsInMs'>;

function yielding(
  world: World,
  vm: Vm | undefined,
  live: Live | undefined,
  tried: ReadonlySet<VmId>,
): Yielding {
  const no = (because: string, idleMs = 0, yieldsInMs: number | null = null): Yielding => ({
    yields: 'no',
    idleMs,
    because,
    yieldsInMs,
  });
  if (!vm) return no('verifying');
  const verb = world.flights.verbOf(vm.id);
  const may = !tried.has(vm.id);
  if (may && (verb === 'snapshot' || verb === 'stop' || verb === 'delete'))
    return { yields: 'soon', idleMs: 0, because: null, yieldsInMs: null };
  if (vm.state !== 'running' || !live) return no('operation');
  const { verdict, signals } = decide(world, vm);
  const { idleMs } = verdict;
  if (!verdict.sleep)
    return no(verdict.reason, idleMs, verdict.until === null ? null : verdict.until - signals.now);
  return may ? { yields: 'now', idleMs, because: null, yieldsInMs: null } : no('failed', idleMs);
}

function decide(world: World, vm: Vm): Decision {
  const { room } = world;
  const [now, failedUntil] = [room.clock.steady(), room.failedUntil(vm.id)];
  return decideNow(world, vm, { now, failedUntil, decide: decideUnderPressure });
}

/** Has a VM let go of its memory, if it still may; one on which something is under way is waited for. Its failing is noted, and not thrown. */
async function letGo(
  world: World,
  vmId: VmId,
  asked: RoomAsked,
  why: Readonly<Record<string, number>>,
  signal: AbortSignal,
): Promise<void> {
  const { store, activity, flights, room, log } = world;
  if (flights.has(vmId)) return flights.landed(vmId);
  const vm = await store.vms.get(vmId);
  if (vm?.state !== 'running' || activity.isFallingAsleep(vmId)) return;
  const decision = decide(world, vm);
  const { verdict, signals } = decision;
  if (!verdict.sleep || (await isGuestBusy(world, vm, signal))) return;
  const falling = activity.fallAsleep(vmId, signals.activity.version);
  const own = asked.accountId === vm.accountId;
  const needs = { verb: asked.verb, vms: own ? asked.vms.map((one) => one.vmId) : null };
  const decided = { ...signalsOf(decision), reason: 'memory', for: needs, ...why };
  try {
    if (verdict.action === 'snapshot') await sleepVm(world, vm, { falling, decided });
    else await stopIdle(world, vm, { falling, decided });
  } catch (error) {
    const failure = translate(error);
    if (failure.cause instanceof Closing) throw failure;
    // Somebody came to use it, or is at it.
    if (falling.signal.aborted || ['busy', 'not_found', 'wrong_state'].includes(failure.code)) return;
    room.noteFailed(vmId);
    log.warn({ vm: vmId, ...errorFields(error) }, 'a VM could not be put to sleep to make room');
    await store.events.add({
      accountId: vm.accountId,
      vmId,
      kind: 'vm.sleep_refused',
      message: `It could not be put to sleep to make room in the host's memory: ${failure.message}`,
      data: { ...decided, reason: 'failed', code: failure.code },
    });
  } finally {
    falling.end();
  }
}

/** The refusal, written down as an event of who asked, once a minute at most. */
async function refuse(
  { store, room }: World,
  { verb, accountId, about }: RoomAsked,
  {
    budgetMib,
    wantedMib,
    holders,
  }: {
    readonly budgetMib: number;
    readonly wantedMib: number;
    readonly holders: readonly MemoryHolder[];
  },
): Promise<Failure> {
  const heldMib = heldBy(holders);
  const never = wantedMib > budgetMib;
  const message = never
    ? `This needs ${wantedMib} MiB of memory, and all guests of this host together may have ${budgetMib} MiB: ask for less, or have the operator raise HATCH_MEMORY_BUDGET_MIB.`
    : `This needs ${wantedMib} MiB of memory, and ${Math.max(0, budgetMib - heldMib)} of the host's ${budgetMib} MiB are free; not enough of the rest is held by VMs that may be put to sleep. Stop, delete or unpin VMs you do not need, or ask again when others are no longer in use.`;
  const soonestMs = Math.min(
    ...holders.map(({ yieldsInMs }) => yieldsInMs ?? Infinity),
    ASK_AGAIN_SECONDS * 1000,
  );
  const details = {
    needed_mib: wantedMib,
    budget_mib: budgetMib,
    held_mib: heldMib,
    ...whoHolds(holders, accountId),
    ...(never ? {} : { retry_after_seconds: Math.max(1, Math.ceil(soonestMs / 1000)) }),
  };
  const times = room.tell(`${verb} ${about ?? accountId}`);
  if (times > 0)
    await store.events.add({
      accountId,
      vmId: about,
      kind: 'vm.no_room',
      message: `No room to ${verb}: ${message}${times > 1 ? ` It is the latest of ${times}.` : ''}`,
      data: { verb, times, ...details },
    });
  return new Failure('no_capacity', message, { details });
}
