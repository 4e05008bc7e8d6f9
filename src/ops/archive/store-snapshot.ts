import { join } from 'node:path';
import type { LayerId, SnapshotId } from '../../base/ids.ts';
import { exists, makeFolder, remove } from '../../host/files.ts';
import type { Layer } from '../../model/records.ts';
import type { Snapshot } from '../../model/snapshot.ts';
import { isBlobError } from '../../store/blobs/blob-error.ts';
import type { ImageFile, Saved, SpooledFile } from '../../store/blobs/chunk-store.ts';
import { manifestName, packName, type PackId } from '../../store/blobs/format.ts';
import type { Layout } from '../../store/blobs/layout.ts';
import type { BlobUse, Lease, NewBlob } from '../../store/ledger.ts';
import { layerFolder } from '../layers.ts';
import { IMAGES, LEASE_MS, readManifest, underLease, type ArchiveDeps, type StoredIdentity } from './deps.ts';
import type { KnownChunks } from './known-chunks.ts';
import { ownerOf } from '../owner.ts';

/** How many packs are on their way at once. */
const PUTS = 4;

/** What came of an attempt: `behind` another upload of the VM, to be tried when that has ended; `nothing` was to do. */
export type StoreOutcome = 'stored' | 'nothing' | 'behind';

/**
 * Stores a snapshot that this host has: what is new of it in packs, then its manifest, then the one transaction that makes it durable.
 * Cut off, it goes on where it was. Throws BlobError, Failure or the signal's reason; then it is `local` as before, with what went wrong.
 */
export async function storeSnapshot(
  deps: ArchiveDeps,
  known: KnownChunks,
  id: SnapshotId,
  signal: AbortSignal,
  onProgress: (done: number, total: number) => void,
): Promise<StoreOutcome> {
  const { store, settings } = deps;
  const snapshot = await store.snapshots.get(id);
  const vm = snapshot && (await store.vms.get(snapshot.vmId));
  if (!snapshot || !vm || snapshot.hostId !== settings.hostId || vm.hostId !== settings.hostId)
    return 'nothing';
  const owner = ownerOf(vm);
  const lease = await store.ledger.beginUpload(id, owner, LEASE_MS);
  if (lease === null) return 'nothing';
  if ('behind' in lease) return 'behind';
  const spool = join(deps.spoolFolder, id);
  try {
    return await underLease(deps, lease.id, signal, async (within) => {
      await makeFolder(spool);
      const keys = await deps.keys(snapshot.accountId);
      const identity = identityOf(snapshot);
      const saved = await deps.chunks.save({
        keys,
        images: await imagesOf(deps, snapshot, spool, within),
        identity,
        known: await known.lookup(lease.id, snapshot, within),
        spool: join(spool, 'packs'),
        onProgress: ({ done, total }) => onProgress(done, total),
        signal: within,
      });
      await putAll(deps, lease, snapshot, saved, within);
      const { manifest: spooled } = saved;
      const name = manifestName(snapshot.accountId, spooled.id);
      const manifest = await readManifest(
        deps,
        { ...snapshot, manifest: { name, sha256: spooled.sha256 } },
        within,
      );
      const published = await store.ledger.publish(lease.id, owner, {
        manifest: { name, sha256: spooled.sha256, id: spooled.id },
        packs: usesOf(manifest),
      });
      await remove(spool);
      return published === null ? 'nothing' : 'stored';
    });
  } catch (error) {
    const { message } = error instanceof Error ? error : new Error(String(error));
    const problem = isBlobError(error, 'no_space')
      ? `${message}. Make room: it is tried again by itself.`
      : message;
    await store.ledger.release(lease.id, signal.aborted ? null : problem);
    throw error;
  }
}

/** What is kept of a snapshot beside its images. Nothing in it changes while it is stored: what was cut off goes on only with the same. */
function identityOf(snapshot: Snapshot): StoredIdentity {
  const asMade = {
    state: 'local',
    storedBytes: null,
    manifest: null,
    verifiedAt: null,
    usedAt: snapshot.createdAt,
    problem: null,
  } as const;
  return { snapshotId: snapshot.id, accountId: snapshot.accountId, snapshot: { ...snapshot, ...asMade } };
}

