import assert from 'node:assert/strict';
import fc from 'fast-check';
import type { SnapshotId } from '../../base/ids.ts';
import type { BlobId, Lease } from '../ledger.ts';
import type { Store } from '../store.ts';
import { LONG, sleeper, type Sleeper } from './stored.ts';
import type { Declare } from './support.ts';

/** What one VM's host does, one after the other; hosts, readers, removers and the collector do it all at once. */
const upload = fc.record({
  fresh: fc.integer({ min: 1, max: 3 }),
  reuse: fc.array(fc.nat(), { maxLength: 4 }),
  kind: fc.constantFrom('manual' as const, 'idle' as const),
  end: fc.constantFrom('publish', 'publish', 'publish', 'late', 'release', 'vanish'),
});
type Upload = typeof upload extends fc.Arbitrary<infer T> ? T : never;

const script = fc.record({
  uploads: fc.array(fc.array(upload, { minLength: 2, maxLength: 5 }), { minLength: 3, maxLength: 3 }),
  removals: fc.array(fc.nat(), { minLength: 2, maxLength: 6 }),
  merges: fc.array(fc.nat(), { maxLength: 4 }),
  readings: fc.array(fc.nat(), { maxLength: 4 }),
  rounds: fc.integer({ min: 3, max: 10 }),
});

/** Whatever happens at once: no object is removed that a durable snapshot or a reader needs, and in the end none is left. */
export function ledgerRandomTests(test: Declare): void {
  test('whatever uploads, builds on, removes, reads, merges and collects at once, nothing needed is deleted and nothing else is kept', async ({
    store,
  }) => {
    await fc.assert(
      fc.asyncProperty(script, async ({ uploads, removals, merges, readings, rounds }) => {
        const world = new World(store);
        const hosts = await Promise.all(uploads.map(() => sleeper(store)));
        await Promise.all([
          ...hosts.map((host, index) => world.upload(host, uploads[index] ?? [])),
          world.remove(removals),
          world.merge(hosts, merges),
          world.read(readings),
          world.collect(rounds),
        ]);
        world.check();
        await world.removeAll(hosts);
        await world.collect(3);
        await world.checkEmpty();
      }),
      { numRuns: 8, endOnFailure: true },
    );
  });
}

class World {
  readonly #store: Store;
  /** The objects in the home. */
  readonly #home = new Set<BlobId>();
  /** What must be there: of each durable snapshot that nobody wanted removed, its blobs. */
  readonly #durable = new Map<SnapshotId, readonly BlobId[]>();
  /** Every pack that was ever published. */
  readonly #packs: BlobId[] = [];

  constructor(store: Store) {
    this.#store = store;
  }

  async upload(host: Sleeper, plans: readonly Upload[]): Promise<void> {
    for (const plan of plans) await this.#uploadOne(host, plan);
  }

