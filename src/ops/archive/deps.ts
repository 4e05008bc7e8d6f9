import type { AccountId, SnapshotId } from '../../base/ids.ts';
import type { Clock } from '../../base/clock.ts';
import { errorFields, type Logger } from '../../base/logger.ts';
import type { GuestFiles } from '../../guest/files.ts';
import type { ChunkStore } from '../../store/blobs/chunk-store.ts';
import type { BlobHome } from '../../store/blobs/home.ts';
import type { KeyRing } from '../../store/blobs/keys.ts';
import { decodeManifest, type Manifest } from '../../store/blobs/manifest.ts';
import { MANIFEST_MAX } from '../../store/blobs/format.ts';
import type { LeaseId } from '../../store/ledger.ts';
import type { Store } from '../../store/store.ts';
import type { Snapshot } from '../../model/snapshot.ts';
import { Failure } from '../../model/failure.ts';
import type { Settings } from '../settings.ts';

/** What snapshots are stored with. */
export interface ArchiveDeps {
  readonly store: Store;
  readonly settings: Settings;
  readonly files: Pick<GuestFiles, 'flattenDisk'>;
  readonly home: BlobHome;
  readonly chunks: ChunkStore;
  readonly keys: KeyRing;
  readonly clock: Clock;
  readonly log: Logger;
  /** Absolute path of the folder in which packs wait to be put. */
  readonly spoolFolder: string;
}

/** How long blobs are held for one that is at it, from each sign of life on. */
export const LEASE_MS = 120_000;

/**
 * Works while a lease is kept up; the signal `work` is given aborts when it is lost, or with `signal`.
 */
export async function underLease<T>(
  { store, clock, log }: Pick<ArchiveDeps, 'store' | 'clock' | 'log'>,
  id: LeaseId,
  signal: AbortSignal,
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const lost = new AbortController();
  const done = new AbortController();
  const both = AbortSignal.any([signal, lost.signal]);
  const keep = async (): Promise<void> => {
    while (!done.signal.aborted) {
      await clock.sleep(LEASE_MS / 4, done.signal);
      if (!(await store.ledger.renew(id, LEASE_MS)))
        lost.abort(new Error('somebody else has taken this over'));
    }
  };
  keep().catch((error: unknown) => {
    if (!done.signal.aborted) log.warn({ lease: id, ...errorFields(error) }, 'could not renew a lease');
  });
  try {
    return await work(both);
  } finally {
    done.abort();
  }
}

/** The manifest of a stored snapshot, checked against what the database knows of it. */
export async function readManifest(
  { home, keys }: Pick<ArchiveDeps, 'home' | 'keys'>,
  { id, accountId, manifest }: Pick<Snapshot, 'id' | 'accountId' | 'manifest'>,
  signal: AbortSignal,
): Promise<Manifest> {
  if (manifest === null)
    throw new Failure('unavailable', `Snapshot ${id} is not in the store.`, { details: { snapshot: id } });
  const bytes = await home.get(manifest.name, { maxBytes: MANIFEST_MAX, signal });
  return decodeManifest(bytes, await keys(accountId), manifest.sha256);
}

/** Names of a snapshot's images in the store. */
export const IMAGES = {
  memory: 'memory',
  state: 'vmstate',
  disk: 'disk.0',
  kernel: 'kernel',
  vmlinux: 'vmlinux',
  initrd: 'initrd',
} as const;

/** What is kept of a snapshot beside its images: enough to make its row anew. */
export interface StoredIdentity {
  readonly snapshotId: SnapshotId;
  readonly accountId: AccountId;
  readonly snapshot: Snapshot;
}

/** How folders in the spool begin that are worthless without the process that made them: those of exports and imports. */
export const TRAVEL = ['export-', 'import-'] as const;
