import { join } from 'node:path';
import type { SnapshotId } from '../../base/ids.ts';
import { makeFolder, remove } from '../../host/files.ts';
import type { Snapshot } from '../../model/snapshot.ts';
import { isBlobError } from '../../store/blobs/blob-error.ts';
import { blobSource } from '../../store/blobs/byte-source.ts';
import type { SpooledPack } from '../../store/blobs/chunk-store.ts';
import { compact, LiveChunks, relocate, type Compacted } from '../../store/blobs/compact.ts';
import { manifestName, newManifestId, packName, parsePackId } from '../../store/blobs/format.ts';
import { encodeManifest } from '../../store/blobs/manifest.ts';
import { openPack, type OpenPack } from '../../store/blobs/pack.ts';
import type { Lease, LeaseId, NeededPack, NewBlob } from '../../store/ledger.ts';
import { checkStored, nameOf } from './check.ts';
import { CLASSES, mergeable, SNAPSHOTS, TOGETHER, packsOfRound } from './choose-packs.ts';
import { LEASE_MS, readManifest, underLease, type ArchiveDeps } from './deps.ts';
import { usesOf } from './store-snapshot.ts';

/** How many are looked at to find those of a round. */
const LOOKED_AT = 64;
const SMALL_LOOKED_AT = 512;

/** A snapshot being made of other packs. */
interface Rewriting {
  readonly snapshot: Snapshot;
  readonly lease: Lease;
}

/** A pack that was opened, and what the ledger says of it. */
interface Opened {
  readonly blob: NeededPack;
  readonly pack: OpenPack;
}

/** Packs that were looked into and are more than half needed after all, each with how many snapshots needed it then. */
export type LeftAlone = Map<string, number>;

/**
 * Copies what is needed of packs that mostly is not into new ones, and makes the snapshots that need it of those; the old packs are
 * collected then. One account's, and a bounded number, each time. Gives how many packs were rewritten.
 */
export async function rewriteSparse(
  deps: ArchiveDeps,
  leftAlone: LeftAlone,
  ageMs: number,
  signal: AbortSignal,
): Promise<number> {
  const found = await deps.store.ledger.sparse({ ageMs, limit: LOOKED_AT });
  const sparse = packsOfRound(found.filter(({ id, snapshots }) => leftAlone.get(id) !== snapshots.length));
  return rewriteThese(deps, sparse, signal, (opened, live) => {
    const worth = opened.filter(({ pack }) => live.share(pack.index) < 0.5);
    for (const { blob } of opened.filter((one) => !worth.includes(one)))
      leftAlone.set(blob.id, blob.snapshots.length);
    return worth;
  });
}

/**
 * Merges small packs of which an account has many, and makes the snapshots that need them of what came of it. One class of one
 * account, and a bounded number, each time. Gives how many packs were merged.
 */
export async function mergeSmall(deps: ArchiveDeps, ageMs: number, signal: AbortSignal): Promise<number> {
  const found = await deps.store.ledger.small({
    ageMs,
    classes: CLASSES,
    atLeast: TOGETHER,
    namedAtMost: SNAPSHOTS,
    limit: SMALL_LOOKED_AT,
  });
  return rewriteThese(deps, mergeable(found), signal, (opened) => (opened.length < TOGETHER ? [] : opened));
}

/** Rewrites those of the packs that are `worth` it, once what is needed of them is known. */
async function rewriteThese(
  deps: ArchiveDeps,
  packs: readonly NeededPack[],
  signal: AbortSignal,
  worth: (opened: readonly Opened[], live: LiveChunks) => readonly Opened[],
): Promise<number> {
  if (packs.length === 0) return 0;
  const ids = [...new Set(packs.flatMap(({ snapshots }) => snapshots))].sort();
  try {
    return await withLeases(deps, ids, signal, (leases, within) =>
      rewrite(deps, packs, leases, worth, within),
    );
  } catch (error) {
    if (isBlobError(error, 'damaged', 'missing')) for (const id of ids) await checkStored(deps, id, signal);
    throw error;
  }
}