  async #uploadOne(host: Sleeper, plan: Upload): Promise<void> {
    const { ledger } = this.#store;
    const saved = await host.save(plan.kind);
    const lease = await ledger.beginUpload(saved.id, host.owner, plan.end === 'vanish' ? 0 : LONG);
    // Behind one that vanished and was not collected yet.
    if (!lease || 'behind' in lease) return;
    const fresh = Array.from({ length: plan.fresh }, () => host.pack());
    const manifest = host.manifest();
    const given = await ledger.add(lease.id, [...fresh, manifest]);
    for (const id of given ?? []) {
      this.#home.add(id);
      await ledger.arrived(lease.id, id);
    }
    const wanted = new Set(plan.reuse.flatMap((pick) => this.#packs[pick % this.#packs.length] ?? []));
    const reused = await ledger.reuse(lease.id, [...wanted]);
    if (plan.end === 'vanish') return;
    if (plan.end === 'release') return ledger.release(lease.id, 'given up');
    if (plan.end === 'late') await ledger.renew(lease.id, 0);
    const packs = [...fresh.map((pack) => pack.id), ...(reused ?? [])];
    const published = await ledger.publish(lease.id, host.owner, host.publication(manifest, packs));
    if (!published) {
      assert.equal(plan.end, 'late', 'only a lease that ran out may be lost');
      return;
    }
    this.#durable.set(saved.id, [...packs, manifest.id]);
    this.#packs.push(...fresh.map((pack) => pack.id));
  }

  async remove(picks: readonly number[]): Promise<void> {
    for (const pick of picks) {
      await this.#anybody();
      const ids = [...this.#durable.keys()];
      const id = ids[pick % ids.length];
      if (id === undefined) continue;
      this.#durable.delete(id);
      assert.equal(await this.#store.snapshots.remove(id), true);
    }
  }

  async read(picks: readonly number[]): Promise<void> {
    for (const pick of picks) {
      await this.#anybody();
      const ids = [...this.#durable.keys()];
      const id = ids[pick % ids.length];
      const lease = id && (await this.#store.ledger.beginReading(id, 'reader', LONG));
      if (!lease) continue;
      for (const blob of lease.blobs) {
        await this.#store.ping();
        assert.ok(this.#home.has(blob.id), `${blob.id} was taken from a reader`);
      }
      await this.#store.ledger.release(lease.id);
    }
  }

  /** Puts another pack in the place of one, for all that need it. */
  async merge(hosts: readonly Sleeper[], picks: readonly number[]): Promise<void> {
    const { ledger } = this.#store;
    for (const pick of picks) {
      await this.#anybody();
      const old = this.#packs[pick % this.#packs.length];
      const host = hosts[pick % hosts.length];
      if (!old || !host) continue;
      const leases: Lease[] = [];
      for (const id of await ledger.namedBy(old)) {
        const lease = this.#durable.has(id) && (await ledger.beginRewriting(id, 'merger', LONG));
        if (lease) leases.push(lease);
      }
      const merged = host.pack();
      let there = false;
      for (const { id, snapshotId, blobs } of leases) {
        // Removed while the others were made anew: then this one stays as it is.
        if (there && (await ledger.reuse(id, [merged.id]))?.length !== 1) continue;
        const manifest = host.manifest();
        for (const blob of (await ledger.add(id, there ? [manifest] : [manifest, merged])) ?? []) {
          this.#home.add(blob);
          await ledger.arrived(id, blob);
        }
        const rest = blobs.filter((blob) => blob.kind === 'pack' && blob.id !== old).map((blob) => blob.id);
        const packs = [...rest, merged.id];
        const made = await ledger.publish(id, null, host.publication(manifest, packs));
        if (!made) continue;
        there = true;
        if (this.#durable.has(snapshotId)) this.#durable.set(snapshotId, [...packs, manifest.id]);
      }
      for (const { id } of leases) await ledger.release(id);
      if (there) this.#packs.push(merged.id);
    }
  }

  async collect(rounds: number): Promise<void> {
    for (let round = 0; round < rounds; round++) {
      for (const { id } of await this.#store.ledger.collect({ graceMs: 0, limit: 1000 })) {
        this.#home.delete(id);
        await this.#store.ledger.gone(id);
      }
    }
  }

  check(): void {
    for (const [snapshot, ids] of this.#durable)
      for (const id of ids) assert.ok(this.#home.has(id), `${id} of ${snapshot} was deleted`);
  }

  async removeAll(hosts: readonly Sleeper[]): Promise<void> {
    for (const { vm } of hosts)
      for (const { id } of await this.#store.snapshots.ofVm(vm.id)) await this.#store.snapshots.remove(id);
  }

  /** What was put after its lease had ended lies under a tombstone, for a sweep of the home to find. */
  async checkEmpty(): Promise<void> {
    for (const id of this.#home) assert.equal((await this.#store.ledger.get(id))?.state, 'deleted');
  }

  /** Lets the others come first. */
  async #anybody(): Promise<void> {
    for (let i = 0; i < 5; i++) await this.#store.ping();
  }
}
