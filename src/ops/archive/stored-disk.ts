import type { Snapshot } from '../../model/snapshot.ts';
import { Failure } from '../../model/failure.ts';
import { IMAGES, LEASE_MS, readManifest, underLease, type ArchiveDeps } from './deps.ts';

/** A snapshot's disk in the store, read where it lies. */
export interface StoredDisk {
  readonly sizeBytes: number;
  readonly read: (offset: number, length: number) => Promise<Buffer>;
  /** Lets go of what it is read from. Twice is as good as once. */
  readonly close: () => Promise<void>;
}

/**
 * Opens the disk of a stored snapshot without bringing anything here: only what is looked at is fetched. Until it is closed nothing of it
 * is removed from the store. Rejects with BlobError, Failure or the signal's reason; so do its reads.
 */
export async function openStoredDisk(
  deps: ArchiveDeps,
  snapshot: Snapshot,
  signal: AbortSignal,
): Promise<StoredDisk> {
  const { store, settings, chunks, log } = deps;
  const lease = await store.ledger.beginReading(snapshot.id, settings.hostId, LEASE_MS);
  if (lease === null)
    throw new Failure('unavailable', `Snapshot ${snapshot.id} is neither on this host nor in the store.`, {
      details: { snapshot: snapshot.id },
    });
  const opened = Promise.withResolvers<StoredDisk>();
  const closed = Promise.withResolvers<void>();
  const work = underLease(deps, lease.id, signal, async (within) => {
    const view = chunks.look(await readManifest(deps, snapshot, within), IMAGES.disk);
    opened.resolve({
      sizeBytes: view.bytes,
      read: (offset, length) => view.read(offset, length, within),
      close: () => {
        closed.resolve();
        return work;
      },
    });
    await closed.promise;
  })
    .catch((error: unknown) => opened.reject(error))
    .then(() => store.ledger.release(lease.id))
    // It runs out by itself.
    .catch((error: unknown) =>
      log.warn({ snapshot: snapshot.id, error: String(error) }, 'could not release a lease'),
    );
  return opened.promise;
}
