import type { SnapshotId } from '../../base/ids.ts';
import { PACK_TARGET } from '../../store/blobs/format.ts';
import type { NeededPack } from '../../store/ledger.ts';

/** One round rewrites so many packs of one account... */
const PACKS = 8;
/** ...and at most so many snapshots are made anew for it. */
export const SNAPSHOTS = 64;

/**
 * Classes of small packs, by the bytes they are below: each four times the one before, the last half a pack. So many of one class are
 * merged: what comes of them is of a higher class, and so no byte is copied more often than there are classes. Not so in the lowest
 * class, where it costs next to nothing, and where only a part of them is needed; there are fewer packs all the same, and only
 * uploads make new ones.
 */
export const CLASSES: readonly number[] = [128, 32, 8, 2].map((part) => PACK_TARGET / part);
export const TOGETHER = 4;
/** An account is left with so many small packs at most, not counting those for which too many snapshots would be made anew. */
export const SMALL_LEFT = (TOGETHER - 1) * CLASSES.length;

/** Of one account, as many packs as a round may have, beginning with the first. */
export function packsOfRound<P extends NeededPack>(found: readonly P[]): readonly P[] {
  const packs: P[] = [];
  let snapshots = new Set<SnapshotId>();
  for (const pack of found) {
    const all = new Set([...snapshots, ...pack.snapshots]);
    const fits = packs.length === 0 || (packs.length < PACKS && all.size <= SNAPSHOTS);
    if (!fits || pack.accountId !== (packs[0] ?? pack).accountId) continue;
    packs.push(pack);
    snapshots = all;
  }
  return packs;
}

/** The first small packs of one account and class that can be merged in a round; none where there are too few. */
export function mergeable(found: readonly NeededPack[]): readonly NeededPack[] {
  const small = found.filter(({ bytes }) => classOf(bytes) !== undefined);
  const alike = Map.groupBy(small, ({ accountId, bytes }) => `${accountId} ${classOf(bytes)}`);
  for (const packs of alike.values())
    for (let first = 0; first + TOGETHER <= packs.length; first++) {
      const chosen = packsOfRound(packs.slice(first));
      if (chosen.length >= TOGETHER) return chosen;
    }
  return [];
}

/** The bound of the class of a pack; undefined: it is not small. */
function classOf(bytes: number): number | undefined {
  return CLASSES.find((bound) => bytes < bound);
}
