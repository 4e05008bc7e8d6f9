import assert from 'node:assert/strict';
import { mkdir, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, test } from 'node:test';
import {
  assertNothingLeft,
  makeHostFolder,
  openFakeWorld,
  over,
  type FakeHostFolder,
  type FakeWorld,
} from '../../test/support/fake-world.ts';
import { systemClock } from '../base/clock.ts';
import { until } from '../base/until.ts';
import { Failure } from '../model/failure.ts';
import type { Layer } from '../model/records.ts';
import type { Snapshot } from '../model/snapshot.ts';
import type { Vm } from '../model/vm.ts';
import { defaultId } from '../daemon/default-image.ts';
import type { Wait } from './hatch.ts';
import { imageOf } from './host-steps.ts';
import { openHatch } from './open-hatch.ts';
import { Waker } from './waker.ts';
import { reconcile } from './reconcile.ts';
import type { Step } from './steps.ts';
import { diskFromSnapshot } from './files-from-snapshot.ts';
import type { World } from './world.ts';

/** Two hosts with one database and one store of snapshots. */
let folders: readonly [FakeHostFolder, FakeHostFolder];
let here: FakeWorld;
let there: FakeWorld;

const READY: Wait = { until: 'ready', timeoutMs: 5000 };

beforeEach(async () => {
  folders = [await makeHostFolder(), await makeHostFolder()];
  here = await openFakeWorld(folders[0]);
  there = await openSecond();
  await putImage(folders[0], 'kernel of the first host', 'initrd of the first host');
});
afterEach(async () => {
  await reconcile(here.world);
  await reconcile(there.world);
  await assertNothingLeft(here);
  await assertNothingLeft(there);
  await there.close();
  await here.close();
  for (const folder of folders) await folder.remove();
});

async function openSecond(cidr?: string): Promise<FakeWorld> {
  return openFakeWorld(folders[1], {
    beside: { hostId: 'second', first: here, snapshots: join(folders[0].root, 'snapshots') },
    ...(cidr === undefined ? {} : { cidr }),
  });
}

/** Makes the default image one of files that are there. */
async function putImage(folder: FakeHostFolder, kernel: string, initrd: string | null): Promise<void> {
  const { store, settings } = here.world;
  const files = join(folder.root, 'images');
  await mkdir(files, { recursive: true });
  await writeFile(join(files, 'vmlinuz'), kernel);
  await writeFile(join(files, 'rootfs'), 'root');
  if (initrd !== null) await writeFile(join(files, 'initrd'), initrd);
  await store.images.put({
    accountId: settings.sharedAccountId,
    id: defaultId(),
    kernelPath: join(files, 'vmlinuz'),
    vmlinuxPath: null,
    initrdPath: initrd === null ? null : join(files, 'initrd'),
    rootfsPath: join(files, 'rootfs'),
    rootfsFormat: 'raw',
    bootArgs: null,
    defaultUser: 'debian',
    agent: true,
    sizeBytes: 2 * 1024 ** 3,
    sha256: null,
  });
}

async function asleep(name = 'web'): Promise<{ readonly vm: Vm; readonly snapshot: Snapshot }> {
  const { hatch, caller } = here;
  const vm = await hatch.vms.create(caller, { name }, READY);
  const made = await hatch.vms.snapshot(caller, vm.id, { keepRunning: false });
  const snapshot = await here.world.archive.stored(made.id, AbortSignal.timeout(5000));
  return { vm, snapshot };
}

/** That a call is refused as said, in a sentence that says `about`. */
async function refused(
  call: Promise<unknown>,
  code: Failure['code'],
  about: RegExp,
  field?: string,
): Promise<void> {
  await assert.rejects(call, (error: unknown) => {
    assert.ok(error instanceof Failure, String(error));
    assert.equal(error.code, code, error.message);
    assert.match(error.message, about);
    if (field !== undefined) assert.equal(error.details['field'], field);
    return true;
  });
}

