import type { SnapshotId } from '../../base/ids.ts';
import { isBlobError } from '../../store/blobs/blob-error.ts';
import { blobSource } from '../../store/blobs/byte-source.ts';
import { manifestName, packName, parseManifestId, parsePackId } from '../../store/blobs/format.ts';
import { verifyPack } from '../../store/blobs/pack.ts';
import type { StoredBlob } from '../../store/ledger.ts';
import { readManifest, type ArchiveDeps } from './deps.ts';

/** The name of a blob in the home. */
export function nameOf({ id, kind, accountId }: StoredBlob): string {
  if (kind === 'pack') {
    const pack = parsePackId(id);
    if (pack) return packName({ account: accountId, id: pack });
  }
  const manifest = parseManifestId(id);
  if (!manifest) throw new Error(`${id} is no blob's id`);
  return manifestName(accountId, manifest);
}

/**
 * Reads all that a stored snapshot is made of. What is damaged or missing is written down, and marks every snapshot that needs it;
 * what was, and reads again, heals them. Gives the snapshots that were marked. Throws BlobError when the store cannot be asked.
 */
export async function checkStored(
  deps: Pick<ArchiveDeps, 'store' | 'home' | 'keys' | 'log'>,
  id: SnapshotId,
  signal: AbortSignal,
): Promise<readonly SnapshotId[]> {
  const hurt = new Set<SnapshotId>();
  for (const blob of await deps.store.ledger.ofSnapshot(id)) {
    if (blob.state !== 'live' && blob.state !== 'bad') continue;
    for (const one of await checkBlob(deps, id, blob, signal)) hurt.add(one);
  }
  return [...hurt];
}

/**
 * Reads what was not read whole for `ageMs`, the longest first and so many at most: disks lose bits in silence, and one wants to know
 * while there is another copy. Gives the snapshots that were marked. Throws BlobError when the store cannot be asked.
 */
export async function reread(
  deps: Pick<ArchiveDeps, 'store' | 'home' | 'keys' | 'log'>,
  { ageMs, limit }: { readonly ageMs: number; readonly limit: number },
  signal: AbortSignal,
): Promise<readonly SnapshotId[]> {
  const { ledger } = deps.store;
  const hurt = new Set<SnapshotId>();
  for (const blob of await ledger.unverified({ ageMs, limit })) {
    // What nobody names is collected soon.
    const [id] = await ledger.namedBy(blob.id);
    if (id === undefined) continue;
    for (const one of await checkBlob(deps, id, blob, signal)) hurt.add(one);
  }
  return [...hurt];
}

/** Reads one blob that a snapshot needs, and writes down what came of it; gives the snapshots that were marked. */
async function checkBlob(
  deps: Pick<ArchiveDeps, 'store' | 'home' | 'keys' | 'log'>,
  id: SnapshotId,
  blob: StoredBlob,
  signal: AbortSignal,
): Promise<readonly SnapshotId[]> {
  const { ledger } = deps.store;
  const problem = await wrongWith(deps, id, blob, signal);
  if (problem === undefined) {
    for (const healed of await ledger.verified(blob.id))
      await note(deps, healed, 'snapshot.healed', 'All of the snapshot in the store reads again.');
    return [];
  }
  const hurt = await ledger.spoiled(blob.id, problem);
  for (const one of hurt)
    await note(deps, one, 'snapshot.damaged', `The snapshot is damaged in the store: ${problem}`);
  return hurt;
}

/** What is wrong with a blob, in a sentence; undefined: nothing is. */
async function wrongWith(
  deps: Pick<ArchiveDeps, 'store' | 'home' | 'keys'>,
  id: SnapshotId,
  blob: StoredBlob,
  signal: AbortSignal,
): Promise<string | undefined> {
  const { store, home, keys } = deps;
  try {
    const pack = blob.kind === 'pack' ? parsePackId(blob.id) : undefined;
    if (pack)
      await verifyPack(
        await blobSource(home, nameOf(blob), signal),
        pack,
        await keys(blob.accountId),
        signal,
      );
    else {
      const snapshot = await store.snapshots.get(id);
      if (snapshot) await readManifest(deps, snapshot, signal);
    }
    return undefined;
  } catch (error) {
    if (!isBlobError(error, 'damaged', 'missing')) throw error;
    return `${error.message}.`;
  }
}

async function note(
  { store, log }: Pick<ArchiveDeps, 'store' | 'log'>,
  id: SnapshotId,
  kind: string,
  message: string,
): Promise<void> {
  log.warn({ snapshot: id, kind, problem: message }, 'the store was checked');
  const snapshot = await store.snapshots.get(id);
  if (!snapshot) return;
  const { accountId, vmId } = snapshot;
  await store.events.add({ accountId, vmId, kind, message, data: { snapshot: id } });
}
