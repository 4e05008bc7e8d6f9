import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { manifestName, newManifestId, newPackId, type ManifestId, type PackId } from '../blobs/format.ts';
import type { BlobId, Lease, NewBlob, Publication } from '../ledger.ts';
import type { Owner, Store } from '../store.ts';
import type { Snapshot } from '../../model/snapshot.ts';
import type { Vm } from '../../model/vm.ts';
import type { Layer } from '../../model/records.ts';
import { asleepToBe, newSnapshot, seal } from './snapshots.ts';
import { ownerOf } from './support.ts';

export const LONG = 3_600_000;
export const PACK_BYTES = 1000;

/** A VM that can be saved again and again, and what it takes to store its snapshots. */
export class Sleeper {
  readonly store: Store;
  readonly vm: Vm;
  readonly owner: Owner;
  readonly #disk: Layer;

  constructor(store: Store, vm: Vm, disk: Layer) {
    this.store = store;
    this.vm = vm;
    this.owner = ownerOf(vm);
    this.#disk = disk;
  }

  /** A snapshot that only its host has. */
  async save(kind: Snapshot['kind'] = 'manual'): Promise<Snapshot> {
    const now = await this.store.vms.get(this.vm.id);
    assert.ok(now);
    return seal(this.store, now, newSnapshot(now, this.#disk.id, { kind }));
  }

  async begin(snapshot: Snapshot, leaseMs = LONG): Promise<Lease> {
    const lease = await this.store.ledger.beginUpload(snapshot.id, this.owner, leaseMs);
    assert.ok(lease && 'id' in lease, 'the upload did not begin');
    return lease;
  }

  pack(id: PackId = newPackId(0), bytes: number = PACK_BYTES): NewBlob & { readonly id: PackId } {
    return { id, kind: 'pack', accountId: this.vm.accountId, bytes };
  }

  manifest(): NewBlob & { readonly id: ManifestId } {
    return { id: newManifestId(0), kind: 'manifest', accountId: this.vm.accountId, bytes: 10 };
  }

  /** Writes blobs down and has them arrive. */
  async put(lease: Lease, ...blobs: readonly NewBlob[]): Promise<void> {
    const ids = blobs.map((blob) => blob.id);
    assert.deepEqual(await this.store.ledger.add(lease.id, blobs), ids);
    for (const id of ids) assert.equal(await this.store.ledger.arrived(lease.id, id), true);
  }

  /** What publishing a snapshot of these packs takes, each used whole. */
  publication(manifest: { readonly id: ManifestId }, packs: readonly BlobId[]): Publication {
    const sha256 = createHash('sha256').update(manifest.id).digest('hex');
    return {
      manifest: { id: manifest.id, name: manifestName(this.vm.accountId, manifest.id), sha256 },
      packs: packs.map((id) => ({ id, bytes: PACK_BYTES })),
    };
  }

  /** A durable snapshot of `fresh` new packs and of those to reuse. */
  async durable(fresh: number, reused: readonly BlobId[] = [], kind: Snapshot['kind'] = 'manual') {
    const saved = await this.save(kind);
    const lease = await this.begin(saved);
    const packs = Array.from({ length: fresh }, () => this.pack());
    const manifest = this.manifest();
    await this.put(lease, ...packs, manifest);
    assert.deepEqual(await this.store.ledger.reuse(lease.id, reused), [...reused].sort());
    const publication = this.publication(manifest, [...packs.map((pack) => pack.id), ...reused]);
    const snapshot = await this.store.ledger.publish(lease.id, this.owner, publication);
    assert.ok(snapshot, 'it was not published');
    return { snapshot, packs: packs.map((pack) => pack.id), manifest: manifest.id, lease, publication };
  }

  /** Collects until nothing is left, as the home would; gives the objects of its account that were removed. */
  async collect(graceMs = 0): Promise<ReadonlySet<BlobId>> {
    const removed = new Set<BlobId>();
    for (;;) {
      const due = await this.store.ledger.collect({ graceMs, limit: 100 });
      if (due.length === 0) return removed;
      for (const { id, accountId } of due) {
        if (accountId === this.vm.accountId) removed.add(id);
        await this.store.ledger.gone(id);
      }
    }
  }

  async states(ids: readonly BlobId[]): Promise<readonly (string | undefined)[]> {
    return Promise.all(ids.map(async (id) => (await this.store.ledger.get(id))?.state));
  }
}

/** A VM to save, in an account of its own. */
export async function sleeper(store: Store): Promise<Sleeper> {
  const { vm, disk } = await asleepToBe(store);
  return new Sleeper(store, vm, disk);
}
