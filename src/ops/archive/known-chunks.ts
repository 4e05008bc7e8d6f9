import type { AccountId, SnapshotId } from '../../base/ids.ts';
import { errorFields } from '../../base/logger.ts';
import { blobSource } from '../../store/blobs/byte-source.ts';
import { packName, parsePackId, type PackId } from '../../store/blobs/format.ts';
import { ChunkIndex, type ChunkLookup } from '../../store/blobs/lookup.ts';
import { readPackIndex } from '../../store/blobs/pack.ts';
import type { PackIndex } from '../../store/blobs/pack-bytes.ts';
import type { LeaseId } from '../../store/ledger.ts';
import type { Snapshot } from '../../model/snapshot.ts';
import type { ArchiveDeps } from './deps.ts';

/** How many snapshots of others with the same image are looked through for chunks that are there already. */
const OTHERS = 3;
/** Packs whose contents are remembered; about 60 KB each. */
const REMEMBERED = 1000;
const AT_ONCE = 8;

/** What is stored already and likely to come again: that of the VM's earlier snapshots, and of others of its image. */
export class KnownChunks {
  readonly #deps: Pick<ArchiveDeps, 'store' | 'home' | 'keys' | 'log'>;
  /** By pack, the longest unused first. */
  readonly #indexes = new Map<PackId, PackIndex>();

  constructor(deps: Pick<ArchiveDeps, 'store' | 'home' | 'keys' | 'log'>) {
    this.#deps = deps;
  }

  /** A lookup over packs that the lease holds from now on: a place it gives is there as long as the lease is. */
  async lookup(lease: LeaseId, snapshot: Snapshot, signal: AbortSignal): Promise<ChunkLookup> {
    const { store, log } = this.#deps;
    const wanted = await this.#packsLikely(snapshot);
    const held = (await store.ledger.reuse(lease, wanted)) ?? [];
    const index = new ChunkIndex();
    const left = held.map((id) => parsePackId(id)).filter((id) => id !== undefined);
    const worker = async (): Promise<void> => {
      for (let id = left.shift(); id !== undefined; id = left.shift()) {
        try {
          index.add(await this.#indexOf(snapshot.accountId, id, signal));
        } catch (error) {
          signal.throwIfAborted();
          // Not knowing a chunk costs its bytes and nothing else.
          log.warn({ pack: id, ...errorFields(error) }, 'a pack could not be looked into');
        }
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, worker));
    return index;
  }

  async #packsLikely({ id, accountId, vmId, imageId }: Snapshot): Promise<readonly PackId[]> {
    const { store } = this.#deps;
    const all = await store.snapshots.list({ accountId }, { limit: 1000 });
    const stored = all.filter((one) => one.id !== id && one.manifest !== null && one.state !== 'damaged');
    const own = stored.filter((one) => one.vmId === vmId).slice(0, OTHERS);
    const alike = stored.filter((one) => one.vmId !== vmId && one.imageId === imageId).slice(0, OTHERS);
    const packs = new Set<PackId>();
    for (const one of [...own, ...alike]) for (const pack of await this.#packsOf(one.id)) packs.add(pack);
    return [...packs];
  }

  async #packsOf(id: SnapshotId): Promise<readonly PackId[]> {
    const blobs = await this.#deps.store.ledger.ofSnapshot(id);
    return blobs
      .filter(({ kind, state }) => kind === 'pack' && state === 'live')
      .map((blob) => parsePackId(blob.id))
      .filter((pack) => pack !== undefined);
  }

  async #indexOf(account: AccountId, id: PackId, signal: AbortSignal): Promise<PackIndex> {
    const { home, keys } = this.#deps;
    const found =
      this.#indexes.get(id) ??
      (await readPackIndex(
        await blobSource(home, packName({ account, id }), signal),
        id,
        await keys(account),
        signal,
      ));
    this.#indexes.delete(id);
    this.#indexes.set(id, found);
    for (const oldest of this.#indexes.keys()) {
      if (this.#indexes.size <= REMEMBERED) break;
      this.#indexes.delete(oldest);
    }
    return found;
  }
}
