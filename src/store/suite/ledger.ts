import assert from 'node:assert/strict';
import { newId } from '../../base/ids.ts';
import { newPackId } from '../blobs/format.ts';
import { BadBlobs } from '../ledger.ts';
import { furnish } from '../fixtures.ts';
import { LONG, PACK_BYTES, sleeper } from './stored.ts';
import type { Declare } from './support.ts';

/** What lies in the home of blobs: put, built on, published, let go. */
export function ledgerTests(test: Declare): void {
  test('a snapshot becomes durable with its packs, and again is as good as once', async ({ store }) => {
    const one = await sleeper(store);
    const saved = await one.save();
    const lease = await one.begin(saved);
    assert.deepEqual(lease.blobs, []);
    assert.equal((await store.snapshots.get(saved.id))?.state, 'uploading');
    const [pack, spare, manifest] = [one.pack(), one.pack(), one.manifest()];
    await one.put(lease, pack, spare, manifest);
    assert.deepEqual(await one.states([pack.id, manifest.id]), ['uploading', 'uploading']);
    const publication = one.publication(manifest, [pack.id]);
    const durable = await store.ledger.publish(lease.id, one.owner, publication);
    const { name, sha256 } = publication.manifest;
    assert.deepEqual(durable, {
      ...saved,
      state: 'durable',
      storedBytes: PACK_BYTES + manifest.bytes,
      manifest: { name, sha256 },
    });
    assert.deepEqual(await store.ledger.publish(lease.id, one.owner, publication), durable);
    assert.deepEqual(await one.states([pack.id, manifest.id, spare.id]), ['live', 'live', 'condemned']);
    assert.deepEqual(
      (await store.ledger.ofSnapshot(saved.id)).map((blob) => blob.id),
      [pack.id, manifest.id].sort(),
    );
    assert.deepEqual(await store.ledger.use(one.vm.accountId), { blobs: 2, bytes: PACK_BYTES + 10 });
    assert.equal(await store.ledger.renew(lease.id, LONG), false, 'the lease is over');
    assert.equal(await store.ledger.beginUpload(saved.id, one.owner, LONG), null, 'there is nothing more');
  });

  test('who does not own the VM any more publishes nothing', async ({ store }) => {
    const one = await sleeper(store);
    const lease = await one.begin(await one.save());
    const [pack, manifest] = [one.pack(), one.manifest()];
    await one.put(lease, pack, manifest);
    const publication = one.publication(manifest, [pack.id]);
    const stale = { ...one.owner, epoch: one.owner.epoch + 1 };
    for (const owner of [stale, { ...one.owner, hostId: 'another' }, null])
      assert.equal(await store.ledger.publish(lease.id, owner, publication), null);
    assert.deepEqual(await one.states([pack.id, manifest.id]), ['uploading', 'uploading']);
    assert.equal((await store.snapshots.get(lease.snapshotId))?.state, 'uploading');
    assert.equal(await store.ledger.beginUpload(lease.snapshotId, stale, LONG), null);
    assert.ok(await store.ledger.publish(lease.id, one.owner, publication));
  });

  test('what is not held, or never arrived, is not published', async ({ store }) => {
    const one = await sleeper(store);
    const { packs } = await one.durable(1);
    const lease = await one.begin(await one.save());
    const [pack, manifest] = [one.pack(), one.manifest()];
    await one.put(lease, manifest);
    await store.ledger.add(lease.id, [pack]);
    const publish = (ids: Parameters<typeof one.publication>[1]) =>
      store.ledger.publish(lease.id, one.owner, one.publication(manifest, ids));
    await assert.rejects(publish([pack.id]), /never arrived/);
    await assert.rejects(publish(packs), /is not held/);
    await assert.rejects(publish([newPackId(0)]), /is not held/);
    assert.deepEqual(await store.ledger.ofSnapshot(lease.snapshotId), []);
    assert.equal(await store.ledger.arrived(lease.id, pack.id), true);
    assert.equal(await store.ledger.arrived(lease.id, newPackId(0)), false);
    assert.equal((await publish([pack.id]))?.state, 'durable');
  });

  test('an upload that begins again goes on with what it had', async ({ store }) => {
    const one = await sleeper(store);
    const saved = await one.save();
    const lease = await one.begin(saved);
    const [first, second] = [one.pack(), one.pack()];
    await one.put(lease, first);
    assert.deepEqual(await store.ledger.add(lease.id, [second]), [second.id]);
    const again = await one.begin(saved);
    assert.equal(again.id, lease.id);
    assert.deepEqual(
      new Map(again.blobs.map((blob) => [blob.id, blob.arrived])),
      new Map([
        [first.id, true],
        [second.id, false],
      ]),
    );
    assert.deepEqual(await store.ledger.add(lease.id, [second]), [second.id], 'it may be put again');
  });

  test('an upload nothing was heard of is ended, and begun anew with the same packs', async ({ store }) => {
    const one = await sleeper(store);
    const saved = await one.save();
    const lease = await one.begin(saved, 0);
    const pack = one.pack();
    await one.put(lease, pack);
    assert.deepEqual(await one.collect(LONG), new Set());
    assert.deepEqual(await one.states([pack.id]), ['condemned']);
    const local = await store.snapshots.get(saved.id);
    assert.deepEqual([local?.state, local?.problem?.slice(0, 19)], ['local', 'Its upload stopped:']);
    for (const late of [
      await store.ledger.add(lease.id, [one.pack()]),
      await store.ledger.reuse(lease.id, [pack.id]),
      await store.ledger.publish(lease.id, one.owner, one.publication(one.manifest(), [])),
    ])
      assert.equal(late, null);
    assert.equal(await store.ledger.arrived(lease.id, pack.id), false);
    assert.equal(await store.ledger.renew(lease.id, LONG), false);
    const again = await one.begin(saved);
    const other = { ...one.pack(pack.id), bytes: 5 };
    assert.deepEqual(await store.ledger.add(again.id, [other]), [], 'other bytes need another id');
    assert.deepEqual(await store.ledger.add(again.id, [pack]), [pack.id]);
    assert.deepEqual(await one.states([pack.id]), ['uploading']);
    await store.ledger.release(again.id, 'the disk was full');
    assert.equal((await store.snapshots.get(saved.id))?.problem, 'the disk was full');
    assert.deepEqual(await one.collect(), new Set([pack.id]));
    const late = await one.begin(saved);
    assert.deepEqual(await store.ledger.add(late.id, [pack]), [], 'the id is spent');
  });

  test('a lease that is renewed in time stays', async ({ store }) => {
    const one = await sleeper(store);
    const lease = await one.begin(await one.save(), 0);
    assert.equal(await store.ledger.renew(lease.id, LONG), true);
    await one.collect();
    assert.equal(await store.ledger.renew(lease.id, LONG), true);
  });

  test("a later snapshot takes over an idle one's upload with what arrived of it", async ({ store }) => {
    const one = await sleeper(store);
    const old = await one.save('idle');
    const lease = await one.begin(old);
    const [whole, half, manifest] = [one.pack(), one.pack(), one.manifest()];
    await one.put(lease, whole);
    await store.ledger.add(lease.id, [half]);
    const later = await one.save();
    const taken = await one.begin(later);
    assert.deepEqual(
      taken.blobs.map((blob) => [blob.id, blob.arrived]),
      [[whole.id, true]],
    );
    assert.deepEqual(await one.states([whole.id, half.id]), ['uploading', 'condemned']);
    assert.equal((await store.snapshots.get(old.id))?.state, 'local');
    assert.equal(await store.ledger.arrived(lease.id, half.id), false);
    await one.put(taken, manifest);
    assert.deepEqual(await store.ledger.reuse(taken.id, [whole.id, half.id]), [whole.id]);
    const publication = one.publication(manifest, [whole.id]);
    assert.equal((await store.ledger.publish(taken.id, one.owner, publication))?.storedBytes, 1010);
  });

  test('a named snapshot is waited for, and an older one never takes over', async ({ store }) => {
    const one = await sleeper(store);
    const named = await one.save();
    const idle = await one.save('idle');
    const lease = await one.begin(named);
    assert.deepEqual(await store.ledger.beginUpload(idle.id, one.owner, LONG), { behind: named.id });
    await store.ledger.release(lease.id);
    await one.begin(idle);
    assert.deepEqual(await store.ledger.beginUpload(named.id, one.owner, LONG), { behind: idle.id });
  });

  test('a pack that others need stays, and goes with the last of them', async ({ store }) => {
    const one = await sleeper(store);
    const first = await one.durable(2);
    const second = await one.durable(1, first.packs.slice(0, 1));
    assert.equal(second.snapshot.storedBytes, 1010, 'what is reused costs nothing');
    assert.equal(await store.snapshots.remove(first.snapshot.id), true);
    assert.deepEqual(await one.collect(), new Set([...first.packs.slice(1), first.manifest]));
    assert.deepEqual(await one.states(first.packs), ['live', 'deleted']);
    await store.snapshots.remove(second.snapshot.id);
    assert.equal((await one.collect()).size, 3);
    assert.deepEqual(await store.ledger.use(one.vm.accountId), { blobs: 0, bytes: 0 });
  });

  test('what nobody needs is deleted after a time of grace, and told until its object is gone', async ({
    store,
  }) => {
    const one = await sleeper(store);
    const { snapshot, packs, manifest } = await one.durable(1);
    await store.snapshots.remove(snapshot.id);
    await one.collect(LONG);
    const collect = async (graceMs: number) =>
      (await store.ledger.collect({ graceMs, limit: 1000 })).filter(
        (blob) => blob.accountId === one.vm.accountId,
      );
    assert.deepEqual(await collect(LONG), []);
    assert.deepEqual(await one.states([...packs, manifest]), ['condemned', 'condemned']);
    assert.equal((await collect(0)).length, 2);
    const again = await collect(0);
    assert.deepEqual(new Set(again.map((blob) => blob.id)), new Set([...packs, manifest]));
    assert.ok(again.every((blob) => blob.state === 'deleted' && blob.accountId === one.vm.accountId));
    for (const { id } of again) await store.ledger.gone(id);
    assert.deepEqual(await collect(0), []);
    assert.deepEqual(await one.states(packs), ['deleted'], 'the row stays');
  });

  test('who reads a snapshot reads it to the end, though it was removed', async ({ store }) => {
    const one = await sleeper(store);
    const { snapshot, packs, manifest } = await one.durable(1);
    const reading = await store.ledger.beginReading(snapshot.id, 'elsewhere', LONG);
    assert.deepEqual(
      reading?.blobs.map((blob) => blob.id),
      [...packs, manifest].sort(),
    );
    await store.snapshots.remove(snapshot.id);
    assert.deepEqual(await one.collect(), new Set());
    assert.equal(await store.ledger.beginReading(snapshot.id, 'elsewhere', LONG), null);
    assert.ok(reading);
    await store.ledger.release(reading.id);
    assert.equal((await one.collect()).size, 2);
    assert.equal(await store.ledger.beginReading((await one.save()).id, 'elsewhere', LONG), null);
  });

  test('removing a snapshot ends its upload', async ({ store }) => {
    const one = await sleeper(store);
    const lease = await one.begin(await one.save());
    const pack = one.pack();
    await one.put(lease, pack);
    await store.snapshots.remove(lease.snapshotId);
    assert.deepEqual(await one.states([pack.id]), ['condemned']);
    const publication = one.publication(one.manifest(), [pack.id]);
    assert.equal(await store.ledger.publish(lease.id, one.owner, publication), null);
    await store.ledger.release(lease.id);
  });

  test('a pack that is found bad damages its snapshots and is built on by nobody, until it is found right', async ({
    store,
  }) => {
    const one = await sleeper(store);
    const first = await one.durable(2);
    const [bad, other] = first.packs;
    assert.ok(bad && other);
    const lease = await one.begin(await one.save());
    assert.deepEqual(await store.ledger.reuse(lease.id, [bad]), [bad]);
    assert.deepEqual(await store.ledger.spoiled(bad, 'a byte fell over'), [first.snapshot.id]);
    assert.deepEqual(await store.ledger.spoiled(other, 'another too'), []);
    const hurt = await store.snapshots.get(first.snapshot.id);
    assert.deepEqual([hurt?.state, hurt?.problem], ['damaged', 'a byte fell over']);
    assert.deepEqual(await store.ledger.reuse(lease.id, [bad]), []);
    const manifest = one.manifest();
    await one.put(lease, manifest);
    await assert.rejects(
      store.ledger.publish(lease.id, one.owner, one.publication(manifest, [bad])),
      (error) => error instanceof BadBlobs && error.ids.includes(bad),
    );
    assert.deepEqual(await store.ledger.verified(other), []);
    assert.deepEqual(await store.ledger.verified(bad), [first.snapshot.id]);
    assert.equal((await store.snapshots.get(first.snapshot.id))?.problem, null);
    assert.deepEqual(await one.states([bad, other]), ['live', 'live']);
    assert.ok(await store.ledger.publish(lease.id, one.owner, one.publication(manifest, [bad])));
  });

  test('a damaged snapshot whose files are still here is uploaded again, of other packs', async ({
    store,
  }) => {
    const one = await sleeper(store);
    const first = await one.durable(1);
    await store.ledger.spoiled(first.packs[0] ?? first.manifest, 'gone');
    const lease = await one.begin(first.snapshot);
    await store.ledger.release(lease.id, 'not now');
    assert.equal((await store.snapshots.get(first.snapshot.id))?.state, 'damaged');
    const again = await one.begin(first.snapshot);
    const [pack, manifest] = [one.pack(), one.manifest()];
    await one.put(again, pack, manifest);
    const healed = await store.ledger.publish(again.id, one.owner, one.publication(manifest, [pack.id]));
    assert.deepEqual([healed?.state, healed?.problem], ['durable', null]);
    assert.deepEqual(await one.collect(), new Set([...first.packs, first.manifest]));
  });

  test('what was not read for long is told, the longest first', async ({ store }) => {
    const one = await sleeper(store);
    const { packs, manifest } = await one.durable(2);
    const mine = async (ageMs: number) =>
      (await store.ledger.unverified({ ageMs, limit: 10_000 }))
        .filter((blob) => blob.accountId === one.vm.accountId)
        .map((blob) => blob.id);
    assert.deepEqual(new Set(await mine(0)), new Set([...packs, manifest]));
    assert.deepEqual(await mine(LONG), []);
    const first = packs[0] ?? manifest;
    await store.ledger.verified(first);
    assert.notEqual((await store.ledger.get(first))?.verifiedAt, null);
    assert.equal((await mine(0)).at(-1), first);
    assert.deepEqual(await store.ledger.namedBy(first), [(await store.snapshots.ofVm(one.vm.id))[0]?.id]);
    assert.deepEqual(await store.ledger.namedBy(one.pack().id), []);
  });

  test("an account's secret is made once, and changed only by who knows it", async ({ store }) => {
    const { account } = await furnish(store);
    let made = 0;
    const make = () => `secret ${++made}`;
    const secrets = await Promise.all([1, 2, 3].map(() => store.ledger.secret(account.id, make)));
    assert.equal(new Set(secrets).size, 1);
    const [secret = ''] = secrets;
    assert.equal(await store.ledger.changeSecret(account.id, 'another', 'stolen'), false);
    assert.equal(await store.ledger.changeSecret(account.id, secret, 'wrapped anew'), true);
    assert.equal(await store.ledger.secret(account.id, () => assert.fail('there is one')), 'wrapped anew');
    assert.equal(await store.ledger.changeSecret(newId('acct'), secret, 'x'), false);
  });
}
