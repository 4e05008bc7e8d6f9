import assert from 'node:assert/strict';
import { readFileSync, truncateSync } from 'node:fs';
import { test } from 'node:test';
import { POST_BOOT } from './calls.ts';
import { TriedVmms } from './tried-vmm.ts';

const NO_DEVICE = 'Failed perform action on device: Device not found';

test('what furnishes a machine is refused once it was started, running or paused', async () => {
  using vmms = new TriedVmms();
  const vm = vmms.open();
  await vm.boot();
  for (const state of ['Resumed', 'Paused']) {
    await vm.patch('/vm', { state });
    for (const [method, path, body] of [
      ['PUT', '/boot-source', { kernel_image_path: vmms.path('kernel') }],
      ['PUT', '/machine-config', { vcpu_count: 1, mem_size_mib: 128 }],
      ['PATCH', '/machine-config', { vcpu_count: 1 }],
      ['PUT', '/logger', {}],
      ['PUT', '/metrics', { metrics_path: 'm' }],
      ['PUT', '/serial', {}],
      ['PUT', '/balloon', { amount_mib: 1, deflate_on_oom: false }],
      ['PUT', '/vsock', { guest_cid: 3, uds_path: vmms.socket() }],
      ['PUT', '/mmds/config', { network_interfaces: ['net0'] }],
      ['PUT', '/entropy', {}],
      ['PUT', '/cpu-config', {}],
      ['PUT', '/hotplug/memory', { total_size_mib: 128 }],
      ['PUT', '/actions', { action_type: 'InstanceStart' }],
      ['PUT', '/snapshot/load', { snapshot_path: 's', mem_file_path: 'm' }],
    ] as const) {
      const { status, fault } = await vm.call(method, path, body);
      assert.deepEqual([status, fault], [400, POST_BOOT], `${method} ${path} while ${state}`);
    }
  }
});

test('devices come and go by PCI only, and before 1.16 not at all', async () => {
  using vmms = new TriedVmms();
  const drive = { drive_id: 'more', is_root_device: false, path_on_host: vmms.path('other') };
  const mmio = vmms.open();
  await mmio.boot();
  assert.equal((await mmio.put('/drives/more', drive)).fault, 'PCI is not enabled');
  assert.equal((await mmio.call('DELETE', '/drives/more')).fault, 'PCI is not enabled');
  const older = vmms.open({ FC_DOUBLE_VERSION: 'v1.15.0' });
  await older.boot();
  assert.equal((await older.put('/drives/more', drive)).fault, POST_BOOT);
  const pci = vmms.open({}, { pci: true });
  await pci.boot();
  assert.equal((await pci.put('/drives/more', drive)).status, 204);
  assert.equal((await pci.put('/drives/more', drive)).fault, 'Device ID in use');
  assert.equal((await pci.call('DELETE', '/drives/root')).fault, 'Cannot unplug root device');
  assert.equal((await pci.call('DELETE', '/drives/more')).status, 204);
  assert.equal((await pci.call('DELETE', '/drives/more')).fault, 'Device not found');
});

test('pause and resume may be said as often as one likes', async () => {
  using vmms = new TriedVmms();
  const vm = vmms.open();
  await vm.boot();
  const state = async (): Promise<unknown> => ((await vm.get('/')).json as { state: string }).state;
  assert.equal(await state(), 'Running');
  for (const [wanted, is] of [
    ['Resumed', 'Running'],
    ['Paused', 'Paused'],
    ['Paused', 'Paused'],
    ['Resumed', 'Running'],
  ] as const) {
    assert.equal((await vm.patch('/vm', { state: wanted })).status, 204);
    assert.equal(await state(), is);
  }
});