test('a VM that sleeps in the store wakes on another host with its own addresses, and sleeps and boots there', async () => {
  const { vm } = await asleep();
  const { hatch, caller } = there;
  // Another machine: nothing of the first is there, and its default image is another one.
  await rm(join(folders[0].root, 'images'), { recursive: true });
  await putImage(folders[1], 'another kernel', null);

  const awake = await hatch.vms.start(caller, vm.id, READY);
  assert.deepEqual(
    [awake.state, awake.hostId, awake.epoch, awake.network],
    ['running', 'second', vm.epoch + 1, vm.network],
  );
  const files = join(folders[1].vms, vm.id);
  assert.equal(await readFile(join(files, 'kernel'), 'utf8'), 'kernel of the first host');
  assert.equal(await readFile(join(files, 'initrd'), 'utf8'), 'initrd of the first host');
  assert.deepEqual(there.world.ports.vmIds(), [vm.id]);

  // The first host, still up, finds that it is not its own any more.
  assert.deepEqual(here.world.ports.vmIds(), [vm.id]);
  await reconcile(here.world);
  assert.deepEqual(here.world.ports.vmIds(), []);
  assert.deepEqual(await readdir(folders[0].vms), []);
  assert.deepEqual(await readdir(join(folders[0].root, 'layers')), []);
  assert.equal((await hatch.vms.get(caller, vm.id)).state, 'running', 'it runs on');

  // Saved here it has its kernel with it again, and booted here it boots with that.
  const again = await hatch.vms.snapshot(caller, vm.id, { keepRunning: true });
  await there.world.archive.stored(again.id, AbortSignal.timeout(5000));
  const { stateLayerId } = (await there.world.store.snapshots.get(again.id)) ?? assert.fail();
  const layer = join(folders[1].root, 'layers', stateLayerId ?? assert.fail());
  assert.equal(await readFile(join(layer, 'kernel'), 'utf8'), 'kernel of the first host');
  await hatch.vms.stop(caller, vm.id, { graceSeconds: 5 });
  assert.equal((await hatch.vms.start(caller, vm.id, READY)).state, 'running');
  assert.equal(await readFile(join(files, 'kernel'), 'utf8'), 'kernel of the first host');

  // And back to where it came from.
  await hatch.vms.snapshot(caller, vm.id, { keepRunning: false, name: 'home' });
  await there.world.archive.stored((await hatch.snapshots.get(caller, 'home')).id, AbortSignal.timeout(5000));
  const back = await here.hatch.vms.restore(here.caller, vm.id, {}, READY);
  assert.deepEqual([back.hostId, back.epoch, back.network], ['test-host', vm.epoch + 2, vm.network]);
  assert.equal(await readFile(join(folders[0].vms, vm.id, 'initrd'), 'utf8'), 'initrd of the first host');
});

test('a VM that comes back before its first host has looked finds its SSH port there', async () => {
  const { vm } = await asleep();
  await there.hatch.vms.start(there.caller, vm.id, READY);
  const { id } = await there.hatch.vms.snapshot(there.caller, vm.id, { keepRunning: false });
  await there.world.archive.stored(id, AbortSignal.timeout(5000));
  assert.equal((await here.hatch.vms.start(here.caller, vm.id, READY)).hostId, 'test-host');
  assert.deepEqual(here.world.ports.vmIds(), [vm.id]);
});

test('a snapshot says which kernel its guest booted, here and where it went to, and nothing where no image says', async () => {
  const images = join(folders[0].root, 'images');
  const { size } = await stat(join(images, 'vmlinuz'));
  const kernel = 'ab'.repeat(32);
  const part = { rootfs: 'cd'.repeat(32), vmlinuz: kernel, vmlinux: '', initrd: '' };
  const texts = ['name', 'hash', 'built_at', 'suite', 'architecture', 'kernel_version', 'kernel_entry'];
  const manifest = {
    ...Object.fromEntries([...texts, 'default_user', 'boot_args'].map((key) => [key, key])),
    agent: true,
    sizes: { rootfs: 4, vmlinuz: size, vmlinux: 0, initrd: 0 },
    sha256: part,
    packages: {},
  };
  const path = join(images, 'manifest.json');
  const savedOn = async ({ hatch, caller }: FakeWorld, id: string) =>
    (await hatch.vms.snapshot(caller, id, { keepRunning: true })).savedOn.kernelSha256;

  await writeFile(path, JSON.stringify(manifest));
  const { vm, snapshot } = await asleep();
  assert.equal(snapshot.savedOn.kernelSha256, kernel);
  await rm(images, { recursive: true });
  await putImage(folders[1], 'another kernel', null);
  await there.hatch.vms.start(there.caller, vm.id, READY);
  assert.equal(await savedOn(there, vm.id), kernel);

  const plain = await there.hatch.vms.create(there.caller, { name: 'plain' }, READY);
  assert.equal(await savedOn(there, plain.id), null);
  await putImage(folders[0], 'a longer kernel than the manifest knows', null);
  await writeFile(path, JSON.stringify(manifest));
  const other = await here.hatch.vms.create(here.caller, { name: 'other' }, READY);
  assert.equal(await savedOn(here, other.id), null);
});