/** Works while all that can be had of these snapshots' leases are kept up, and lets go of what is left of them. */
async function withLeases<T>(
  deps: ArchiveDeps,
  ids: readonly SnapshotId[],
  signal: AbortSignal,
  work: (leases: readonly Lease[], signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const leases: Lease[] = [];
  const next = async (at: number, within: AbortSignal): Promise<T> => {
    const id = ids[at];
    if (id === undefined) return work(leases, within);
    const lease = await deps.store.ledger.beginRewriting(id, deps.settings.hostId, LEASE_MS);
    if (lease === null) return next(at + 1, within);
    leases.push(lease);
    return underLease(deps, lease.id, within, (inner) => next(at + 1, inner));
  };
  try {
    return await next(0, signal);
  } finally {
    for (const { id } of leases) await deps.store.ledger.release(id);
  }
}

async function rewrite(
  deps: ArchiveDeps,
  blobs: readonly NeededPack[],
  leases: readonly Lease[],
  worth: (opened: readonly Opened[], live: LiveChunks) => readonly Opened[],
  signal: AbortSignal,
): Promise<number> {
  const { store, home, clock } = deps;
  const live = new LiveChunks();
  const held = new Map<SnapshotId, Rewriting>();
  for (const lease of leases) {
    const snapshot = await store.snapshots.get(lease.snapshotId);
    if (!snapshot) continue;
    live.add(await readManifest(deps, snapshot, signal));
    held.set(snapshot.id, { snapshot, lease });
  }
  const [account] = blobs.map(({ accountId }) => accountId);
  if (account === undefined) return 0;
  const keys = await deps.keys(account);
  const opened: Opened[] = [];
  for (const blob of blobs) {
    const id = parsePackId(blob.id);
    // One that somebody needs whom we do not hold is needed for how much, nobody knows.
    if (!id || !blob.snapshots.every((snapshot) => held.has(snapshot))) continue;
    opened.push({
      blob,
      pack: await openPack(await blobSource(home, nameOf(blob), signal), id, keys, signal),
    });
  }
  const chosen = worth(opened, live);
  if (chosen.length === 0) return 0;
  const spool = join(deps.spoolFolder, `compact-${account}`);
  await remove(spool);
  await makeFolder(spool);
  const packs = chosen.map(({ pack }) => pack);
  const compacted = await compact({ keys, packs, live, spool, now: () => clock.now(), signal });
  let there = false;
  for (const id of new Set(chosen.flatMap(({ blob }) => blob.snapshots))) {
    const one = held.get(id);
    if (!one || !(await lends(deps, one.lease.id, account, compacted.packs, there, signal))) continue;
    there = (await publish(deps, one, compacted, signal)) || there;
  }
  await remove(spool);
  return there ? packs.length : 0;
}

/** Lets a lease hold the new packs: the first puts them, the others find them there. false: it is over. */
async function lends(
  deps: ArchiveDeps,
  lease: LeaseId,
  accountId: Snapshot['accountId'],
  packs: readonly SpooledPack[],
  there: boolean,
  signal: AbortSignal,
): Promise<boolean> {
  if (there) {
    const ids = packs.map(({ pack }) => pack.id);
    return (await deps.store.ledger.reuse(lease, ids))?.length === ids.length;
  }
  for (const { pack, bytes, file, sha256 } of packs) {
    const blob: NewBlob = { id: pack.id, kind: 'pack', accountId, bytes };
    if (!(await put(deps, lease, blob, packName(pack), { file }, sha256, signal))) return false;
  }
  return true;
}

async function publish(
  deps: ArchiveDeps,
  { snapshot, lease }: Rewriting,
  { moved }: Compacted,
  signal: AbortSignal,
): Promise<boolean> {
  const { store, clock } = deps;
  const { accountId } = snapshot;
  const id = newManifestId(clock.now());
  // Read once more: those of all the snapshots at once would be large.
  const manifest = await readManifest(deps, snapshot, signal);
  const rewritten = relocate(manifest, moved, { id, createdAt: clock.now() });
  const { bytes, sha256 } = encodeManifest(rewritten, await deps.keys(accountId));
  const name = manifestName(accountId, id);
  const blob: NewBlob = { id, kind: 'manifest', accountId, bytes: bytes.length };
  if (!(await put(deps, lease.id, blob, name, { bytes }, sha256, signal))) return false;
  const publication = { manifest: { name, sha256, id }, packs: usesOf(rewritten) };
  return (await store.ledger.publish(lease.id, null, publication)) !== null;
}

async function put(
  { store, home }: ArchiveDeps,
  lease: LeaseId,
  blob: NewBlob,
  name: string,
  source: Parameters<ArchiveDeps['home']['put']>[1],
  sha256: string,
  signal: AbortSignal,
): Promise<boolean> {
  const allowed = await store.ledger.add(lease, [blob]);
  if (allowed === null || allowed.length === 0) return false;
  await home.put(name, source, { sha256, signal });
  return store.ledger.arrived(lease, blob.id);
}
