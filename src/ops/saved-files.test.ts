import assert from 'node:assert/strict';
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { test } from 'node:test';
import { newId } from '../base/ids.ts';
import { makeExt4 } from '../guest/saved-disk/testing.ts';
import { makeHostFolder, openFakeWorld, type FakeWorld } from '../../test/support/fake-world.ts';
import { forgetLocal } from './archive/evict.ts';

const READY = { until: 'ready', timeoutMs: 10_000 } as const;
const signal = new AbortController().signal;

/** A world with a VM whose disk is a real ext4; `save` saves it with these files on it. */
async function withDisk(
  body: (
    world: FakeWorld & { readonly save: (files: Readonly<Record<string, string>>) => Promise<string> },
  ) => Promise<void>,
): Promise<void> {
  const host = await makeHostFolder();
  try {
    const world = await openFakeWorld(host);
    try {
      const { hatch, caller } = world;
      const vm = await hatch.vms.create(caller, { name: 'web' }, READY);
      await body({
        ...world,
        save: async (files) => {
          const from = join(host.root, 'files');
          await rm(from, { recursive: true, force: true });
          for (const [path, content] of Object.entries(files)) {
            await mkdir(join(from, path, '..'), { recursive: true });
            await writeFile(join(from, path), content);
          }
          const disk = join(host.vms, vm.id, 'disk.raw');
          await rm(disk);
          await makeExt4(disk, { from, size: '8M', args: ['-E', 'root_owner=0:0'] });
          const { id } = await hatch.vms.snapshot(caller, vm.id, { keepRunning: true });
          return id;
        },
      });
    } finally {
      await world.close();
    }
  } finally {
    await host.remove();
  }
}

/** What is in a folder of a snapshot, by name. */
async function names({ hatch, caller }: FakeWorld, id: string, path = '/'): Promise<readonly string[]> {
  const { entries } = await hatch.snapshots.files(caller, id, { path, limit: 100 }, signal);
  return entries.map(({ name }) => name.text).sort();
}

test('the files of a snapshot are listed and read as they were, whatever the VM has become', () =>
  withDisk(async (world) => {
    const { hatch, caller } = world;
    const first = await world.save({ 'etc/motd': 'before\n', 'etc/hosts': '' });
    await world.save({ 'etc/motd': 'after\n' });
    assert.deepEqual(await names(world, first, '/etc'), ['hosts', 'motd']);
    const page = await hatch.snapshots.files(caller, first, { path: '/etc', limit: 1 }, signal);
    assert.equal(page.entries.length, 1);
    const rest = { path: '/etc', limit: 1, after: page.next ?? '' };
    assert.equal((await hatch.snapshots.files(caller, first, rest, signal)).next, null);
    const file = await hatch.snapshots.readFile(caller, first, '/etc/motd', signal);
    assert.deepEqual([file.sizeBytes, file.facts.kind], [7, 'file']);
    assert.equal(await text(file.content), 'before\n');
    assert.equal((await hatch.vms.get(caller, 'web')).state, 'running');
  }));

test('two snapshots are compared, and no more is told than was asked for', () =>
  withDisk(async ({ hatch, caller, save }) => {
    const before = await save({ 'etc/motd': 'before\n', 'etc/gone': 'x' });
    const after = await save({ 'etc/motd': 'afterwards\n', 'etc/new': 'y' });
    const ask = (limit: number, path = '/etc') =>
      hatch.snapshots.diff(caller, before, after, { path, limit }, signal);
    const { changes, truncated } = await ask(100);
    assert.deepEqual(
      changes.map(({ path, change }) => `${change} ${path.text}`),
      ['removed /etc/gone', 'changed /etc/motd', 'added /etc/new'],
    );
    assert.equal(truncated, false);
    const some = await ask(2);
    assert.deepEqual([some.changes.length, some.truncated], [2, true]);
    const same = await hatch.snapshots.diff(caller, after, after, { path: '/', limit: 10 }, signal);
    assert.deepEqual(same, { changes: [], truncated: false });
  }));

