import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { mkdtemp, readdir, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { systemClock } from '../../src/base/clock.ts';
import { until } from '../../src/base/until.ts';
import type { Vm } from '../../src/contract/vm.ts';
import { START_COUNTING } from '../support/counter.ts';
import { qemuOf, startHatchd, untilVm, type Hatchd } from '../support/hatchd.ts';

/** One booted guest that counts: snapshots of it that are kept, gone back to, looked into, copied from and deleted. */
let folder: string;
let hatchd: Hatchd;
let vm: Vm;

before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'snap-'));
  hatchd = await startHatchd(folder);
  vm = await hatchd.client.vms.create(
    { name: 'counter', ssh_authorized_keys: [hatchd.publicKey] },
    { wait: 'ready', timeout: 300 },
  );
  await inside(vm.id, 'systemctl is-system-running --wait || true');
  await inside(vm.id, START_COUNTING);
  await until({ clock: systemClock, signal: AbortSignal.timeout(60_000) }, async () =>
    (await count(vm.id)) > 0 ? true : undefined,
  );
  await hatchd.client.vms.snapshot(vm.id, { name: 'asleep' });
  await hatchd.client.vms.start(vm.id, { wait: 'ready', timeout: 60 });
});
after(async () => {
  await hatchd.down();
  await rm(folder, { recursive: true, force: true });
});

/** Runs a line in a guest through the agent; throws when it fails. */
async function inside(id: string, command: string): Promise<string> {
  const { exit_code, stdout, stderr } = await hatchd.client.vms.exec(id, { command, timeout_seconds: 120 });
  assert.equal(exit_code, 0, `${command}: ${stderr}`);
  return stdout.trim();
}

async function count(id: string): Promise<number> {
  return Number(await inside(id, 'cat /root/count || echo 0'));
}

test('a VM that is saved while it runs goes on counting, and the snapshot stays as it was', async () => {
  const counted = await count(vm.id);
  const pid = await qemuOf(vm.id);
  const snapshot = await hatchd.client.vms.snapshot(vm.id, { name: 'golden', keep_running: true });
  assert.equal(await qemuOf(vm.id), pid, 'the same process goes on');
  const layers = join(hatchd.data, 'layers');
  const sizes = await Promise.all(
    (await readdir(layers)).map(async (name) =>
      existsSync(join(layers, name, 'state.bin')) ? (await stat(join(layers, name, 'state.bin'))).size : 0,
    ),
  );
  assert.ok(Math.max(...sizes) < 5e6, 'the memory of what was saved lies in files that can be shared');
  const running = await untilVm(hatchd, vm.id, (now) => now.ready);
  assert.equal(running.state, 'running');
  assert.ok((await count(vm.id)) >= counted);
  assert.equal(await hatchd.ssh(vm, 'debian', 'echo here'), 'here');
  assert.deepEqual(
    (await hatchd.client.vms.snapshots(vm.id)).map(({ name }) => name),
    ['golden', 'asleep'],
  );
  assert.equal((await hatchd.client.snapshots.get('golden')).id, snapshot.id);
});

test('a VM that slept for nobody’s sake wakes in its memory, and sleeps again without writing it', async () => {
  const { vms } = hatchd.client;
  const stateBytes: number[] = [];
  for (let i = 0; i < 2; i++) {
    const counted = await count(vm.id);
    const before = new Set(await readdir(join(hatchd.data, 'layers')));
    // What a fork leaves asleep is nobody's to keep.
    const [copy] = await vms.fork(vm.id, { count: 1, keep_running: false }, { wait: 'ready', timeout: 120 });
    assert.ok(copy);
    await vms.delete(copy.id);
    for (const layer of await readdir(join(hatchd.data, 'layers'))) {
      const state = join(hatchd.data, 'layers', layer, 'state.bin');
      if (!before.has(layer) && existsSync(state)) stateBytes.push((await stat(state)).size);
    }
    await vms.start(vm.id, { wait: 'ready', timeout: 60 });
    const pid = (await qemuOf(vm.id)) ?? assert.fail('it does not run');
    assert.match(await readFile(`/proc/${pid}/cmdline`, 'utf8'), /share=on/);
    assert.ok((await count(vm.id)) >= counted, 'it goes on counting');
  }
  assert.equal(stateBytes.length, 2);
  assert.ok((stateBytes[1] ?? Infinity) < 5e6, `its second state has ${stateBytes[1]} bytes`);
});

