import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { open, readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import type { VmId } from '../../base/ids.ts';
import type { Snapshot } from '../../model/snapshot.ts';
import type { BlobHome } from '../../store/blobs/home.ts';
import { SMALL_LEFT, TOGETHER } from './choose-packs.ts';
import { forgetLocal } from './evict.ts';
import { Tender } from './tend.ts';
import {
  makeHostFolder,
  openFakeWorld,
  over,
  type FakeHostFolder,
  type FakeWorld,
  type WorldOptions,
} from '../../../test/support/fake-world.ts';

const NEVER = new AbortController().signal;
const SNAPSHOTS = 10;

async function inWorld(
  options: WorldOptions,
  body: (world: FakeWorld, host: FakeHostFolder) => Promise<void>,
): Promise<void> {
  const host = await makeHostFolder();
  try {
    const one = await openFakeWorld(host, options);
    try {
      await body(one, host);
    } finally {
      await one.close();
    }
  } finally {
    await host.remove();
  }
}

/** A stored snapshot, and what its disk was then. */
interface Kept {
  readonly snapshot: Snapshot;
  readonly disk: Buffer;
}

/** Saves a VM again and again, a little of its disk anew each time, and keeps all of it; `after` each one is done. */
async function chain(
  { world, hatch, caller }: FakeWorld,
  after: () => Promise<void> = () => Promise.resolve(),
): Promise<{ readonly id: VmId; readonly kept: readonly Kept[] }> {
  const { id } = await hatch.vms.create(caller, {}, { until: 'ready', timeoutMs: 10_000 });
  const path = join(world.settings.vmsFolder, id, 'disk.raw');
  const kept: Kept[] = [];
  for (let number = 0; number < SNAPSHOTS; number++) {
    const disk = await open(path, 'r+');
    await disk.write(randomBytes(40_000 + number), 0, undefined, number * 64 * 1024);
    await disk.close();
    const saved = await readFile(path);
    const snapshot = await hatch.vms.snapshot(caller, id, { keepRunning: true, storedWithinMs: 10_000 });
    assert.equal(snapshot.state, 'durable');
    kept.push({ snapshot, disk: saved });
    await after();
  }
  return { id, kept };
}

/** That each snapshot can be brought back from the store alone, with the disk it had. */
async function assertWhole({ world, hatch, caller }: FakeWorld, kept: readonly Kept[]): Promise<void> {
  for (const { snapshot, disk } of kept) {
    await forgetLocal(world, await hatch.snapshots.get(caller, snapshot.id));
    const back = await world.archive.bring(await hatch.snapshots.get(caller, snapshot.id), NEVER);
    const layer = back.diskLayerId && (await world.store.layers.get(back.diskLayerId));
    assert.ok(layer);
    assert.ok((await readFile(layer.path)).equals(disk), `the disk of ${snapshot.id} is another`);
  }
}

/** The names of what is in the store, by kind. */
async function stored({
  root,
}: FakeHostFolder): Promise<{ readonly packs: string[]; readonly manifests: string[] }> {
  const home = join(root, 'snapshots');
  const files = (await readdir(home, { recursive: true, withFileTypes: true })).filter((entry) =>
    entry.isFile(),
  );
  const of = (kind: string): string[] =>
    files.filter(({ parentPath }) => parentPath.endsWith(`/${kind}`)).map(({ name }) => name);
  return { packs: of('p').sort(), manifests: of('m').sort() };
}

const eager = (world: FakeWorld['world']): Tender => new Tender(world, { graceMs: 0, rewriteAgeMs: 0 });

async function rounds(tender: Tender, count: number): Promise<void> {
  for (let round = 0; round < count; round++) await tender.round(NEVER);
}

test('small packs of snapshots that build on each other are merged, and every snapshot is what it was', () =>
  inWorld({}, async (one, host) => {
    const { kept } = await chain(one);
    const before = await stored(host);
    assert.ok(before.packs.length >= SNAPSHOTS, `${before.packs.length} packs are too few to try this`);
    await rounds(new Tender(one.world, { graceMs: 0 }), 2);
    assert.deepEqual(await stored(host), before, 'they are too young');

    const tender = eager(one.world);
    await rounds(tender, 10);
    const merged = await stored(host);
    assert.ok(merged.packs.length < TOGETHER * 2, `${merged.packs.length} packs are left`);
    assert.equal(merged.manifests.length, SNAPSHOTS);
    await rounds(tender, 3);
    assert.deepEqual(await stored(host), merged, 'nothing is left to do');
    await assertWhole(one, kept);

    const [first, ...rest] = kept;
    assert.ok(first);
    await one.hatch.snapshots.delete(one.caller, first.snapshot.id);
    await rounds(tender, 3);
    await assertWhole(one, rest);
  }));

test('what is merged as it comes leaves few packs at any time, and each is put once', () => {
  const puts: string[] = [];
  const wrapHome = (home: BlobHome): BlobHome =>
    over(home, {
      put: (name, ...rest) => {
        puts.push(name);
        return home.put(name, ...rest);
      },
    });
  return inWorld({ wrapHome }, async (one, host) => {
    const tender = eager(one.world);
    let most = 0;
    const { kept } = await chain(one, async () => {
      await rounds(tender, 2);
      most = Math.max(most, (await stored(host)).packs.length);
    });
    assert.ok(most <= SMALL_LEFT, `there were ${most} packs`);
    assert.equal(new Set(puts).size, puts.length);
    await assertWhole(one, kept);
  });
});

test('merging that is cut off at any object leaves every snapshot whole, and nothing else once it has gone on', () => {
  let left = Infinity;
  const wrapHome = (home: BlobHome): BlobHome =>
    over(home, {
      put: (name, ...rest) =>
        left-- > 0 ? home.put(name, ...rest) : Promise.reject(new Error('the store is out of reach')),
    });
  return inWorld({ wrapHome }, async (one, host) => {
    const { kept } = await chain(one);
    const before = await stored(host);
    const tender = eager(one.world);
    // The new pack, then a manifest for each snapshot.
    for (let puts = 0; puts <= SNAPSHOTS; puts++) {
      left = puts;
      await rounds(tender, 1);
      left = Infinity;
      assert.deepEqual(lost(await stored(host), await needed(one, kept)), []);
      await assertWhole(one, kept.slice(puts, puts + 1));
    }
    await rounds(tender, 5);
    await assertWhole(one, kept);
    const after = await stored(host);
    assert.ok(after.packs.length < before.packs.length);
    assert.deepEqual([...after.packs, ...after.manifests].sort(), [...(await needed(one, kept))].sort());
  });
});

/** What snapshots are made of, by the ledger. */
async function needed({ world }: FakeWorld, kept: readonly Kept[]): Promise<ReadonlySet<string>> {
  const named = await Promise.all(kept.map(({ snapshot }) => world.store.ledger.ofSnapshot(snapshot.id)));
  return new Set(named.flat().map(({ id }) => id));
}

function lost(there: Awaited<ReturnType<typeof stored>>, needed: ReadonlySet<string>): readonly string[] {
  const found = new Set([...there.packs, ...there.manifests]);
  return [...needed].filter((id) => !found.has(id));
}
