import type { LayerId, SnapshotId } from '../../base/ids.ts';
import { errorFields } from '../../base/logger.ts';
import { SingleFlight } from '../../base/single-flight.ts';
import { sooner } from '../../base/sooner.ts';
import { Failure, notFound } from '../../model/failure.ts';
import type { Snapshot } from '../../model/snapshot.ts';
import { isBlobError } from '../../store/blobs/blob-error.ts';
import { OtherSave } from '../../store/blobs/spool.ts';
import { BadBlobs } from '../../store/ledger.ts';
import { remove } from '../../host/files.ts';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { LOOK_AGAIN_MS } from '../settings.ts';
import { layerFolder } from '../layers.ts';
import { TRAVEL, type ArchiveDeps } from './deps.ts';
import { checkStored, reread } from './check.ts';
import { adoptFiles, fetchFiles, type FetchedFiles } from './fetch-snapshot.ts';
import { KnownChunks } from './known-chunks.ts';
import { openStoredDisk, type StoredDisk } from './stored-disk.ts';
import { Respool, storeSnapshot, type StoreOutcome } from './store-snapshot.ts';

/** Progress of bytes on their way to or from the store. */
export interface Transfer {
  readonly what: 'store' | 'fetch';
  readonly done: number;
  readonly total: number;
}

const FIRST_RETRY_MS = 5_000;
const LONGEST_RETRY_MS = 10 * 60_000;
/** An attempt that has to be made anew at once is made so often. */
const AT_ONCE_TRIES = 3;

/**
 * Carries snapshots to the store, in the background and one after the other, and brings them back when their files are not on this
 * host. What it knows is in the database and in its spool: another daemon goes on where it was.
 */
export class Archive {
  readonly #deps: ArchiveDeps;
  readonly #known: KnownChunks;
  readonly #queue: SnapshotId[] = [];
  readonly #closing = new AbortController();
  readonly #attempts = new Map<SnapshotId, number>();
  readonly #transfers = new Map<SnapshotId, Transfer>();
  readonly #fetching = new SingleFlight<Snapshot>();
  readonly #held = new Set<LayerId>();
  readonly #waiting = new Map<SnapshotId, Set<() => void>>();
  #current:
    { readonly id: SnapshotId; readonly abort: AbortController; readonly ended: Promise<void> } | undefined;
  #working: Promise<void> | undefined;

  constructor(deps: ArchiveDeps) {
    this.#deps = deps;
    this.#known = new KnownChunks(deps);
  }

  /** What it works with, for those who look after the store. */
  get deps(): ArchiveDeps {
    return this.#deps;
  }