test('a VM of another host is seen, and what is asked of it is refused with the name of its host', async () => {
  const vm = await here.hatch.vms.create(here.caller, { name: 'web' }, READY);
  const { hatch, caller } = there;
  assert.equal((await hatch.vms.get(caller, 'web')).hostId, 'test-host');
  assert.equal((await hatch.vms.list(caller, {}, { limit: 10 })).length, 1);
  const about = /is (running|stopped) on host "test-host": ask there/;
  const asked = [
    () => hatch.vms.start(caller, 'web'),
    () => hatch.vms.stop(caller, 'web', { graceSeconds: 1 }),
    () => hatch.vms.reboot(caller, 'web'),
    () => hatch.vms.snapshot(caller, 'web', { keepRunning: true }),
    () => hatch.vms.fork(caller, 'web', { count: 1, keepRunning: true }),
    () => hatch.vms.restore(caller, 'web', {}),
    () => hatch.vms.patch(caller, 'web', { name: 'mine' }),
    () =>
      hatch.vms.exec(caller, 'web', { command: 'true', cwd: null, env: {}, stdin: null, timeoutMs: 1000 }),
    () => hatch.vms.console(caller, 'web', 100),
    () => hatch.vms.metrics(caller, 'web'),
    () => hatch.vms.delete(caller, 'web'),
  ];
  for (const ask of asked) await refused(ask(), 'wrong_state', about);
  assert.deepEqual(await here.world.store.vms.get(vm.id), vm);
  await here.hatch.vms.stop(here.caller, 'web', { graceSeconds: 5 });
  await refused(hatch.vms.start(caller, 'web'), 'wrong_state', about);
});

test('who waits here for a VM of another host sees what that host makes of it', async () => {
  const vm = await here.hatch.vms.create(here.caller, { name: 'web' }, READY);
  await here.hatch.vms.stop(here.caller, vm.id, { graceSeconds: 5 });
  const { store } = here.world;
  const wait = (timeoutMs: number) => there.hatch.vms.get(there.caller, vm.id, { until: 'ready', timeoutMs });
  const owner = { hostId: 'test-host', epoch: vm.epoch };
  const operation = await store.operations.begin({ id: vm.id, owner }, 'start', {});
  const waiting = wait(60_000);
  // It has looked, and waits, before there is anything new.
  await refused(wait(1), 'timeout', /was not ready within/);
  await store.operations.finish(operation.id, 'failed');
  await refused(waiting, 'wrong_state', /is stopped and will not be ready/);

  const starting = here.hatch.vms.start(here.caller, vm.id, READY);
  await until({ clock: systemClock, signal: AbortSignal.timeout(5000) }, async () => {
    const now = await store.vms.get(vm.id);
    return now?.operation || now?.state === 'running' ? true : undefined;
  });
  const seen = await wait(60_000);
  assert.deepEqual([seen.state, seen.hostId, seen.readyAt !== null], ['running', 'test-host', true]);
  await starting;
});