/** The files a snapshot is made of. An overlay is laid over what it stands on, so that it is whole. */
export async function imagesOf(
  deps: ArchiveDeps,
  snapshot: Pick<Snapshot, 'diskLayerId' | 'memoryLayerId' | 'stateLayerId'>,
  spool: string,
  signal: AbortSignal,
): Promise<readonly ImageFile[]> {
  const { store, files } = deps;
  const layer = async (id: LayerId | null): Promise<Layer | null> =>
    id === null ? null : store.layers.get(id);
  const disk = await layer(snapshot.diskLayerId);
  const flat = join(spool, 'disk.raw');
  if (disk && disk.format !== 'raw' && !(await exists(flat)))
    await files.flattenDisk({ path: disk.path, format: disk.format, to: flat }, signal);
  return imageFiles(deps, {
    memory: (await layer(snapshot.memoryLayerId))?.path,
    state: (await layer(snapshot.stateLayerId))?.path,
    disk: disk && disk.format !== 'raw' ? flat : disk?.path,
    stateId: snapshot.stateLayerId,
  });
}

/** The images of a snapshot, by the paths of its files and the layer with the state, which has its kernel. */
export async function imageFiles(
  { settings }: Pick<ArchiveDeps, 'settings'>,
  found: {
    readonly memory: string | undefined;
    readonly state: string | undefined;
    readonly disk: string | undefined;
    readonly stateId: LayerId | null;
  },
): Promise<readonly ImageFile[]> {
  const images: ImageFile[] = [];
  const add = (name: string, path: string | undefined): void => {
    if (path !== undefined) images.push({ name, path });
  };
  add(IMAGES.memory, found.memory);
  add(IMAGES.state, found.state);
  add(IMAGES.disk, found.disk);
  for (const name of [IMAGES.kernel, IMAGES.vmlinux, IMAGES.initrd]) {
    const file = found.stateId === null ? undefined : join(layerFolder(settings, found.stateId), name);
    if (file !== undefined && (await exists(file))) add(name, file);
  }
  return images;
}

async function putAll(
  { store, home }: ArchiveDeps,
  lease: Lease,
  { accountId }: Snapshot,
  { packs, manifest }: Saved,
  signal: AbortSignal,
): Promise<void> {
  const there = new Set(lease.blobs.filter(({ arrived }) => arrived).map(({ id }) => id as string));
  const put = async (blob: NewBlob, name: string, { file, sha256 }: SpooledFile): Promise<void> => {
    signal.throwIfAborted();
    if (there.has(blob.id)) return;
    const allowed = await store.ledger.add(lease.id, [blob]);
    if (allowed === null) throw new Error('somebody else has taken this upload over');
    if (allowed.length === 0) throw new Respool();
    // One that was put before an attempt failed is there, whole or not at all: its bytes need not go again.
    if ((await home.head(name, signal))?.bytes !== blob.bytes)
      await home.put(name, { file }, { sha256, signal });
    if (!(await store.ledger.arrived(lease.id, blob.id)))
      throw new Error('somebody else has taken this upload over');
  };
  const left = [...packs];
  const worker = async (): Promise<void> => {
    for (let next = left.shift(); next; next = left.shift()) {
      const { pack, bytes } = next;
      await put({ id: pack.id, kind: 'pack', accountId, bytes }, packName(pack), next);
    }
  };
  await Promise.all(Array.from({ length: PUTS }, worker));
  const name = manifestName(accountId, manifest.id);
  await put({ id: manifest.id, kind: 'manifest', accountId, bytes: manifest.bytes }, name, manifest);
}

/** What waits in the spool may not be put any more under its name: it is written anew. */
export class Respool extends Error {
  override readonly name = 'Respool';
  constructor() {
    super('what was written before was given up meanwhile; it is written anew');
  }
}

/** How much of each pack a snapshot needs, in stored bytes. */
export function usesOf({ packs, frames }: Layout): readonly BlobUse[] {
  const bytes = new Map<PackId, number>(packs.map((pack) => [pack.id, 0]));
  for (let i = 0; i < frames.count; i++) {
    const pack = packs[frames.pack[i] ?? 0];
    if (pack) bytes.set(pack.id, (bytes.get(pack.id) ?? 0) + (frames.stored[i] ?? 0));
  }
  return [...bytes].map(([id, used]) => ({ id, bytes: used }));
}
