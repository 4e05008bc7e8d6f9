import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { buffer } from 'node:stream/consumers';
import { afterEach, beforeEach, test } from 'node:test';
import {
  assertNothingLeft,
  makeHostFolder,
  openFakeWorld,
  over,
  type FakeHostFolder,
  type FakeWorld,
  type WorldOptions,
} from '../../test/support/fake-world.ts';
import { systemClock } from '../base/clock.ts';
import { until } from '../base/until.ts';
import { Failure } from '../model/failure.ts';
import type { Snapshot } from '../model/snapshot.ts';
import type { Vm } from '../model/vm.ts';
import { parseMasterKey } from '../store/blobs/keys.ts';
import { Taken } from '../store/store.ts';
import { forgetLocal } from './archive/evict.ts';
import { exportSnapshot } from './export-snapshot.ts';
import type { ExportRequest, ImportedSnapshot, ImportRequest, Wait } from './hatch.ts';
import { reconcile } from './reconcile.ts';

/** Two installations that have nothing in common. */
let folders: readonly [FakeHostFolder, FakeHostFolder];
let here: FakeWorld;
let there: FakeWorld;

const READY: Wait = { until: 'ready', timeoutMs: 5000 };
const KEY = randomBytes(32).toString('hex');
const PLAIN: ExportRequest = { key: undefined, plain: false };
const ANY: ImportRequest = { name: undefined, key: undefined };
const never = new AbortController().signal;

beforeEach(async () => {
  folders = [await makeHostFolder(), await makeHostFolder()];
  here = await openFakeWorld(folders[0]);
  there = await openThere();
});
afterEach(async () => {
  for (const world of [here, there]) {
    await reconcile(world.world);
    await assertNothingLeft(world);
    await world.close();
  }
  for (const folder of folders) {
    assert.deepEqual(await travelFolders(folder), [], 'what is left in the spool');
    await folder.remove();
  }
});

async function openThere(options: WorldOptions = {}): Promise<FakeWorld> {
  return openFakeWorld(folders[1], { cidr: '10.20.0.1/24', ...options });
}

async function travelFolders({ root }: FakeHostFolder): Promise<readonly string[]> {
  const names = await readdir(join(root, 'spool')).catch(() => []);
  return names.filter((name) => /^(import|export)-/.test(name));
}

async function saved(): Promise<{ readonly vm: Vm; readonly snapshot: Snapshot }> {
  const { hatch, caller } = here;
  const vm = await hatch.vms.create(
    caller,
    { name: 'web', labels: { tier: 'web' }, userData: '#cloud-config\n{}\n' },
    READY,
  );
  return { vm, snapshot: await hatch.vms.snapshot(caller, vm.id, { name: 'golden', keepRunning: false }) };
}

async function exported(snapshot: Snapshot, request: ExportRequest = PLAIN): Promise<Buffer> {
  const { content } = await here.hatch.snapshots.export(here.caller, snapshot.id, request, never);
  return buffer(content);
}

/** In pieces as a network might cut them. */
async function* inPieces(file: Uint8Array, size = 10_000): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < file.length; at += size) yield file.subarray(at, at + size);
}

function imported(file: Uint8Array, request: ImportRequest = ANY): Promise<ImportedSnapshot> {
  return there.hatch.snapshots.import(there.caller, request, inPieces(file), never);
}

/** That a call is refused as said, in a sentence that says `about`. */
async function refused(call: Promise<unknown>, code: Failure['code'], about: RegExp): Promise<void> {
  await assert.rejects(call, (error: unknown) => {
    assert.ok(error instanceof Failure, String(error));
    assert.equal(error.code, code, error.message);
    assert.match(error.message, about);
    return true;
  });
}

test('a snapshot goes to another installation as one file, wakes there as somebody of that place, and is copied', async () => {
  const { vm, snapshot } = await saved();
  const file = await exported(snapshot);
  const { snapshot: arrived, differences } = await imported(file);
  assert.deepEqual(differences, []);
  assert.deepEqual([arrived.name, arrived.kind, arrived.memMib], ['golden', 'manual', 512]);

  const { hatch, caller, world } = there;
  const sleeping = await hatch.vms.get(caller, 'web');
  assert.notEqual(sleeping.id, vm.id);
  assert.deepEqual(
    [sleeping.state, sleeping.snapshotId, sleeping.labels, sleeping.instanceId],
    ['snapshotted', arrived.id, { tier: 'web' }, vm.instanceId],
  );
  assert.match(sleeping.network?.ip ?? '', /^10\.20\.0\./);
  assert.notEqual(sleeping.network?.mac, vm.network?.mac);
  assert.equal(await hatch.vms.userData(caller, 'web'), '#cloud-config\n{}\n');
  const [event] = await world.store.events.list({ kind: 'snapshot.imported' }, { limit: 10 });
  assert.equal(event?.data['snapshot'], arrived.id);

  // It is stored here as any other.
  const durable = await world.archive.stored(arrived.id, AbortSignal.timeout(5000));
  assert.equal(durable.state, 'durable');

  const copy = await hatch.vms.create(caller, { snapshotId: 'golden', name: 'copy' }, READY);
  assert.deepEqual([copy.state, copy.labels], ['running', { tier: 'web' }]);
  const awake = await hatch.vms.start(caller, 'web', READY);
  assert.deepEqual([awake.state, awake.network], ['running', sleeping.network]);
  assert.deepEqual(await toldWho(awake), ['web', awake.network?.mac, 'up']);
  assert.deepEqual(await toldWho(copy), ['copy', copy.network?.mac, 'up']);

  // Saved here it is itself; put back to what was imported it is told again.
  await hatch.vms.snapshot(caller, 'web', { keepRunning: false });
  const again = await hatch.vms.restore(caller, 'web', {}, READY);
  assert.equal(again.state, 'running');
  await hatch.vms.stop(caller, 'web', { graceSeconds: 5 });
  const back = await hatch.vms.restore(caller, 'web', { snapshot: 'golden', discard: true }, READY);
  assert.deepEqual([back.state, back.network], ['running', sleeping.network]);
  assert.deepEqual(await toldWho(back), ['web', awake.network?.mac, 'up']);
});