  /** Wants a snapshot stored; what is stored already, or was only made for a fork, is passed over. */
  enqueue(id: SnapshotId): void {
    if (this.#closing.signal.aborted || this.#queue.includes(id) || this.#current?.id === id) return;
    this.#queue.push(id);
    this.#working ??= this.#work().finally(() => (this.#working = undefined));
  }

  /** Takes up what a daemon before us left to be stored on this host, and clears what exports and imports left. */
  async resume(): Promise<void> {
    const { store, settings, spoolFolder } = this.#deps;
    for (const name of await readdir(spoolFolder).catch(() => []))
      if (TRAVEL.some((prefix) => name.startsWith(prefix))) await remove(join(spoolFolder, name));
    for (const { id, state, kind } of await store.snapshots.ofHost(settings.hostId)) {
      if (kind !== 'fork' && state !== 'durable') this.enqueue(id);
    }
  }

  /** How far a snapshot's bytes are on their way; undefined when none are. */
  transfer(id: SnapshotId): Transfer | undefined {
    return this.#transfers.get(id);
  }

  /** Whether a layer is being brought here, though no row names it yet. */
  holds(id: LayerId): boolean {
    return this.#held.has(id);
  }

  /** Gives up storing a snapshot that is about to be removed; resolves when its files are not read any more. */
  async forget(id: SnapshotId): Promise<void> {
    const at = this.#queue.indexOf(id);
    if (at !== -1) this.#queue.splice(at, 1);
    if (this.#current?.id === id) {
      this.#current.abort.abort(new Forgotten());
      await this.#current.ended;
    }
    this.#attempts.delete(id);
    await remove(join(this.#deps.spoolFolder, id));
    this.#wake(id);
  }

  /** Resolves with the snapshot once it is durable. Rejects with `not_found` when it is deleted, or the signal's reason. */
  async stored(id: SnapshotId, signal: AbortSignal): Promise<Snapshot> {
    this.enqueue(id);
    for (;;) {
      signal.throwIfAborted();
      const { promise, resolve } = Promise.withResolvers<void>();
      const waiting = this.#waiting.get(id) ?? new Set();
      waiting.add(resolve);
      this.#waiting.set(id, waiting);
      signal.addEventListener('abort', () => resolve(), { once: true });
      const snapshot = await this.#deps.store.snapshots.get(id);
      if (!snapshot) throw notFound('snapshot', id);
      if (snapshot.state === 'durable') return snapshot;
      if (snapshot.state === 'damaged' && !this.#isHere(snapshot))
        throw new Failure(
          'unavailable',
          `Snapshot ${id} is damaged: ${snapshot.problem ?? 'its bytes do not read'}`,
          {
            details: { id },
          },
        );
      // Nobody tells us when another host has stored it.
      await (snapshot.hostId === this.#deps.settings.hostId
        ? promise
        : sooner({ clock: this.#deps.clock, signal }, promise, LOOK_AGAIN_MS));
      waiting.delete(resolve);
    }
  }

  #wake(id: SnapshotId): void {
    const waiting = this.#waiting.get(id);
    this.#waiting.delete(id);
    for (const wake of waiting ?? []) wake();
  }

  async #work(): Promise<void> {
    for (let id = this.#queue.shift(); id !== undefined; id = this.#queue.shift()) {
      if (this.#closing.signal.aborted) return;
      const abort = new AbortController();
      const { promise: ended, resolve: end } = Promise.withResolvers<void>();
      this.#current = { id, abort, ended };
      try {
        await this.#attempt(id, AbortSignal.any([abort.signal, this.#closing.signal]));
      } finally {
        this.#current = undefined;
        this.#transfers.delete(id);
        end();
        this.#wake(id);
      }
    }
  }

  async #attempt(id: SnapshotId, signal: AbortSignal): Promise<void> {
    const { log } = this.#deps;
    try {
      const from = this.#deps.clock.now();
      const outcome = await this.#tries(id, signal);
      this.#attempts.delete(id);
      if (outcome === 'behind') this.#retry(id);
      if (outcome === 'stored')
        log.info({ snapshot: id, ms: this.#deps.clock.now() - from }, 'snapshot stored');
    } catch (error) {
      if (signal.aborted) return;
      log.warn({ snapshot: id, ...errorFields(error) }, 'a snapshot could not be stored; it is tried again');
      this.#retry(id);
    }
  }

  /** What failed for a reason of its own making is made anew at once. */
  async #tries(id: SnapshotId, signal: AbortSignal): Promise<StoreOutcome> {
    for (let tries = 1; ; tries++) {
      try {
        return await storeSnapshot(this.#deps, this.#known, id, signal, (done, total) =>
          this.#transfers.set(id, { what: 'store', done, total }),
        );
      } catch (error) {
        const anew = error instanceof Respool || error instanceof BadBlobs || error instanceof OtherSave;
        if (!anew || tries === AT_ONCE_TRIES) throw error;
        await remove(join(this.#deps.spoolFolder, id));
      }
    }
  }

  #retry(id: SnapshotId): void {
    const attempt = (this.#attempts.get(id) ?? 0) + 1;
    this.#attempts.set(id, attempt);
    const ms = Math.min(LONGEST_RETRY_MS, FIRST_RETRY_MS * 2 ** (attempt - 1));
    this.#deps.clock.sleep(ms, this.#closing.signal).then(
      () => this.enqueue(id),
      () => undefined,
    );
  }

  /**
   * The snapshot with its files on this host: brought here from the store when they are not. Whoever asks meanwhile waits for the same.
   * Throws `unavailable` in a sentence when they cannot be had.
   */
  async bring(snapshot: Snapshot, signal: AbortSignal): Promise<Snapshot> {
    if (this.#isHere(snapshot)) return snapshot;
    return this.#fetching.run(snapshot.id, () =>
      this.holding(signal, async (hold, within) => {
        try {
          const files = await fetchFiles(
            this.#deps,
            snapshot,
            within,
            (done, total) => this.#transfers.set(snapshot.id, { what: 'fetch', done, total }),
            hold,
          );
          return await adoptFiles(this.#deps, snapshot, files);
        } catch (error) {
          if (isBlobError(error, 'damaged', 'missing')) await this.#check(snapshot.id);
          throw isBlobError(error) ? unreadable(snapshot, error) : error;
        } finally {
          this.#transfers.delete(snapshot.id);
        }
      }),
    );
  }

  /**
   * Works with layers that no row names yet: none that `hold` was told of is taken for a leftover as long as `work` goes on. The signal
   * it is given aborts with `signal`, and when the daemon ends.
   */
  async holding<T>(
    signal: AbortSignal,
    work: (hold: (id: LayerId) => void, within: AbortSignal) => Promise<T>,
  ): Promise<T> {
    const held: LayerId[] = [];
    const hold = (id: LayerId): void => {
      held.push(id);
      this.#held.add(id);
    };
    try {
      return await work(hold, AbortSignal.any([signal, this.#closing.signal]));
    } finally {
      for (const id of held) this.#held.delete(id);
    }
  }

  /**
   * Lends the files of a stored snapshot, brought here for this alone, in layers that no row names; they are gone when `work` has
   * ended. Throws as `bring` does.
   */
  async lend<T>(
    snapshot: Snapshot,
    signal: AbortSignal,
    work: (files: FetchedFiles) => Promise<T>,
  ): Promise<T> {
    const held: LayerId[] = [];
    return this.holding(signal, async (hold, within) => {
      try {
        const files = await fetchFiles(
          this.#deps,
          snapshot,
          within,
          () => undefined,
          (id) => {
            held.push(id);
            hold(id);
          },
        );
        // What was damaged may have been put right.
        if (snapshot.state === 'damaged') await this.#check(snapshot.id);
        return await work(files);
      } catch (error) {
        if (isBlobError(error, 'damaged', 'missing')) await this.#check(snapshot.id);
        throw isBlobError(error) ? unreadable(snapshot, error) : error;
      } finally {
        for (const id of held) await remove(layerFolder(this.#deps.settings, id));
      }
    });
  }

  #isHere({ hostId, stateLayerId }: Snapshot): boolean {
    return hostId === this.#deps.settings.hostId && stateLayerId !== null;
  }

  /** Reads so many objects again that were not read whole for so long; what is damaged is said of all that need it. Throws BlobError. */
  async reread(
    options: { readonly ageMs: number; readonly limit: number },
    signal: AbortSignal,
  ): Promise<void> {
    await this.#storeAnew(await reread(this.#deps, options, signal));
  }

  async #storeAnew(damaged: readonly SnapshotId[]): Promise<void> {
    for (const id of damaged) {
      const snapshot = await this.#deps.store.snapshots.get(id);
      if (snapshot && this.#isHere(snapshot)) this.enqueue(id);
    }
  }

  /** Finds what of a stored snapshot does not read, and says so of all that need it; those whose files are here are stored anew. */
  async #check(id: SnapshotId): Promise<void> {
    const { log } = this.#deps;
    try {
      await this.#storeAnew(await checkStored(this.#deps, id, this.#closing.signal));
    } catch (error) {
      log.warn({ snapshot: id, ...errorFields(error) }, 'a damaged snapshot could not be looked through');
    }
  }

  /**
   * The disk of a stored snapshot, to be read where it lies; nothing is brought here. Throws `unavailable` in a sentence when it cannot
   * be read, also later.
   */
  async openDisk(snapshot: Snapshot, signal: AbortSignal): Promise<StoredDisk> {
    const told = async (error: unknown): Promise<never> => {
      if (isBlobError(error, 'damaged', 'missing')) await this.#check(snapshot.id);
      throw isBlobError(error) ? unreadable(snapshot, error) : error;
    };
    const both = AbortSignal.any([signal, this.#closing.signal]);
    const { sizeBytes, read, close } = await openStoredDisk(this.#deps, snapshot, both).catch(told);
    return { sizeBytes, read: (offset, length) => read(offset, length).catch(told), close };
  }

  /** Lets go: what is on its way is cut off, for the next daemon to go on with. */
  async close(): Promise<void> {
    this.#closing.abort(new Error('the server is stopping'));
    await this.#working?.catch(() => undefined);
    await this.#deps.chunks.close();
  }
}

/** The snapshot is being removed. */
class Forgotten extends Error {
  override readonly name = 'Forgotten';
  constructor() {
    super('the snapshot is being removed');
  }
}

/** What keeps a stored snapshot from being read, as a person is told. */
export function unreadable({ id }: Pick<Snapshot, 'id'>, error: Error): Failure {
  const full = isBlobError(error, 'no_space');
  return new Failure(
    full ? 'no_space' : 'unavailable',
    full
      ? `The host's disk has no room for snapshot ${id}. Remove VMs or snapshots you do not need, or give it more room.`
      : `Snapshot ${id} could not be read from the store: ${error.message}.`,
    { details: { snapshot: id }, cause: error },
  );
}