test('a drive is given another file, or the same anew, and its limits are merged by bucket', async () => {
  using vmms = new TriedVmms();
  const vm = vmms.open();
  await vm.boot();
  const patch = async (body: object): Promise<string | null> =>
    (await vm.patch('/drives/root', { drive_id: 'root', ...body })).fault;
  const refused = (why: string): string =>
    `Drive config error: Unable to patch the block device: ${why} Please verify the request arguments.`;
  assert.equal(
    (await vm.patch('/drives/none', { drive_id: 'none', path_on_host: vmms.path('disk') })).fault,
    refused(NO_DEVICE),
  );
  assert.equal(await patch({}), refused('Block: Running method expected different backend.'));
  assert.match((await patch({ path_on_host: vmms.path('none') })) ?? '', /No such file or directory/);
  assert.equal(await patch({ path_on_host: vmms.path('other') }), null);
  const bucket = { size: 10, refill_time: 100 };
  assert.equal(await patch({ rate_limiter: { bandwidth: bucket, ops: bucket } }), null);
  assert.equal(await patch({ rate_limiter: { ops: { size: 0, refill_time: 0 } } }), null);
  const { drives } = (await vm.get('/vm/config')).json as { drives: Record<string, unknown>[] };
  assert.equal(drives[0]?.['path_on_host'], vmms.path('other'));
  assert.deepEqual(drives[0]?.['rate_limiter'], {
    bandwidth: { ...bucket, one_time_burst: null },
    ops: null,
  });
});

test('an interface that is not there cannot be limited', async () => {
  using vmms = new TriedVmms();
  const vm = vmms.open();
  await vm.boot(undefined, ['PUT', '/network-interfaces/net0', { iface_id: 'net0', host_dev_name: 'tap0' }]);
  const limiter = { rx_rate_limiter: { ops: { size: 1, refill_time: 1 } } };
  assert.equal((await vm.patch('/network-interfaces/net0', { iface_id: 'net0', ...limiter })).status, 204);
  assert.equal(
    (await vm.patch('/network-interfaces/net1', { iface_id: 'net1', ...limiter })).fault,
    `Network config error: Unable to update the net device: ${NO_DEVICE}`,
  );
});

test('the balloon is inflated up to the memory; its statistics are on or off for good', async () => {
  using vmms = new TriedVmms();
  const without = vmms.open();
  await without.boot();
  assert.equal((await without.get('/balloon')).fault, `Internal VMM error: ${NO_DEVICE}`);
  assert.equal(
    (await without.patch('/balloon', { amount_mib: 1 })).fault,
    `Balloon update error: ${NO_DEVICE}`,
  );
  const vm = vmms.open();
  await vm.boot(undefined, ['PUT', '/balloon', { amount_mib: 16, deflate_on_oom: false }]);
  assert.equal((await vm.patch('/balloon', { amount_mib: 64 })).status, 204);
  assert.equal(
    (await vm.patch('/balloon', { amount_mib: 129 })).fault,
    'Balloon update error: Balloon: Requested memory should be less than 129MiB',
  );
  assert.equal(((await vm.get('/balloon')).json as { amount_mib: number }).amount_mib, 64);
  assert.equal(
    (await vm.get('/balloon/statistics')).fault,
    'Internal VMM error: Balloon: Received stats query when stats are disabled.',
  );
  assert.equal(
    (await vm.patch('/balloon/statistics', { stats_polling_interval_s: 1 })).fault,
    'Balloon update error: Balloon: Statistics cannot be enabled/disabled after activation.',
  );
  assert.match((await vm.call('PATCH', '/balloon/hinting/start')).fault ?? '', /hinting when not enabled/);
  const told = vmms.open();
  await told.boot(undefined, [
    'PUT',
    '/balloon',
    { amount_mib: 16, deflate_on_oom: false, stats_polling_interval_s: 1, free_page_hinting: true },
  ]);
  assert.equal(((await told.get('/balloon/statistics')).json as { target_mib: number }).target_mib, 16);
  assert.equal((await told.patch('/balloon/statistics', { stats_polling_interval_s: 5 })).status, 204);
  assert.equal((await told.call('PATCH', '/balloon/hinting/start')).status, 204);
  assert.deepEqual((await told.get('/balloon/hinting/status')).json, { host_cmd: 2, guest_cmd: 2 });
  assert.equal((await told.call('PATCH', '/balloon/hinting/stop')).status, 204);
});

