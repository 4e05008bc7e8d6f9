import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { lstat, mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import type { LayerId, VmId } from '../../base/ids.ts';
import { exists } from '../../host/files.ts';
import { Failure } from '../../model/failure.ts';
import type { Snapshot } from '../../model/snapshot.ts';
import { reconcile } from '../reconcile.ts';
import { collect, sweep } from './collect.ts';
import { evict, forgetLocal } from './evict.ts';
import { Tender } from './tend.ts';
import {
  assertNothingLeft,
  makeHostFolder,
  openFakeWorld,
  type FakeHostFolder,
  type FakeWorld,
} from '../../../test/support/fake-world.ts';

const READY = { until: 'ready', timeoutMs: 10_000 } as const;
const NEVER = new AbortController().signal;

async function inWorld(body: (world: FakeWorld, host: FakeHostFolder) => Promise<void>): Promise<void> {
  const host = await makeHostFolder();
  try {
    const one = await openFakeWorld(host);
    try {
      await body(one, host);
    } finally {
      await one.close();
    }
  } finally {
    await host.remove();
  }
}

/** The objects in the store, by their names. */
async function objects({ root }: FakeHostFolder): Promise<readonly string[]> {
  const home = join(root, 'snapshots');
  const found = await readdir(home, { recursive: true, withFileTypes: true });
  return found
    .filter((entry) => entry.isFile() && /\/[pm]$/.test(entry.parentPath))
    .map((entry) => join(entry.parentPath, entry.name))
    .sort();
}

/** A VM that has written a word into its memory and sleeps, its snapshot safe in the store. */
async function asleep({ hatch, caller }: FakeWorld, word: string): Promise<{ id: VmId; snapshot: Snapshot }> {
  const { id } = await hatch.vms.create(caller, {}, READY);
  await say({ hatch, caller }, id, `echo ${word} > /root/word`);
  const snapshot = await hatch.vms.snapshot(caller, id, { keepRunning: false, storedWithinMs: 10_000 });
  return { id, snapshot };
}

async function say(
  { hatch, caller }: Pick<FakeWorld, 'hatch' | 'caller'>,
  id: VmId,
  command: string,
): Promise<string> {
  const { exitCode, stdout } = await hatch.vms.exec(caller, id, {
    command,
    cwd: null,
    env: {},
    stdin: null,
    timeoutMs: 10_000,
  });
  assert.equal(exitCode, 0, command);
  return stdout.toString().trim();
}

function filesOf({ diskLayerId, memoryLayerId, stateLayerId }: Snapshot): readonly (LayerId | null)[] {
  return [diskLayerId, memoryLayerId, stateLayerId];
}

/** What the files of layers take of the disk. */
async function taken({ settings }: FakeWorld['world'], ids: readonly (LayerId | null)[]): Promise<number> {
  let bytes = 0;
  for (const id of ids) {
    if (id === null) continue;
    const folder = join(settings.layersFolder, id);
    for (const name of await readdir(folder)) bytes += (await lstat(join(folder, name))).blocks * 512;
  }
  return bytes;
}

test('a sleeping VM whose local files were forgotten wakes by download, as it was', () =>
  inWorld(async (one) => {
    const { world, hatch, caller } = one;
    const { id, snapshot } = await asleep(one, 'kept');
    assert.ok(await forgetLocal(world, snapshot));
    assert.deepEqual(await readdir(world.settings.layersFolder), []);
    assert.equal((await world.store.vms.get(id))?.layerId, null);
    assert.equal((await hatch.snapshots.get(caller, snapshot.id)).state, 'durable');
    await reconcile(world);
    await assertNothingLeft(one);
    await hatch.vms.restore(caller, id, {}, READY);
    assert.equal(await say(one, id, 'cat /root/word'), 'kept');
    await assertNothingLeft(one);
    await hatch.vms.delete(caller, id);
    await assertNothingLeft(one);
  }));

test('a copy of a snapshot whose local files were forgotten is made by download', () =>
  inWorld(async (one) => {
    const { world, hatch, caller } = one;
    const { snapshot } = await asleep(one, 'copied');
    assert.ok(await forgetLocal(world, snapshot));
    const copy = await hatch.vms.create(caller, { snapshotId: snapshot.id }, READY);
    assert.equal(await say(one, copy.id, 'cat /root/word'), 'copied');
    await assertNothingLeft(one);
  }));

test('the longest unused goes first, only until there is room, and what is not durable or in use stays', () =>
  inWorld(async (one) => {
    const { world, hatch, caller } = one;
    const old = await asleep(one, 'old');
    const young = await asleep(one, 'young');
    await world.store.snapshots.update(old.snapshot.id, { usedAt: 1 });
    const running = await hatch.vms.create(caller, {}, READY);
    const going = await hatch.vms.snapshot(caller, running.id, {
      keepRunning: true,
      storedWithinMs: 10_000,
    });
    const local = await asleep(one, 'local');
    await world.store.snapshots.update(local.snapshot.id, { state: 'local', usedAt: 0 });
    assert.deepEqual(await evict(world, 2 ** 40, NEVER), []);
    const counted = [old.snapshot, young.snapshot].flatMap((snapshot) => filesOf(snapshot));
    // Its guest goes on in memory and on a disk of its own.
    const all = await taken(world, [...counted, ...filesOf(going)]);
    assert.deepEqual(await evict(world, all, NEVER), []);
    const first = await evict(world, all - 1, NEVER);
    assert.deepEqual(first, [old.snapshot.id]);
    const rest = await evict(world, 0, NEVER);
    assert.ok(rest.includes(young.snapshot.id));
    assert.ok(!rest.includes(local.snapshot.id), 'it is nowhere else');
    await assertNothingLeft(one);
    assert.equal(await say(one, running.id, 'echo here'), 'here', 'what it stands on is there');
    assert.deepEqual(await evict(world, 0, NEVER), [], 'what frees nothing is not forgotten again');
  }));

test('what a deleted snapshot alone needed goes from the store, and nothing else', () =>
  inWorld(async (one, host) => {
    const { world, hatch, caller } = one;
    const first = await asleep(one, 'first');
    const before = await objects(host);
    const second = await asleep(one, 'second');
    await hatch.vms.delete(caller, second.id);
    assert.equal(await collect(world.archive.deps, 60_000, NEVER), 0, 'a time of grace is given');
    await new Tender(world, { graceMs: 0 }).round(NEVER);
    assert.deepEqual(await objects(host), before);
    assert.ok(await forgetLocal(world, first.snapshot));
    await hatch.vms.restore(caller, first.id, {}, READY);
    assert.equal(await say(one, first.id, 'cat /root/word'), 'first');
    await hatch.vms.delete(caller, first.id);
    await new Tender(world, { graceMs: 0 }).round(NEVER);
    assert.deepEqual(await objects(host), []);
  }));

test('an object that arrives under a tombstone is swept, and one that no row knows is left alone', () =>
  inWorld(async (one, host) => {
    const { world, hatch, caller } = one;
    const { id } = await asleep(one, 'gone');
    const [late] = await objects(host);
    assert.ok(late);
    const bytes = await readFile(late);
    await hatch.vms.delete(caller, id);
    await collect(world.archive.deps, 0, NEVER);
    assert.ok(!(await exists(late)));
    await mkdir(dirname(late), { recursive: true });
    await writeFile(late, bytes);
    const strange = join(dirname(late), '01900000-0000-7000-8000-000000000000');
    await writeFile(strange, 'of another');
    assert.equal(await sweep(world.archive.deps, NEVER), 1);
    assert.deepEqual([await exists(late), await exists(strange)], [false, true]);
  }));

test('a pack of which less than half is needed is rewritten, and what needs it is whole', () =>
  inWorld(async (one, host) => {
    const { world, hatch, caller } = one;
    const { id } = await hatch.vms.create(caller, {}, READY);
    const disk = join(world.settings.vmsFolder, id, 'disk.raw');
    const shared = randomBytes(256 * 1024);
    await writeFile(disk, Buffer.concat([randomBytes(2 * 1024 ** 2), shared]));
    const keep = { keepRunning: true, storedWithinMs: 10_000 };
    const first = await hatch.vms.snapshot(caller, id, keep);
    const [, ...packs] = (await objects(host)).filter((path) => path.includes('/p/')).toReversed();
    assert.deepEqual(packs, []);
    const fresh = Buffer.concat([randomBytes(64 * 1024), shared]);
    await writeFile(disk, fresh);
    const second = await hatch.vms.snapshot(caller, id, { ...keep, keepRunning: false });
    await hatch.snapshots.delete(caller, first.id);
    const size = async (): Promise<number> =>
      (await Promise.all((await objects(host)).map((path) => readFile(path)))).reduce(
        (sum, { length }) => sum + length,
        0,
      );
    const before = await size();
    const tender = new Tender(world, { graceMs: 0, rewriteAgeMs: 0 });
    await tender.round(NEVER);
    await tender.round(NEVER);
    const after = await size();
    assert.ok(after < before / 4, `${before} bytes became ${after}`);
    assert.ok(await forgetLocal(world, second));
    const back = await world.archive.bring(await hatch.snapshots.get(caller, second.id), NEVER);
    const layer = back.diskLayerId && (await world.store.layers.get(back.diskLayerId));
    assert.ok(layer);
    assert.ok((await readFile(layer.path)).equals(fresh));
    const same = await objects(host);
    await tender.round(NEVER);
    assert.deepEqual(await objects(host), same, 'nothing is left to do');
  }));

test('a damaged pack marks the snapshots that need it and says what is wrong; the VM sleeps on, and whole again it wakes', () =>
  inWorld(async (one, host) => {
    const { world, hatch, caller } = one;
    const { id, snapshot } = await asleep(one, 'healed');
    const other = await asleep(one, 'other');
    assert.ok(await forgetLocal(world, snapshot));
    const own = (await world.store.ledger.ofSnapshot(snapshot.id)).find(({ kind }) => kind === 'pack');
    const path = (await objects(host)).find((name) => own && name.endsWith(own.id));
    assert.ok(path);
    const good = await readFile(path);
    const bad = Buffer.from(good);
    bad.writeUInt8(bad.readUInt8(100) ^ 1, 100);
    await writeFile(path, bad);
    await assert.rejects(hatch.vms.restore(caller, id, {}), (error: unknown) => {
      assert.ok(error instanceof Failure);
      assert.equal(error.code, 'unavailable');
      return true;
    });
    const damaged = await hatch.snapshots.get(caller, snapshot.id);
    assert.equal(damaged.state, 'damaged');
    assert.match(damaged.problem ?? '', /pack/);
    assert.equal((await hatch.vms.get(caller, id)).state, 'snapshotted');
    const events = await hatch.events.list(caller, { vm: id, kind: 'snapshot.damaged' }, { limit: 10 });
    assert.equal(events.length, 1);
    await assertNothingLeft(one);
    // The other may need that pack too; its files are here, so it is stored anew.
    assert.equal((await hatch.snapshots.get(caller, other.snapshot.id, 10_000)).state, 'durable');
    await writeFile(path, good);
    await hatch.vms.restore(caller, id, {}, READY);
    assert.equal(await say(one, id, 'cat /root/word'), 'healed');
  }));

test('bits lost in the store are found by reading again what was not read for long, before anybody needs them', () =>
  inWorld(async (one, host) => {
    const { world, hatch, caller } = one;
    const { id, snapshot } = await asleep(one, 'rotten');
    const manifest = (await objects(host)).find((name) => name.includes('/m/')) ?? assert.fail('no manifest');
    const bytes = await readFile(manifest);
    const at = bytes.length - 5;
    bytes[at] = (bytes[at] ?? 0) ^ 4;
    await writeFile(manifest, bytes);

    await new Tender(world).round(NEVER);
    assert.equal((await hatch.snapshots.get(caller, snapshot.id)).state, 'durable', 'it was read lately');
    const often = new Tender(world, { rereadAgeMs: 0, rereadAtOnce: 1 });
    const blobs = await world.store.ledger.ofSnapshot(snapshot.id);
    for (const _ of blobs) await often.round(NEVER);
    const events = await hatch.events.list(caller, { vm: id, kind: 'snapshot.damaged' }, { limit: 10 });
    assert.equal(events.length, 1);
    const read = await Promise.all(blobs.map((blob) => world.store.ledger.get(blob.id)));
    assert.ok(
      read.some((blob) => blob?.kind === 'pack' && blob.state === 'live' && blob.verifiedAt !== null),
    );
    // Its files are still here, so it is stored anew.
    assert.equal((await hatch.snapshots.get(caller, snapshot.id, 10_000)).state, 'durable');
    const anew = await world.store.snapshots.get(snapshot.id);
    assert.ok(anew && (await forgetLocal(world, anew)));
    await hatch.vms.restore(caller, id, {}, READY);
    assert.equal(await say(one, id, 'cat /root/word'), 'rotten');
  }));