/** What a copy, or a VM that came here, says of itself. */
async function toldWho(vm: Vm): Promise<readonly string[]> {
  const said: string[] = [];
  for (const path of ['/etc/hostname', '/sys/class/net/eth0/address', '/sys/class/net/eth0/operstate']) {
    const command = { command: `cat ${path}`, cwd: null, env: {}, stdin: null, timeoutMs: 5000 };
    said.push((await there.hatch.vms.exec(there.caller, vm.id, command)).stdout.toString().trim());
  }
  return said;
}

test('a file travels encrypted where a key is given, and not in the clear by forgetting', async () => {
  const { snapshot } = await saved();
  const file = await exported(snapshot, { key: KEY, plain: false });
  await refused(
    imported(file),
    'invalid_request',
    /encrypted, and the key it was exported with is not given/,
  );
  const other = randomBytes(32).toString('base64');
  await refused(
    imported(file, { ...ANY, key: other }),
    'invalid_request',
    /exported with another key than the one given/,
  );
  await refused(imported(file, { ...ANY, key: 'short' }), 'invalid_request', /must be 32 random bytes/);
  const { snapshot: arrived } = await imported(file, { name: 'mine', key: KEY });
  assert.equal(arrived.name, 'mine');

  await here.close();
  here = await openFakeWorld(folders[0], { master: parseMasterKey(randomBytes(32)) });
  const call = here.hatch.snapshots.export(here.caller, snapshot.id, PLAIN, never);
  await refused(call, 'invalid_request', /Snapshots are encrypted here: give a key/);
  const both = here.hatch.snapshots.export(here.caller, snapshot.id, { key: KEY, plain: true }, never);
  await refused(both, 'invalid_request', /do not go together/);
  await there.hatch.vms.delete(there.caller, arrived.vmId);
  const { differences } = await imported(await exported(snapshot, { key: undefined, plain: true }));
  assert.deepEqual(differences, []);
});

test('a snapshot that lies in the store alone is exported from there, and stays there alone', async () => {
  const { snapshot } = await saved();
  const durable = await here.world.archive.stored(snapshot.id, AbortSignal.timeout(5000));
  assert.ok(await forgetLocal(here.world, durable));
  const { snapshot: arrived } = await imported(await exported(snapshot));
  assert.equal((await here.hatch.snapshots.get(here.caller, 'golden')).hostId, null);
  assert.equal((await there.hatch.vms.start(there.caller, arrived.vmId, READY)).state, 'running');
});

test('what was saved by another hypervisor is kept all the same, and refused when it is to be woken', async () => {
  const { snapshot } = await saved();
  const { savedOn } = snapshot;
  const elsewhere = over(here.world.store.snapshots, {
    find: async () => ({ ...snapshot, savedOn: { ...savedOn, accel: 'kvm' } }),
  });
  const world = { ...here.world, store: over(here.world.store, { snapshots: elsewhere }) };
  const { content } = await exportSnapshot(world, here.caller, snapshot.id, PLAIN, never);
  const { snapshot: arrived, differences } = await imported(await buffer(content));
  assert.match(differences.join(), /saved under kvm/);
  await refused(there.hatch.vms.start(there.caller, arrived.vmId), 'incompatible_snapshot', /under kvm/);
});

test('names that are taken stay with who has them, and one that is asked for is refused', async () => {
  const { snapshot } = await saved();
  const file = await exported(snapshot);
  const first = await imported(file);
  const second = await imported(file);
  assert.deepEqual([first.snapshot.name, second.snapshot.name], ['golden', null]);
  assert.equal((await there.hatch.vms.get(there.caller, second.snapshot.vmId)).name, null);
  await refused(imported(file, { ...ANY, name: 'golden' }), 'already_exists', /another snapshot/);
  const snapshots = await there.world.store.snapshots.list({}, { limit: 10 });
  assert.equal(snapshots.length, 2);
});

