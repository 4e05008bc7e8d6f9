import assert from 'node:assert/strict';
import { newPackId } from '../blobs/format.ts';
import type { BlobId, SmallQuery } from '../ledger.ts';
import { LONG, PACK_BYTES, sleeper, type Sleeper } from './stored.ts';
import type { Declare } from './support.ts';

const SMALL: SmallQuery = {
  ageMs: 0,
  classes: [2 * PACK_BYTES, 8 * PACK_BYTES],
  atLeast: 3,
  namedAtMost: 10,
  limit: 10_000,
};

/** Which packs are worth to be written anew: they are mostly not needed, or small and many. */
export function ledgerPackTests(test: Declare): void {
  test('packs of which less than half is needed are told, and a snapshot is made anew without them', async ({
    store,
  }) => {
    const one = await sleeper(store);
    const whole = await one.durable(1);
    const saved = await one.save();
    const lease = await one.begin(saved);
    const [large, manifest] = [one.pack(newPackId(0), 10 * PACK_BYTES), one.manifest()];
    await one.put(lease, large, manifest);
    await store.ledger.reuse(lease.id, whole.packs);
    const publication = one.publication(manifest, [large.id, ...whole.packs]);
    await store.ledger.publish(lease.id, one.owner, publication);
    const mine = async (ageMs: number) =>
      (await store.ledger.sparse({ ageMs, limit: 1000 })).filter(
        (pack) => pack.accountId === one.vm.accountId,
      );
    assert.deepEqual(
      (await mine(0)).map(({ id, least, most, snapshots }) => ({ id, least, most, snapshots })),
      [{ id: large.id, least: PACK_BYTES, most: PACK_BYTES, snapshots: [saved.id] }],
    );
    assert.deepEqual(await mine(LONG), []);

    const rewriting = await store.ledger.beginRewriting(saved.id, 'elsewhere', LONG);
    assert.ok(rewriting);
    assert.equal(await store.ledger.beginRewriting(saved.id, 'another', LONG), null);
    const [dense, anew] = [one.pack(), one.manifest()];
    await one.put(rewriting, dense, anew);
    const next = one.publication(anew, [dense.id, ...whole.packs]);
    const made = await store.ledger.publish(rewriting.id, null, next);
    assert.deepEqual([made?.state, made?.manifest?.name], ['durable', next.manifest.name]);
    assert.equal(made?.storedBytes, 10 * PACK_BYTES + 10);
    assert.deepEqual(await one.collect(), new Set([large.id, manifest.id]));
    assert.deepEqual(await mine(0), []);
  });

  test('small packs are told where an account has many of one size, and with them who needs them', async ({
    store,
  }) => {
    const one = await sleeper(store);
    const first = await one.durable(2);
    assert.deepEqual(await small(one), new Map(), 'two are not many');
    const second = await one.durable(1, first.packs.slice(0, 1));
    const both = [first.snapshot.id, second.snapshot.id].sort();
    const told = new Map<BlobId, readonly string[]>([
      [first.packs[0] ?? assert.fail(), both],
      [first.packs[1] ?? assert.fail(), [first.snapshot.id]],
      [second.packs[0] ?? assert.fail(), [second.snapshot.id]],
    ]);
    assert.deepEqual(await small(one), told);
    assert.deepEqual(await small(one, { ageMs: LONG }), new Map(), 'they are young');
    assert.deepEqual(await small(one, { classes: [PACK_BYTES] }), new Map(), 'none is below that');
    assert.deepEqual(await small(one, { namedAtMost: 1 }), new Map(), 'one is named by more');
    assert.equal((await small(one, { limit: 2 })).size, 2);

    const larger = [4, 5, 6].map((times) => one.pack(newPackId(0), times * PACK_BYTES));
    const full = [8, 9, 10].map((times) => one.pack(newPackId(0), times * PACK_BYTES));
    const saved = await one.save();
    const lease = await one.begin(saved);
    const manifest = one.manifest();
    await one.put(lease, manifest, ...full, ...larger.slice(0, 2));
    const [, , last] = larger;
    assert.ok(last);
    const publication = one.publication(
      manifest,
      [...full, ...larger.slice(0, 2)].map(({ id }) => id),
    );
    await store.ledger.publish(lease.id, one.owner, publication);
    assert.deepEqual(await small(one), told, 'two of another size are not many');
    const other = await one.begin(await one.save());
    const its = one.manifest();
    await one.put(other, its, last);
    await store.ledger.publish(other.id, one.owner, one.publication(its, [last.id]));
    const all = await small(one);
    assert.deepEqual(new Set(all.keys()), new Set([...told.keys(), ...larger.map(({ id }) => id)]));
    const place = [...all.keys()].map((id) => told.has(id));
    assert.deepEqual(place, [true, true, true, false, false, false], 'those of one size are together');
  });

  test('small packs are left alone while an upload builds on them, or when a snapshot of theirs cannot be made anew', async ({
    store,
  }) => {
    const one = await sleeper(store);
    const { packs, snapshot } = await one.durable(4);
    const [built = assert.fail(), , , bad = assert.fail()] = packs;
    const lease = await one.begin(await one.save());
    await store.ledger.reuse(lease.id, [built]);
    assert.deepEqual(new Set((await small(one)).keys()), new Set(packs.slice(1)));
    await store.ledger.release(lease.id);
    assert.deepEqual(new Set((await small(one)).keys()), new Set(packs));
    const reader = await store.ledger.beginReading(snapshot.id, 'reader', LONG);
    assert.ok(reader);
    assert.deepEqual(new Set((await small(one)).keys()), new Set(packs), 'a reader keeps what it reads');
    await store.ledger.release(reader.id);
    await store.ledger.spoiled(bad, 'a byte fell over');
    assert.deepEqual(await small(one), new Map());
    await store.ledger.verified(bad);
    assert.deepEqual(new Set((await small(one)).keys()), new Set(packs));
    await store.snapshots.remove(snapshot.id);
    assert.deepEqual(await small(one), new Map(), 'nobody needs them');
  });

  test('packs that are merged while an upload builds on them stay for it, and go with it', async ({
    store,
  }) => {
    const one = await sleeper(store);
    const { packs, snapshot, manifest } = await one.durable(3);
    const upload = await one.begin(await one.save());
    const [kept = assert.fail(), ...gone] = packs;
    const rewriting = await store.ledger.beginRewriting(snapshot.id, 'elsewhere', LONG);
    assert.ok(rewriting);
    const [merged, anew] = [one.pack(), one.manifest()];
    await one.put(rewriting, merged, anew);
    assert.deepEqual(await store.ledger.reuse(upload.id, [kept]), [kept]);
    await store.ledger.publish(rewriting.id, null, one.publication(anew, [merged.id]));
    assert.deepEqual(await one.collect(), new Set([...gone, manifest]));
    const its = one.manifest();
    await one.put(upload, its);
    const later = await store.ledger.publish(upload.id, one.owner, one.publication(its, [kept]));
    assert.equal(later?.state, 'durable');
    assert.deepEqual(await one.collect(), new Set());
    await store.snapshots.remove(upload.snapshotId);
    assert.deepEqual(await one.collect(), new Set([kept, its.id]));
    assert.deepEqual(await one.states([merged.id, anew.id]), ['live', 'live']);
  });
}

/** The small packs of its account, in order, and who needs each. */
async function small(
  { store, vm }: Sleeper,
  query: Partial<SmallQuery> = {},
): Promise<ReadonlyMap<BlobId, readonly string[]>> {
  const found = await store.ledger.small({ ...SMALL, ...query });
  return new Map(
    found.filter(({ accountId }) => accountId === vm.accountId).map(({ id, snapshots }) => [id, snapshots]),
  );
}
