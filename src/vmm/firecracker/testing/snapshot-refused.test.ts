import assert from 'node:assert/strict';
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { test } from 'node:test';
import { crc64 } from './state-file.ts';
import { create, FAILED, load, saved } from './tried-snapshot.ts';
import { TriedVmms } from './tried-vmm.ts';

test('recorded paths are opened as they stand; a TAP and the vsock socket can be given others', async () => {
  using vmms = new TriedVmms();
  const net = ['PUT', '/network-interfaces/net0', { iface_id: 'net0', host_dev_name: 'tap0' }] as const;
  const source = await saved(vmms, {}, net);
  // The source still has its TAP and its socket.
  const tap = await load(vmms.open(), vmms);
  assert.equal(
    tap.fault,
    `${FAILED}Failed to build microVM from snapshot: Failed to restore devices: Error restoring MMIO devices: Net: Failed to create a network device: Open tap device failed: tap0 is busy`,
  );
  const other = { network_overrides: [{ iface_id: 'net0', host_dev_name: 'tap1' }] };
  const bound = await load(vmms.open(), vmms, other);
  assert.equal(
    bound.fault,
    `${FAILED}Failed to build microVM from snapshot: Failed to restore devices: Error restoring MMIO devices: VsockUnixBackend: Error binding to the host-side Unix socket: Address in use (os error 98)`,
  );
  const elsewhere = { vsock_override: { uds_path: vmms.socket() } };
  vmms.taps.delete('tap1');
  const vm = vmms.open();
  assert.equal((await load(vm, vmms, { ...other, ...elsewhere })).fault, null);
  assert.deepEqual([...vmms.taps].sort(), ['tap0', 'tap1']);
  const config = (await vm.get('/vm/config')).json as Record<string, unknown>;
  assert.match(JSON.stringify(config['network-interfaces']), /"host_dev_name":"tap1"/);
  assert.deepEqual(config['vsock'], { guest_cid: 3, ...elsewhere.vsock_override });
  assert(source);
});

test('a disk that is not where it was is the end of a load', async () => {
  using vmms = new TriedVmms();
  await saved(vmms);
  rmSync(vmms.path('disk'));
  const { fault } = await load(vmms.open(), vmms, { vsock_override: { uds_path: vmms.socket() } });
  assert.equal(
    fault,
    `${FAILED}Failed to build microVM from snapshot: Failed to restore devices: Error restoring MMIO devices: Block: Virtio backend error: Error manipulating the backing file: No such file or directory (os error 2) ${vmms.path('disk')}`,
  );
});

test('without KVM nothing is loaded', async () => {
  using vmms = new TriedVmms();
  await saved(vmms);
  const vm = vmms.open({ FC_DOUBLE_KVM: 'denied' });
  const { fault } = await load(vm, vmms, { vsock_override: { uds_path: vmms.socket() } });
  assert.match(
    (fault ?? '').replace(FAILED, ''),
    /^Failed to build microVM from snapshot: Failed to create microVM and vCPUs: Kvm error: .*Permission denied/,
  );
  assert.equal(vm.vmm.fatal, 'Restore');
});

test('overrides of what is not there, and files that are none, are the end of a load, each in its words', async () => {
  using vmms = new TriedVmms();
  await saved(vmms);
  const state = readFileSync(vmms.path('state'));
  const attempt = async (more: object): Promise<string> => {
    const vm = vmms.open();
    const { fault } = await load(vm, vmms, { vsock_override: { uds_path: vmms.socket() }, ...more });
    assert.equal(vm.vmm.fatal, 'Restore');
    return (fault ?? '').replace(FAILED, '');
  };
  assert.equal(
    await attempt({ network_overrides: [{ iface_id: 'net9', host_dev_name: 'tap1' }] }),
    'Failed to get snapshot state from file: Unknown Network Device.',
  );
  assert.equal(
    await attempt({ snapshot_path: vmms.path('none') }),
    'Failed to get snapshot state from file: Failed to open snapshot file: No such file or directory (os error 2)',
  );
  const memory = 'Failed to load guest memory: Error creating guest memory from ';
  const backend = (path: string, type = 'File'): object => ({
    mem_backend: { backend_type: type, backend_path: vmms.path(path) },
  });
  assert.equal(
    await attempt(backend('none')),
    `${memory}file: Failed to load guest memory: No such file or directory (os error 2)`,
  );
  writeFileSync(vmms.path('short'), 'short');
  assert.match(
    await attempt(backend('short')),
    new RegExp(`^${memory}file: Failed to restore guest memory: `),
  );
  assert.match(await attempt(backend('memory', 'Uffd')), new RegExp(`^${memory}uffd: `));
  const said = async (bytes: Buffer): Promise<string> => {
    writeFileSync(vmms.path('bad'), bytes);
    const found = await attempt({ snapshot_path: vmms.path('bad') });
    return found.replace(
      'Failed to get snapshot state from file: Failed to load snapshot state from file: ',
      '',
    );
  };
  assert.equal(await said(Buffer.from('short')), 'IO Error: File too short to contain CRC');
  assert.match(
    await said(Buffer.from('not a state at all')),
    /^An error occurred during bitcode serialization/,
  );
  assert.match(await said(state.subarray(0, state.length / 2)), /^An error occurred during bitcode/);
  const flipped = Buffer.from(state);
  flipped[flipped.length - 1] = ~(flipped.at(-1) ?? 0);
  assert.equal(await said(flipped), 'CRC64 validation failed');
});