test('memory is plugged in blocks', async () => {
  using vmms = new TriedVmms();
  const vm = vmms.open();
  await vm.boot(undefined, ['PUT', '/hotplug/memory', { total_size_mib: 256 }]);
  assert.equal((await vm.patch('/hotplug/memory', { requested_size_mib: 128 })).status, 204);
  assert.deepEqual((await vm.get('/hotplug/memory')).json, {
    block_size_mib: 2,
    total_size_mib: 256,
    slot_size_mib: 128,
    plugged_size_mib: 128,
    requested_size_mib: 128,
  });
  assert.match((await vm.patch('/hotplug/memory', { requested_size_mib: 3 })).fault ?? '', /is invalid/);
  assert.match((await vm.patch('/hotplug/memory', { requested_size_mib: 512 })).fault ?? '', /is invalid/);
});

test('the metadata service is there only where an interface leads to it', async () => {
  using vmms = new TriedVmms();
  const vm = vmms.open();
  await vm.boot(undefined, ['PUT', '/mmds', { a: 1 }]);
  const none = 'MMDS error: The MMDS data store is not initialized.';
  assert.equal((await vm.get('/mmds')).fault, none);
  assert.equal((await vm.put('/mmds', {})).fault, none);
  assert.equal((await vm.patch('/mmds', {})).fault, none);
  const led = vmms.open();
  await led.boot(
    undefined,
    ['PUT', '/network-interfaces/net0', { iface_id: 'net0', host_dev_name: 'tap0' }],
    ['PUT', '/mmds/config', { network_interfaces: ['net0'], version: 'V2' }],
  );
  assert.deepEqual((await led.get('/mmds')).json, {});
  assert.equal((await led.put('/mmds', { a: 1 })).status, 204);
  assert.deepEqual((await led.get('/mmds')).json, { a: 1 });
});

test('metrics count from flush to flush, also where nobody set them up', async () => {
  using vmms = new TriedVmms();
  const without = vmms.open();
  await without.boot();
  assert.equal((await without.put('/actions', { action_type: 'FlushMetrics' })).status, 204);
  const vm = vmms.open();
  await vm.boot(undefined, ['PUT', '/metrics', { metrics_path: vmms.path('metrics') }]);
  await vm.put('/actions', { action_type: 'FlushMetrics' });
  await vm.patch('/vm', { state: 'Paused' });
  await vm.put('/actions', { action_type: 'FlushMetrics' });
  const counted = readFileSync(vmms.path('metrics'), 'utf8')
    .trim()
    .split('\n')
    .map(
      (line) =>
        (JSON.parse(line) as { put_api_requests: { actions_count: number } }).put_api_requests.actions_count,
    );
  assert.deepEqual(counted, [1, 1, 1]);
});

test('a console file that is cut while the guest runs begins with zeros after that', async () => {
  using vmms = new TriedVmms();
  const vm = vmms.open({ FC_DOUBLE_GUEST: 'silent' });
  await vm.boot('console=ttyS0 panic=0');
  truncateSync(vmms.path('console'), 0);
  // The guest is not up yet: its login line comes after the cut.
  await new Promise((resolve) => setImmediate(resolve));
  await new Promise((resolve) => setImmediate(resolve));
  assert.match(readFileSync(vmms.path('console'), 'utf8'), /^\0+.*login: $/s);
});

test('what goes over the rate of the console is lost, and counted', async () => {
  using vmms = new TriedVmms();
  const vm = vmms.open();
  await vm.all(
    ['PUT', '/metrics', { metrics_path: vmms.path('metrics') }],
    ['PUT', '/boot-source', { kernel_image_path: vmms.path('kernel'), boot_args: 'console=ttyS0' }],
    [
      'PUT',
      '/serial',
      { serial_out_path: vmms.path('console'), rate_limiter: { size: 20, refill_time: 2 ** 40 } },
    ],
    ['PUT', '/actions', { action_type: 'InstanceStart' }],
    ['PUT', '/actions', { action_type: 'FlushMetrics' }],
  );
  assert.equal(readFileSync(vmms.path('console'), 'utf8').length, 20);
  const line = readFileSync(vmms.path('metrics'), 'utf8').trim().split('\n').at(-1) ?? '';
  const { uart } = JSON.parse(line) as { uart: { rate_limiter_dropped_bytes: number } };
  assert(uart.rate_limiter_dropped_bytes > 20);
});