test('who waits here for a snapshot of another host to be stored hears when it is', async () => {
  const { snapshot } = await asleep();
  const { store } = here.world;
  const { manifest } = (await store.snapshots.get(snapshot.id)) ?? assert.fail();
  await store.snapshots.update(snapshot.id, { state: 'uploading', manifest: null });
  const get = (storedWithinMs: number) =>
    there.hatch.snapshots.get(there.caller, snapshot.id, storedWithinMs);
  const waiting = get(60_000);
  await refused(get(1), 'timeout', /was not stored within/);
  await store.snapshots.update(snapshot.id, { state: 'durable', manifest });
  assert.equal((await waiting).state, 'durable');
});

test('a VM whose snapshot is on its host alone wakes and is copied nowhere else', async () => {
  const { vm, snapshot } = await asleep();
  await here.world.store.snapshots.update(snapshot.id, { state: 'local', manifest: null });
  const { hatch, caller } = there;
  const before = await there.world.store.vms.get(vm.id);
  await refused(hatch.vms.start(caller, vm.id), 'wrong_state', /on host "test-host" alone/);
  await refused(hatch.vms.delete(caller, vm.id), 'wrong_state', /on host "test-host".*not in the store/);
  await refused(
    hatch.vms.create(caller, { snapshotId: snapshot.id }),
    'wrong_state',
    /on host "test-host" alone/,
  );
  assert.deepEqual(await there.world.store.vms.get(vm.id), before);
});

test('an operation under way where a VM sleeps keeps others from it', async () => {
  const { vm, snapshot } = await asleep();
  const { store } = here.world;
  const owner = { hostId: 'test-host', epoch: vm.epoch };
  const operation = await store.operations.begin({ id: vm.id, owner }, 'restore', { snapshot: snapshot.id });
  await refused(there.hatch.vms.start(there.caller, vm.id), 'busy', /of host "test-host"/);
  const named = await here.hatch.snapshots.list(here.caller, { vm: vm.id }, { limit: 1 });
  assert.equal(named[0]?.id, snapshot.id);
  await store.operations.finish(operation.id, 'failed');
  assert.equal((await there.hatch.vms.start(there.caller, vm.id, READY)).hostId, 'second');
});

test('an address, MAC or port that cannot be had there is named, and nothing is changed', async () => {
  const { vm } = await asleep();
  const { hatch, caller } = there;
  const ip = vm.network?.ip ?? assert.fail();
  const other = await hatch.vms.create(caller, { guestIp: '192.168.241.99' }, READY);
  const taken = await hatch.vms.create(caller, { guestIp: ip }, READY);
  assert.deepEqual([other.network?.sshPort, taken.network?.sshPort], [2200, 2201]);
  const before = await there.world.store.vms.get(vm.id);
  await refused(hatch.vms.start(caller, vm.id), 'already_exists', /its ssh_port 2200/, 'ssh_port');
  await hatch.vms.delete(caller, other.id);
  await refused(hatch.vms.start(caller, vm.id), 'already_exists', /its guest_ip .*another VM/, 'guest_ip');
  await refused(hatch.vms.delete(caller, vm.id), 'already_exists', /its guest_ip/, 'guest_ip');
  await hatch.vms.delete(caller, taken.id);
  await there.close();
  there = await openSecond('10.77.0.1/24');
  await refused(
    there.hatch.vms.start(there.caller, vm.id),
    'wrong_state',
    /its guest_ip 192\.168\.241\.10: it must lie in the bridge's network 10\.77\.0\.0\/24/,
    'guest_ip',
  );
  assert.deepEqual(await there.world.store.vms.get(vm.id), before);
  assert.equal((await here.hatch.vms.start(here.caller, vm.id, READY)).state, 'running');
});

test('a durable snapshot of a VM elsewhere is copied, and the VM stays where it is', async () => {
  const { vm, snapshot } = await asleep();
  const { hatch, caller } = there;
  const copy = await hatch.vms.create(caller, { snapshotId: snapshot.id, name: 'copy' }, READY);
  const [fork] = await hatch.vms.fork(caller, vm.id, { count: 1, keepRunning: true }, READY);
  assert.deepEqual([copy.hostId, fork?.hostId], ['second', 'second']);
  const now = await here.hatch.vms.get(here.caller, vm.id);
  assert.deepEqual([now.hostId, now.epoch, now.state], ['test-host', vm.epoch, 'snapshotted']);
  assert.equal((await here.hatch.vms.start(here.caller, vm.id, READY)).hostId, 'test-host');
});