test('of a file that is refused, breaks off, or finds no room, quota or name, nothing is left', async () => {
  const { snapshot } = await saved();
  const file = await exported(snapshot);
  const nothingThere = async (): Promise<void> => {
    assert.deepEqual(await there.world.store.vms.list({}, { limit: 10 }), []);
    assert.deepEqual(await there.world.store.snapshots.list({}, { limit: 10 }), []);
    assert.deepEqual(await travelFolders(folders[1]), []);
    assert.deepEqual(await readdir(join(folders[1].root, 'layers')).catch(() => []), []);
  };
  await refused(imported(file.subarray(0, file.length / 2)), 'invalid_request', /ends too early/);
  await nothingThere();
  const broken = Buffer.from(file);
  // Within the pack, which comes after `begin.json`.
  broken.writeUInt8(broken.readUInt8(1600) ^ 1, 1600);
  await refused(imported(broken), 'invalid_request', /bytes of it were changed/);
  await nothingThere();

  async function* hangsUp(): AsyncGenerator<Uint8Array> {
    yield file.subarray(0, 5000);
    throw new Failure('timeout', 'No part of the file has come.');
  }
  const hungUp = there.hatch.snapshots.import(there.caller, ANY, hangsUp(), never);
  await refused(hungUp, 'timeout', /No part of the file/);
  await nothingThere();

  async function* comesToNoEnd(): AsyncGenerator<Uint8Array> {
    yield file.subarray(0, 5000);
    await new Promise(() => undefined);
  }
  const stop = new AbortController();
  const stopped = there.hatch.snapshots.import(there.caller, ANY, comesToNoEnd(), stop.signal);
  stop.abort(new Failure('unavailable', 'Hatch is stopping.'));
  await refused(stopped, 'unavailable', /is stopping/);
  await nothingThere();

  await there.close();
  there = await openThere({ limits: { vms: 0, vcpus: null, memMib: null } });
  await refused(imported(file), 'quota_exceeded', /0 of at most 0/);
  await nothingThere();

  await there.close();
  there = await openThere({
    wrapStore: (store) =>
      over(store, {
        snapshots: over(store.snapshots, { create: () => Promise.reject(new Taken('name')) }),
      }),
  });
  await refused(imported(file, { ...ANY, name: 'mine' }), 'already_exists', /"mine"/);
  await nothingThere();
});

/** A daemon that stands still for ever where it would write down what came of an import. */
async function killedAt(
  part: 'snapshot' | 'end',
  file: Uint8Array,
): Promise<{ readonly dead: FakeWorld; readonly vms: readonly Vm[] }> {
  const { promise: between, resolve: reached } = Promise.withResolvers<void>();
  const hang = (): Promise<never> => {
    reached();
    return new Promise(() => undefined);
  };
  await there.close();
  there = await openThere({
    wrapStore: (store) =>
      over(store, {
        snapshots: over(store.snapshots, part === 'snapshot' ? { create: hang } : {}),
        operations: over(store.operations, part === 'end' ? { finish: hang } : {}),
      }),
  });
  imported(file).catch(() => undefined);
  await between;
  const dead = there;
  const vms = await dead.world.store.vms.list({}, { limit: 10 });
  assert.equal((await travelFolders(folders[1])).length, 1);
  there = await openThere();
  await there.world.archive.resume();
  assert.deepEqual(await travelFolders(folders[1]), []);
  return { dead, vms };
}

test('a daemon that is killed in the middle of an import leaves nothing of it to the next', async () => {
  const { snapshot } = await saved();
  const { dead, vms } = await killedAt('snapshot', await exported(snapshot));
  assert.equal(vms[0]?.state, 'starting');
  assert.deepEqual(await there.world.store.vms.list({}, { limit: 10 }), []);
  await dead.world.store.close();
});

test('a daemon that is killed when all of an import is there leaves it whole', async () => {
  const { snapshot } = await saved();
  const { dead, vms } = await killedAt('end', await exported(snapshot));
  const [vm] = vms;
  assert.ok(vm);
  const [operation] = await there.world.store.operations.list(vm.id, { limit: 10 });
  assert.equal(operation?.outcome, 'done');
  assert.equal((await there.hatch.vms.start(there.caller, vm.id, READY)).state, 'running');
  await dead.world.store.close();
});

test('an export that nobody reads to its end is given up, and one that cannot be made says so first', async () => {
  const { snapshot } = await saved();
  const { content } = await here.hatch.snapshots.export(here.caller, snapshot.id, PLAIN, never);
  content.destroy();
  await until({ clock: systemClock, signal: AbortSignal.timeout(5000) }, async () =>
    (await travelFolders(folders[0])).length === 0 ? true : undefined,
  );
  const none = here.hatch.snapshots.export(here.caller, 'none', PLAIN, never);
  await refused(none, 'not_found', /no snapshot "none"/);
  const durable = await here.world.archive.stored(snapshot.id, AbortSignal.timeout(5000));
  assert.ok(await forgetLocal(here.world, durable));
  await rm(join(folders[0].root, 'snapshots/a'), { recursive: true });
  const lost = here.hatch.snapshots.export(here.caller, snapshot.id, PLAIN, never);
  await refused(lost, 'unavailable', /could not be read from the store/);
});