test('a VM is made from a snapshot, again and again, and outlives it', async () => {
  const copy = await hatchd.client.vms.create(
    { snapshot_id: 'golden', name: 'late' },
    { wait: 'ready', timeout: 60 },
  );
  assert.equal(copy.parent_snapshot_id, (await hatchd.client.snapshots.get('golden')).id);
  assert.ok((await count(copy.id)) > 0);
  assert.deepEqual(await hatchd.client.snapshots.delete('golden'), { status: 'deleted' });
  assert.ok((await count(copy.id)) > 0, 'it runs on memory nobody else names any more');
  // A copy that sleeps, and one that stops and boots again, stand on what they share as well.
  const slept = await hatchd.client.vms.snapshot(copy.id, {});
  assert.equal(slept.vm_id, copy.id);
  assert.equal((await hatchd.client.vms.start(copy.id, { wait: 'ready', timeout: 60 })).state, 'running');
  assert.ok((await count(copy.id)) > 0);
  await hatchd.client.vms.stop(copy.id, { grace_seconds: 60 });
  const again = await hatchd.client.vms.start(copy.id, { wait: 'ready', timeout: 300 });
  assert.equal(again.state, 'running');
  assert.equal(await inside(copy.id, 'hostname'), 'late', 'cloud-init did not set it up anew');
  await hatchd.client.vms.delete(copy.id);
});

test('a stopped VM goes back to a snapshot, if what is on its disk may be lost', async () => {
  await inside(vm.id, 'touch /root/after-the-snapshot; sync');
  await hatchd.client.vms.stop(vm.id, { grace_seconds: 60 });
  await assert.rejects(
    hatchd.client.vms.restore(vm.id, { snapshot_id: 'asleep' }),
    /its disk would be lost: say "discard": true/,
  );
  const back = await hatchd.client.vms.restore(
    vm.id,
    { snapshot_id: 'asleep', discard: true },
    { wait: 'ready', timeout: 60 },
  );
  assert.equal(back.state, 'running');
  await inside(vm.id, 'test ! -e /root/after-the-snapshot');
});

test('the files of a sleeping VM are listed, read and compared on its disk, and nothing is woken', async () => {
  const { snapshots, vms } = hatchd.client;
  await inside(
    vm.id,
    'mkdir /root/papers && cd /root/papers && echo before > letter && echo x > old && sync',
  );
  const before = await vms.snapshot(vm.id, { name: 'before', keep_running: true });
  await inside(vm.id, 'cd /root/papers && rm old && echo afterwards > letter && echo y > new && sync');
  const later = await vms.snapshot(vm.id, { name: 'after' });
  const names = async (id: string): Promise<readonly string[]> =>
    (await snapshots.files(id, { path: '/root/papers' })).map(({ name }) => name).sort();
  assert.deepEqual(await names(before.id), ['letter', 'old']);
  assert.deepEqual(await names(later.id), ['letter', 'new']);
  const read = async (id: string, path: string): Promise<string> => {
    const pieces: Uint8Array[] = [];
    for await (const piece of snapshots.readFile(id, { path })) pieces.push(piece);
    return Buffer.concat(pieces).toString();
  };
  assert.equal(await read('before', '/root/papers/letter'), 'before\n');
  assert.equal(await read('after', '/root/papers/letter'), 'afterwards\n');
  assert.match(await read('after', '/etc/os-release'), /debian/, 'a link is followed, down to the image');
  const { changes } = await snapshots.diff('before', 'after', { path: '/root/papers' });
  assert.deepEqual(
    changes.map(({ change, path }) => `${change} ${path}`),
    ['changed /root/papers/letter', 'added /root/papers/new', 'removed /root/papers/old'],
  );
  const whole = await snapshots.diff('before', 'after');
  assert.ok(whole.changes.some(({ path }) => path === '/root/papers/new'));
  assert.ok(!whole.truncated && whole.changes.length < 100, 'no more changed than a minute changes');
  assert.equal((await vms.get(vm.id)).state, 'snapshotted');
  assert.equal(await qemuOf(vm.id), undefined, 'nothing was woken');
  await vms.start(vm.id, { wait: 'ready', timeout: 60 });
});

test('deleting the VM deletes its snapshots and every file', async () => {
  await assert.rejects(
    (async () => {
      await hatchd.client.vms.snapshot(vm.id, {});
      const [newest] = await hatchd.client.vms.snapshots(vm.id);
      assert.ok(newest);
      await hatchd.client.snapshots.delete(newest.id);
    })(),
    /its only way back/,
  );
  await hatchd.client.vms.delete(vm.id);
  assert.deepEqual(await hatchd.client.snapshots.list(), []);
  assert.deepEqual(await readdir(join(hatchd.data, 'layers')), []);
  assert.deepEqual(await readdir(join(hatchd.data, 'vms')), []);
});
