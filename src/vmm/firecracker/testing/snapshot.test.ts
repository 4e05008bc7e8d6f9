import assert from 'node:assert/strict';
import { once } from 'node:events';
import { copyFileSync, existsSync, readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { test } from 'node:test';
import { crc64 } from './state-file.ts';
import { create, load, saved, turns, word } from './tried-snapshot.ts';
import { Talk } from './tried-talk.ts';
import { TriedVmms } from './tried-vmm.ts';

test('a snapshot is made of a paused machine only', async () => {
  using vmms = new TriedVmms();
  const vm = vmms.open();
  await vm.boot();
  assert.equal(
    (await create(vm, vmms)).fault,
    'Create snapshot error: Cannot save the microVM state: Operation not allowed: save/restore unavailable while running',
  );
  assert.equal(existsSync(vmms.path('state')), false);
});

test('what was saved goes on in many machines at once, each by itself, and the memory file stays as it is', async () => {
  using vmms = new TriedVmms();
  await saved(vmms);
  const before = readFileSync(vmms.path('memory'));
  assert.equal(before.length, 128 * 2 ** 20);
  const clones = [vmms.open(), vmms.open(), vmms.open()];
  const sockets = clones.map(() => vmms.socket());
  for (const [i, clone] of clones.entries()) {
    const more = { resume_vm: true, vsock_override: { uds_path: sockets[i] } };
    assert.equal((await load(clone, vmms, more)).fault, null);
    assert.equal(((await clone.get('/')).json as { state: string }).state, 'Running');
  }
  for (const [i, uds] of sockets.entries()) {
    assert.equal(await word(uds), 'kept');
    using talk = new Talk(uds);
    await talk.dial();
    await talk.shell(`echo own-${i} > /run/word`);
  }
  for (const [i, uds] of sockets.entries()) assert.equal(await word(uds), `own-${i}`);
  assert(before.equals(readFileSync(vmms.path('memory'))));
});

test('copies have the same draw of what was random, and a clock that stood still', async () => {
  using vmms = new TriedVmms();
  const vm = await saved(vmms);
  const state = JSON.parse(readFileSync(vmms.path('state')).subarray(0, -8).toString()) as {
    realtimeMs: number;
  };
  const aged = Buffer.from(JSON.stringify({ ...state, realtimeMs: state.realtimeMs - 1_000_000_000 }));
  const trailer = Buffer.alloc(8);
  trailer.writeBigUInt64LE(crc64(aged));
  writeFileSync(vmms.path('state'), Buffer.concat([aged, trailer]));
  const seen: { bootId: string; clock: number }[] = [];
  for (const clock_realtime of [false, true]) {
    const uds = vmms.socket();
    await load(vmms.open(), vmms, { resume_vm: true, vsock_override: { uds_path: uds }, clock_realtime });
    using talk = new Talk(uds);
    await talk.dial();
    seen.push({
      bootId: await talk.shell('cat /proc/sys/kernel/random/boot_id'),
      clock: Number(await talk.shell('cat /sys/class/rtc/rtc0/since_epoch')),
    });
  }
  assert.equal(seen[0]?.bootId, seen[1]?.bootId);
  const ahead = (seen[1]?.clock ?? 0) - (seen[0]?.clock ?? 0);
  assert(ahead >= 999_999 && ahead <= 1_000_010, `${ahead} s`);
  assert(vm);
});

test('a load leaves the machine paused unless it is told to go on', async () => {
  using vmms = new TriedVmms();
  await saved(vmms);
  const vm = vmms.open();
  const uds = vmms.socket();
  assert.equal((await load(vm, vmms, { vsock_override: { uds_path: uds } })).fault, null);
  assert.equal(((await vm.get('/')).json as { state: string }).state, 'Paused');
  using talk = new Talk(uds);
  talk.say('CONNECT 1024\n');
  await once(talk.socket, 'connect');
  await turns();
  assert.equal(talk.pending, '');
  await vm.patch('/vm', { state: 'Resumed' });
  assert.match(await talk.line(), /^OK /);
});

test('a load brings back the machine, but neither tracking, nor console, nor metadata', async () => {
  using vmms = new TriedVmms();
  await saved(
    vmms,
    {},
    ['PUT', '/machine-config', { vcpu_count: 2, mem_size_mib: 128, track_dirty_pages: true }],
    [
      'PUT',
      '/network-interfaces/net0',
      { iface_id: 'net0', host_dev_name: 'tap0', guest_mac: '06:00:ac:10:00:02' },
    ],
    ['PUT', '/mmds/config', { network_interfaces: ['net0'], version: 'V2' }],
    ['PUT', '/mmds', { secret: 1 }],
    ['PUT', '/balloon', { amount_mib: 8, deflate_on_oom: true }],
    ['PUT', '/entropy', {}],
  );
  vmms.taps.clear();
  const vm = vmms.open();
  await load(vm, vmms, { vsock_override: { uds_path: vmms.socket() } });
  assert.deepEqual((await vm.get('/machine-config')).json, {
    vcpu_count: 2,
    mem_size_mib: 128,
    smt: false,
    track_dirty_pages: false,
    huge_pages: 'None',
  });
  assert.equal(((await vm.get('/balloon')).json as { amount_mib: number }).amount_mib, 8);
  assert.deepEqual((await vm.get('/mmds')).json, {});
  assert.match((await vm.patch('/mmds', { a: 1 })).fault ?? '', /not initialized/);
  const config = (await vm.get('/vm/config')).json as Record<string, unknown>;
  assert.match(JSON.stringify(config['network-interfaces']), /06:00:ac:10:00:02/);
  assert.deepEqual(config['boot-source'], { kernel_image_path: '', initrd_path: null, boot_args: null });
  const tracking = vmms.open();
  vmms.taps.clear();
  await load(tracking, vmms, { vsock_override: { uds_path: vmms.socket() }, track_dirty_pages: true });
  assert.match(JSON.stringify((await tracking.get('/machine-config')).json), /"track_dirty_pages":true/);
});

test('a clone is saved and loaded like any other', async () => {
  using vmms = new TriedVmms();
  await saved(vmms);
  const clone = vmms.open();
  const uds = vmms.socket();
  await load(clone, vmms, { resume_vm: true, vsock_override: { uds_path: uds } });
  using talk = new Talk(uds);
  await talk.dial();
  await talk.shell('echo newer > /run/word');
  await clone.patch('/vm', { state: 'Paused' });
  assert.equal((await create(clone, vmms)).fault, null, 'over the very files it was loaded from');
  const second = vmms.open();
  const other = vmms.socket();
  await load(second, vmms, { resume_vm: true, vsock_override: { uds_path: other } });
  assert.equal(await word(other), 'newer');
});

test('a memory file of just the size is written over in place, any other is emptied first', async () => {
  using vmms = new TriedVmms();
  const vm = await saved(vmms);
  const before = statSync(vmms.path('memory'));
  assert.equal((await create(vm, vmms, { snapshot_type: 'Diff' })).fault, null);
  assert.equal(statSync(vmms.path('memory')).ino, before.ino);
  writeFileSync(vmms.path('memory'), '#'.repeat(5000));
  assert.equal((await create(vm, vmms)).fault, null);
  const memory = readFileSync(vmms.path('memory'));
  assert.equal(memory.length, 128 * 2 ** 20);
  assert.equal(memory.includes('#'), false);
});

test('by default the memory file is sparse, and every byte is written where that is asked for', async () => {
  using vmms = new TriedVmms();
  await saved(vmms);
  assert(statSync(vmms.path('memory')).blocks * 512 < 2 ** 20);
  await saved(vmms, { FC_DOUBLE_WHOLE_MEMORY: '1' });
  assert(statSync(vmms.path('memory')).blocks * 512 >= 128 * 2 ** 20);
});

test('a memory file that is cut under a guest is the end of it', async () => {
  using vmms = new TriedVmms();
  await saved(vmms);
  const copy = vmms.path('copy');
  copyFileSync(vmms.path('memory'), copy);
  const vm = vmms.open();
  const uds = vmms.socket();
  await load(vm, vmms, {
    resume_vm: true,
    vsock_override: { uds_path: uds },
    mem_backend: { backend_type: 'File', backend_path: copy },
  });
  assert.equal(await word(uds), 'kept');
  truncateSync(copy, 4096);
  using talk = new Talk(uds);
  await talk.dial();
  talk.say('{"execute":"guest-ping"}\n');
  await talk.line();
  assert.deepEqual(vmms.ends.slice(0, 1), [149]);
});

test('a memory that holds no guest runs, and nothing comes of it', async () => {
  using vmms = new TriedVmms();
  await saved(vmms);
  const zeros = vmms.path('zeros');
  writeFileSync(zeros, '');
  truncateSync(zeros, 128 * 2 ** 20);
  const vm = vmms.open();
  const uds = vmms.socket();
  const more = { mem_backend: { backend_type: 'File', backend_path: zeros } };
  assert.equal(
    (await load(vm, vmms, { ...more, resume_vm: true, vsock_override: { uds_path: uds } })).fault,
    null,
  );
  using talk = new Talk(uds);
  talk.say('CONNECT 1024\n');
  await once(talk.socket, 'connect');
  await turns();
  assert.equal(talk.pending, '');
});

test('the checksum is CRC-64/Jones', () => {
  assert.equal(crc64(Buffer.from('123456789')), 0xe9c6d914c4b8d9can);
});