test('a state of another format is refused by its version', async () => {
  using vmms = new TriedVmms();
  await saved(vmms, { FC_DOUBLE_VERSION: 'v1.15.0' });
  assert.equal(
    (await load(vmms.open(), vmms)).fault,
    `${FAILED}Failed to get snapshot state from file: Failed to load snapshot state from file: Invalid data version: 9.0.0`,
  );
  const again = vmms.open({ FC_DOUBLE_VERSION: 'v1.15.1' });
  rmSync(vmms.path('vsock-0'));
  assert.equal((await load(again, vmms)).fault, null);
});

test('clock_realtime needs a state that knows the time', async () => {
  using vmms = new TriedVmms();
  await saved(vmms);
  const state = readFileSync(vmms.path('state')).subarray(0, -8).toString();
  const timeless = Buffer.from(state.replace(/"realtimeMs":\d+/, '"realtimeMs":null'));
  const trailer = Buffer.alloc(8);
  trailer.writeBigUInt64LE(crc64(timeless));
  writeFileSync(vmms.path('state'), Buffer.concat([timeless, trailer]));
  assert.match(
    (await load(vmms.open(), vmms, { clock_realtime: true })).fault ?? '',
    /clock_realtime requested but not present in the snapshot state$/,
  );
});

test('after anything of a boot was put, a load is refused, and the process goes on', async () => {
  using vmms = new TriedVmms();
  await saved(vmms);
  const refused =
    'Load snapshot error: Loading a microVM snapshot not allowed after configuring boot-specific resources.';
  for (const [path, body] of [
    ['/machine-config', { vcpu_count: 1, mem_size_mib: 128 }],
    ['/boot-source', { kernel_image_path: vmms.path('kernel') }],
    ['/drives/d', { drive_id: 'd', is_root_device: false, path_on_host: vmms.path('disk') }],
    // Refused itself, it counts all the same.
    ['/drives/d', { drive_id: 'd', is_root_device: false, path_on_host: vmms.path('none') }],
    ['/network-interfaces/n', { iface_id: 'n', host_dev_name: 'tap5' }],
    ['/pmem/p', { id: 'p', path_on_host: vmms.path('disk') }],
    ['/vsock', { guest_cid: 3, uds_path: vmms.socket() }],
    ['/entropy', {}],
    ['/balloon', { amount_mib: 1, deflate_on_oom: false }],
    ['/hotplug/memory', { total_size_mib: 128 }],
    ['/mmds/config', { network_interfaces: [] }],
  ] as const) {
    const vm = vmms.open();
    await vm.put(path, body);
    assert.equal((await load(vm, vmms)).fault, refused, path);
    assert.equal(vm.vmm.fatal, null);
    assert.equal((await vm.get('/')).status, 200);
  }
  const vm = vmms.open();
  await vm.all(
    ['PUT', '/logger', { level: 'Off' }],
    ['PUT', '/metrics', { metrics_path: vmms.path('metrics') }],
    ['PUT', '/serial', { serial_out_path: vmms.path('other-console') }],
    ['PUT', '/mmds', { a: 1 }],
    ['PUT', '/cpu-config', {}],
  );
  assert.equal((await load(vm, vmms, { vsock_override: { uds_path: vmms.socket() } })).fault, null);
});

test('files that cannot be written are named by what could not be done to them', async () => {
  using vmms = new TriedVmms();
  const vm = await saved(vmms);
  assert.equal(
    (await create(vm, vmms, { snapshot_path: vmms.path('none/state') })).fault,
    'Create snapshot error: Cannot perform open on the snapshot backing file: No such file or directory (os error 2)',
  );
  assert.equal(
    (await create(vm, vmms, { mem_file_path: vmms.folder })).fault,
    'Create snapshot error: Cannot perform open on the memory backing file: Is a directory (os error 21)',
  );
  assert.equal((await create(vm, vmms)).fault, null, 'and it can be tried again');
});