test('a snapshot that is only in the store is read there, and nothing is brought to this host', () =>
  withDisk(async (world) => {
    const { hatch, caller, save } = world;
    const { store, settings } = world.world;
    const id = await save({ 'etc/motd': 'in the store\n', 'var/big': 'x'.repeat(300_000) });
    const snapshot = await hatch.snapshots.get(caller, id, 30_000);
    const layers = await store.layers.ofHost(settings.hostId);
    assert.ok(await forgetLocal(world.world, snapshot));
    const left = (await store.layers.ofHost(settings.hostId)).map((layer) => layer.id);
    assert.ok(!left.includes(snapshot.diskLayerId ?? newId('layer')), 'its disk is gone');
    assert.ok(left.length < layers.length);

    assert.deepEqual(await names(world, id, '/etc'), ['motd']);
    const motd = await hatch.snapshots.readFile(caller, id, '/etc/motd', signal);
    assert.equal(await text(motd.content), 'in the store\n');
    const big = await hatch.snapshots.readFile(caller, id, '/var/big', signal);
    assert.equal(await text(big.content), 'x'.repeat(300_000));
    const later = await save({ 'etc/motd': 'here, and longer\n' });
    const { changes } = await hatch.snapshots.diff(caller, id, later, { path: '/etc', limit: 9 }, signal);
    assert.deepEqual(
      changes.map(({ path, differences }) => [path.text, differences.includes('size')]),
      [['/etc/motd', true]],
    );
    assert.equal((await hatch.snapshots.get(caller, id)).hostId, null, 'it was not brought here');
    assert.equal(await hatch.snapshots.delete(caller, id), undefined, 'nothing holds it any more');
  }));

test('a store that has lost the bytes is told as unavailable, and leaves nothing held', () =>
  withDisk(async ({ hatch, caller, save, world: { store } }) => {
    const id = await save({ 'etc/motd': 'lost\n' });
    const snapshot = await hatch.snapshots.get(caller, id, 30_000);
    await store.snapshots.update(snapshot.id, {
      hostId: null,
      diskLayerId: null,
      memoryLayerId: null,
      stateLayerId: null,
      manifest: { name: 'manifests/nowhere', sha256: '0'.repeat(64) },
    });
    const look = hatch.snapshots.files(caller, id, { path: '/', limit: 1 }, signal);
    await assert.rejects(look, { code: 'unavailable', message: /could not be read from the store/ });
  }));

test('what is not on the disk, or not on a disk that can be read, is refused by name', () =>
  withDisk(async ({ hatch, caller, save }) => {
    const id = await save({ 'etc/motd': 'x' });
    const list = (path: string) => hatch.snapshots.files(caller, id, { path, limit: 1 }, signal);
    await assert.rejects(list('/nothing'), { code: 'not_found', message: /nothing at "\/nothing"/ });
    await assert.rejects(list('/etc/motd'), { code: 'invalid_request', message: /not a folder/ });
    await assert.rejects(hatch.snapshots.readFile(caller, id, '/etc', signal), { code: 'invalid_request' });
    await assert.rejects(hatch.snapshots.diff(caller, id, 'none', { path: '/', limit: 1 }, signal), {
      code: 'not_found',
      message: /none/,
    });
    const other = await hatch.vms.create(caller, {}, READY);
    const pretended = await hatch.vms.snapshot(caller, other.id, { keepRunning: false });
    const unreadable = hatch.snapshots.files(caller, pretended.id, { path: '/', limit: 1 }, signal);
    await assert.rejects(unreadable, { code: 'invalid_request', message: /cannot be looked into/ });
  }));

test('another account’s snapshot cannot be looked into', () =>
  withDisk(async ({ hatch, caller, save }) => {
    const id = await save({ 'etc/motd': 'secret' });
    const stranger = { ...caller, accountId: newId('acct') };
    const no = { code: 'not_found' };
    await assert.rejects(hatch.snapshots.files(stranger, id, { path: '/', limit: 1 }, signal), no);
    await assert.rejects(hatch.snapshots.readFile(stranger, id, '/etc/motd', signal), no);
    await assert.rejects(hatch.snapshots.diff(stranger, id, id, { path: '/', limit: 1 }, signal), no);
  }));