test('a VM that sleeps elsewhere is deleted with all it has', async () => {
  const { vm } = await asleep();
  await there.hatch.vms.delete(there.caller, vm.id);
  assert.equal(await here.world.store.vms.get(vm.id), null);
  assert.deepEqual(await here.hatch.snapshots.list(here.caller, {}, { limit: 10 }), []);
  await reconcile(here.world);
  assert.deepEqual(await readdir(folders[0].vms), []);
  assert.deepEqual(await readdir(join(folders[0].root, 'layers')), []);
});

test('what cannot be fetched leaves a VM asleep, for whichever host asks next', async () => {
  const { vm, snapshot } = await asleep();
  const packs = join(folders[0].root, 'snapshots');
  const { manifest } = snapshot;
  assert.ok(manifest);
  const file = join(packs, manifest.name);
  const bytes = await readFile(file);
  await writeFile(file, bytes.subarray(0, bytes.length - 1));
  await assert.rejects(there.hatch.vms.start(there.caller, vm.id));
  const left = await there.hatch.vms.get(there.caller, vm.id);
  assert.deepEqual([left.state, left.hostId, left.operation], ['snapshotted', 'second', null]);
  assert.match(left.stateReason?.message ?? '', /^It could not wake/);
  // Its own host has its files still.
  const awake = await here.hatch.vms.start(here.caller, vm.id, READY);
  assert.deepEqual([awake.state, awake.hostId], ['running', 'test-host']);
});

test("a host whose default image was overwritten by another one's makes VMs of its own", async () => {
  await rm(join(folders[0].root, 'images'), { recursive: true });
  const { hatch, caller, world, sleeper } = there;
  const findDefaultImage = (): Promise<void> => putImage(folders[1], 'kernel of the second host', null);
  const registry = {
    register: async () => assert.fail('nothing is registered here'),
    forget: async () => undefined,
    sha256: async () => null,
  };
  const wakers = [new Waker(world), sleeper] as const;
  const { vms } = openHatch({ ...world, findDefaultImage }, registry, async () => [], ...wakers);
  const vm = await vms.create(caller, {});
  const kernel = await readFile(join(folders[1].vms, vm.id, 'kernel'), 'utf8');
  assert.equal(kernel, 'kernel of the second host');
  await hatch.vms.delete(caller, vm.id);
});

test('a long chain over a disk that was brought is laid onto that disk, and not onto an image of another host', async () => {
  const { vm } = await asleep();
  const { hatch, caller, world } = there;
  await hatch.vms.start(caller, vm.id, READY);
  const { id } = await hatch.vms.snapshot(caller, vm.id, { keepRunning: false });
  const snapshot = (await world.store.snapshots.get(id)) ?? assert.fail();
  const whole = await world.store.layers.chain(snapshot.diskLayerId ?? assert.fail());
  let onto: unknown;
  const files: World['files'] = {
    ...world.files,
    makeDiskOn: (request, signal) => {
      onto = request.flattenOnto;
      return world.files.makeDiskOn(request, signal);
    },
  };
  const image = await imageOf(world, vm);
  const step = (chain: readonly Layer[]): Step => {
    const layers = over(world.store.layers, { chain: async () => chain });
    const deps = { ...world, files, store: { ...world.store, layers } };
    return diskFromSnapshot(deps, { ...vm, hostId: 'second', epoch: vm.epoch + 1 }, image, snapshot);
  };
  const [top] = whole;
  assert.ok(top);
  const brought: Layer = { ...top, parentId: null, imageId: null, imageAccountId: null };
  const links = Array.from({ length: 8 }, (): Layer => ({ ...top, parentId: top.id }));
  for (const [root, wanted] of [
    [brought, { path: brought.path, format: 'raw' }],
    [
      { ...top, parentId: null },
      { path: image.rootfsPath, format: 'raw' },
    ],
  ] as const) {
    const disk = step([...links, root]);
    await disk.run(new AbortController().signal);
    assert.deepEqual(onto, wanted);
    await disk.undo();
  }
});
