import type { AccountId, VmId } from '../base/ids.ts';

/** A machine that holds memory of this host. */
export interface MemoryHolder {
  readonly vmId: VmId;
  /** null: of no account, as a machine that is only restored for proof. */
  readonly accountId: AccountId | null;
  readonly name: string | null;
  /** What it holds, or was promised, in MiB. */
  readonly heldMib: number;
  /** Whether it may be put to sleep; `soon`: something is under way on it that may end it. */
  readonly yields: 'now' | 'soon' | 'no';
  /** How long nobody has used it, in milliseconds. */
  readonly idleMs: number;
  /** Why it does not yield, as a word; null: it does. */
  readonly because: string | null;
  /** In how many milliseconds it may yield that does not now; null: it is not known. */
  readonly yieldsInMs: number | null;
}

/** Who is to let go of memory, and in which order, so that something fits; or that it does not fit whoever does. */
export type RoomDecision =
  | { readonly fits: true; readonly first: readonly VmId[] }
  | { readonly fits: false; readonly missingMib: number };

/**
 * Decides who sleeps so that `wantedMib` more fit into the budget: nobody, where they fit already; else who is about to end anyway, then
 * the least recently used of those that may sleep, one after the other until it fits. Where it would not fit with all of them asleep,
 * none is: that would help nobody.
 */
export function decideRoom({
  budgetMib,
  wantedMib,
  holders,
}: {
  readonly budgetMib: number;
  readonly wantedMib: number;
  readonly holders: readonly MemoryHolder[];
}): RoomDecision {
  let overMib = heldBy(holders) + wantedMib - budgetMib;
  const first: VmId[] = [];
  const soon = holders.filter(({ yields }) => yields === 'soon');
  const now = holders
    .filter(({ yields }) => yields === 'now')
    .sort((one, other) => other.idleMs - one.idleMs);
  for (const { vmId, heldMib } of [...soon, ...now]) {
    if (overMib <= 0) break;
    first.push(vmId);
    overMib -= heldMib;
  }
  return overMib <= 0 ? { fits: true, first } : { fits: false, missingMib: overMib };
}

/** What some machines hold in all, in MiB. */
export function heldBy(holders: readonly Pick<MemoryHolder, 'heldMib'>[]): number {
  return holders.reduce((sum, { heldMib }) => sum + heldMib, 0);
}

/** How many of an account's own VMs are named to it. */
const MOST_NAMED = 5;

/**
 * Who holds the memory, as an account may know it: its own VMs that hold most, and of all others the sum. A VM's `stays_awake` is
 * null where it would have been put to sleep.
 */
export function whoHolds(
  holders: readonly MemoryHolder[],
  accountId: AccountId,
): {
  readonly vms: readonly {
    readonly id: VmId;
    readonly name: string | null;
    readonly held_mib: number;
    readonly stays_awake: string | null;
  }[];
  readonly others_mib: number;
} {
  const own = holders.filter((one) => one.accountId === accountId);
  const named = [...own].sort((one, other) => other.heldMib - one.heldMib).slice(0, MOST_NAMED);
  return {
    vms: named.map(({ vmId, name, heldMib, because }) => ({
      id: vmId,
      name,
      held_mib: heldMib,
      stays_awake: because,
    })),
    others_mib: heldBy(holders) - heldBy(named),
  };
}
