import assert from 'node:assert/strict';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { test } from 'node:test';
import { POST_BOOT, PRE_BOOT } from './calls.ts';
import { TriedVmms } from './tried-vmm.ts';

test('before it starts a machine says that, and what it would be', async () => {
  using vmms = new TriedVmms();
  const vm = vmms.open();
  assert.deepEqual((await vm.get('/')).json, {
    id: 'tried',
    state: 'Not started',
    vmm_version: '1.16.1',
    app_name: 'Firecracker',
  });
  assert.deepEqual((await vm.get('/version')).json, { firecracker_version: '1.16.1' });
  const machine = {
    vcpu_count: 1,
    mem_size_mib: 128,
    smt: false,
    track_dirty_pages: false,
    huge_pages: 'None',
  };
  assert.deepEqual((await vm.get('/machine-config')).json, machine);
  const config = (await vm.get('/vm/config')).json as Record<string, unknown>;
  assert.deepEqual(config['machine-config'], machine);
  assert.deepEqual(config['drives'], []);
  assert.equal(config['vsock'], null);
});

test('what needs a machine that was started is refused until it was', async () => {
  using vmms = new TriedVmms();
  const vm = vmms.open();
  for (const [method, path, body] of [
    ['GET', '/balloon/statistics', undefined],
    ['GET', '/balloon/hinting/status', undefined],
    ['GET', '/hotplug/memory', undefined],
    ['PATCH', '/drives/root', { drive_id: 'root' }],
    ['PATCH', '/network-interfaces/net0', { iface_id: 'net0' }],
    ['PATCH', '/pmem/p0', { id: 'p0' }],
    ['PATCH', '/balloon', { amount_mib: 1 }],
    ['PATCH', '/balloon/statistics', { stats_polling_interval_s: 1 }],
    ['PATCH', '/balloon/hinting/start', undefined],
    ['PATCH', '/hotplug/memory', { requested_size_mib: 2 }],
    ['DELETE', '/drives/root', undefined],
    ['DELETE', '/network-interfaces/net0', undefined],
    ['DELETE', '/pmem/p0', undefined],
    ['PATCH', '/vm', { state: 'Paused' }],
    ['PATCH', '/vm', { state: 'Resumed' }],
    ['PUT', '/actions', { action_type: 'FlushMetrics' }],
    ['PUT', '/actions', { action_type: 'SendCtrlAltDel' }],
    ['PUT', '/snapshot/create', { snapshot_path: 's', mem_file_path: 'm' }],
  ] as const) {
    const { status, fault } = await vm.call(method, path, body);
    assert.deepEqual([status, fault], [400, PRE_BOOT], `${method} ${path}`);
  }
  assert.equal((await vm.get('/balloon')).fault, 'Balloon config error: No balloon device found.');
});

test('a machine has 1 to 32 processors, an even number of them with SMT, and some memory', async () => {
  using vmms = new TriedVmms();
  const vm = vmms.open();
  const processors =
    'Machine config error: The number of vCPUs must be greater than 0, less than 32 and must be 1 or an even number if SMT is enabled.';
  const memory =
    'Machine config error: The memory size (MiB) is either 0, or not a multiple of the configured page size.';
  for (const [body, fault] of [
    [{ vcpu_count: 32, mem_size_mib: 128 }, null],
    [{ vcpu_count: 33, mem_size_mib: 128 }, processors],
    [{ vcpu_count: 0, mem_size_mib: 128 }, processors],
    [{ vcpu_count: 3, mem_size_mib: 128, smt: true }, processors],
    [{ vcpu_count: 3, mem_size_mib: 128 }, null],
    [{ vcpu_count: 1, mem_size_mib: 128, smt: true }, null],
    [{ vcpu_count: 1, mem_size_mib: 0 }, memory],
    [{ vcpu_count: 1, mem_size_mib: 129, huge_pages: '2M' }, memory],
    [{ vcpu_count: 1, mem_size_mib: 129 }, null],
  ] as const)
    assert.equal((await vm.put('/machine-config', body)).fault, fault, JSON.stringify(body));
});

test('PUT sets the machine anew, PATCH only what it names', async () => {
  using vmms = new TriedVmms();
  const vm = vmms.open();
  const machine = async (): Promise<unknown> => (await vm.get('/machine-config')).json;
  await vm.put('/machine-config', { vcpu_count: 2, mem_size_mib: 256, smt: true, cpu_template: 'T2' });
  assert.equal((await vm.patch('/machine-config', { mem_size_mib: 512 })).status, 204);
  const common = { vcpu_count: 2, track_dirty_pages: false, huge_pages: 'None' };
  assert.deepEqual(await machine(), { ...common, mem_size_mib: 512, smt: true, cpu_template: 'T2' });
  await vm.put('/machine-config', { vcpu_count: 2, mem_size_mib: 64, cpu_template: 'None' });
  assert.deepEqual(await machine(), { ...common, mem_size_mib: 64, smt: false });
});

test('kernel and initrd are looked for at once, and the command line is measured', async () => {
  using vmms = new TriedVmms();
  const vm = vmms.open();
  const kernel = vmms.path('kernel');
  const put = async (body: object): Promise<string | null> => (await vm.put('/boot-source', body)).fault;
  assert.equal(
    await put({ kernel_image_path: vmms.path('none') }),
    'Boot source error: The kernel file cannot be opened: No such file or directory (os error 2)',
  );
  assert.equal(
    await put({ kernel_image_path: kernel, initrd_path: vmms.path('none') }),
    'Boot source error: The initrd file cannot be opened due to invalid path or invalid permissions. No such file or directory (os error 2)',
  );
  assert.match(
    (await put({ kernel_image_path: kernel, boot_args: 'x'.repeat(2048) })) ?? '',
    /^Boot source error: The kernel command line is invalid: /,
  );
  assert.equal(await put({ kernel_image_path: kernel, initrd_path: vmms.path('initrd') }), null);
});

test('a drive is opened at once; there is one root device, and it is the first', async () => {
  using vmms = new TriedVmms();
  const vm = vmms.open();
  const put = async (id: string, more: object): Promise<string | null> =>
    (await vm.put(`/drives/${id}`, { drive_id: id, is_root_device: false, ...more })).fault;
  const none = vmms.path('none');
  assert.equal(
    await put('data', { path_on_host: none }),
    `Drive config error: Unable to create the virtio block device: Virtio backend error: Error manipulating the backing file: No such file or directory (os error 2) ${none}`,
  );
  const invalid = 'Drive config error: Unable to create the virtio block device: Invalid block config.';
  assert.equal(await put('data', {}), invalid);
  assert.equal(await put('data', { path_on_host: vmms.path('disk'), socket: 's' }), invalid);
  assert.equal(await put('data', { path_on_host: vmms.path('disk') }), null);
  assert.equal(await put('root', { path_on_host: vmms.path('other'), is_root_device: true }), null);
  assert.equal(
    await put('second', { path_on_host: vmms.path('other'), is_root_device: true }),
    'Drive config error: A root block device already exists!',
  );
  assert.equal(
    await put('data', { path_on_host: vmms.path('disk'), is_root_device: true }),
    'Drive config error: A root block device already exists!',
  );
  // Put again, the root device may stay one.
  assert.equal(await put('root', { path_on_host: vmms.path('disk'), is_root_device: true }), null);
  const { drives } = (await vm.get('/vm/config')).json as { drives: { drive_id: string }[] };
  assert.deepEqual(
    drives.map(({ drive_id }) => drive_id),
    ['root', 'data'],
  );
  assert.equal(
    (await vm.put('/pmem/p0', { id: 'p0', path_on_host: none, root_device: true })).fault,
    'Pmem config error: Attempt to add pmem as a root device while the root device defined as a block device',
  );
});

test('a TAP is opened at once and held; one that is put anew is let go of first', async () => {
  using vmms = new TriedVmms();
  const vm = vmms.open();
  const put = async (id: string, tap: string, more: object = {}): Promise<string | null> =>
    (await vm.put(`/network-interfaces/${id}`, { iface_id: id, host_dev_name: tap, ...more })).fault;
  assert.equal(await put('net0', 'tap0', { guest_mac: '06:00:AC:10:00:02' }), null);
  assert.deepEqual([...vmms.taps], ['tap0']);
  assert.equal(
    await put('net1', 'tap1', { guest_mac: '06:00:ac:10:00:02' }),
    'Network config error: The MAC address is already in use: 06:00:ac:10:00:02',
  );
  assert.equal(await put('net0', 'tap0'), null, 'the same one again');
  vmms.taps.add('busy');
  assert.equal(
    await put('net0', 'busy'),
    'Network config error: Could not create the network device: Open tap device failed: busy is busy',
  );
  const { 'network-interfaces': left } = (await vm.get('/vm/config')).json as Record<string, unknown>;
  assert.deepEqual(left, [], 'a failed re-PUT loses the interface');
  assert.deepEqual([...vmms.taps], ['busy']);
  assert.equal(
    await put('net0', 'tap0', { mtu: 67 }),
    'Network config error: Could not create the network device: MTU 67 is out of range [68, 65535]',
  );
});

test('the vsock socket is bound at once, and put anew at another place the old one is removed', async () => {
  using vmms = new TriedVmms();
  const vm = vmms.open();
  const [one, two, taken] = [vmms.socket(), vmms.socket(), vmms.path('taken')];
  writeFileSync(taken, '');
  const failed =
    'Vsock config error: Cannot create backend for vsock device: Error binding to the host-side Unix socket: ';
  assert.equal(
    (await vm.put('/vsock', { guest_cid: 3, uds_path: taken })).fault,
    `${failed}Address in use (os error 98)`,
  );
  assert.equal(
    (await vm.put('/vsock', { guest_cid: 3, uds_path: `${vmms.folder}/${'x'.repeat(100)}` })).fault,
    `${failed}path must be shorter than SUN_LEN`,
  );
  assert.equal((await vm.put('/vsock', { guest_cid: 3, uds_path: one })).status, 204);
  assert.equal(existsSync(one), true);
  assert.equal((await vm.put('/vsock', { guest_cid: 3, uds_path: two })).status, 204);
  assert.deepEqual([existsSync(one), existsSync(two)], [false, true]);
});

test('a balloon is no larger than the memory, whichever comes first', async () => {
  using vmms = new TriedVmms();
  const vm = vmms.open();
  const balloon = { amount_mib: 100, deflate_on_oom: true };
  assert.equal(
    (await vm.put('/balloon', { ...balloon, amount_mib: 129 })).fault,
    'Balloon config error: Amount of pages requested is too large.',
  );
  assert.equal((await vm.put('/balloon', balloon)).status, 204);
  assert.equal(
    (await vm.put('/machine-config', { vcpu_count: 1, mem_size_mib: 99 })).fault,
    'Machine config error: The memory size (MiB) is smaller than the previously set balloon device target size.',
  );
  assert.deepEqual((await vm.get('/balloon')).json, {
    ...balloon,
    stats_polling_interval_s: 0,
    free_page_hinting: false,
    free_page_reporting: false,
  });
});

test('the metadata service leads through interfaces that are there, and is limited', async () => {
  using vmms = new TriedVmms();
  const vm = vmms.open({}, { mmdsLimit: 40 });
  const config = async (body: object): Promise<string | null> => (await vm.put('/mmds/config', body)).fault;
  await vm.put('/network-interfaces/net0', { iface_id: 'net0', host_dev_name: 'tap0' });
  assert.equal(
    await config({ network_interfaces: [] }),
    'MMMDS config error: The list of network interface IDs that allow forwarding MMDS requests is empty.',
  );
  assert.equal(
    await config({ network_interfaces: ['net0'], ipv4_address: '192.168.0.1' }),
    'MMMDS config error: The MMDS IPv4 address is not link local.',
  );
  assert.match(
    (await config({ network_interfaces: ['net9'] })) ?? '',
    /at least one ID that does not correspond/,
  );
  assert.equal(await config({ network_interfaces: ['net0'], version: 'V2' }), null);
  assert.deepEqual((await vm.get('/mmds')).json, {});
  assert.equal(
    (await vm.patch('/mmds', { a: 1 })).fault,
    'MMDS error: The MMDS data store is not initialized.',
  );
  await vm.all(['PUT', '/mmds', { a: { b: 1, c: 2 } }], ['PATCH', '/mmds', { a: { b: null, d: [3] } }]);
  assert.deepEqual((await vm.get('/mmds')).json, { a: { c: 2, d: [3] } });
  const over = await vm.put('/mmds', { a: 'x'.repeat(40) });
  assert.deepEqual(
    [over.status, over.fault],
    [413, "MMDS limit exceeded error: The MMDS patch request doesn't fit."],
  );
});

test('pluggable memory comes in slots of blocks', async () => {
  using vmms = new TriedVmms();
  const vm = vmms.open();
  for (const [body, fault] of [
    [{ total_size_mib: 200 }, 'Total size must be a multiple of slot size (128 MiB)'],
    [{ total_size_mib: 64 }, 'Total size must not be lower than slot size (128 MiB)'],
    [{ total_size_mib: 256, block_size_mib: 3 }, 'Block size must be a power of 2'],
    [{ total_size_mib: 256, block_size_mib: 1 }, 'Block size must not be lower than 2 MiB'],
    [{ total_size_mib: 256, slot_size_mib: 64 }, 'Slot size must not be lower than 128 MiB'],
    [{ total_size_mib: 512, slot_size_mib: 129 }, 'Slot size must be a multiple of block size (2 MiB)'],
  ] as const)
    assert.equal((await vm.put('/hotplug/memory', body)).fault, `Memory hotplug config error: ${fault}`);
  assert.equal((await vm.put('/hotplug/memory', { total_size_mib: 256 })).fault, null);
});

test('metrics are set up once, the log as often as one likes', async () => {
  using vmms = new TriedVmms();
  const vm = vmms.open();
  assert.equal((await vm.put('/metrics', { metrics_path: vmms.path('metrics') })).status, 204);
  assert.equal(
    (await vm.put('/metrics', { metrics_path: vmms.path('metrics') })).fault,
    'Metrics error: Cannot initialize the metrics system due to bad user input: Reinitialization of metrics not allowed.',
  );
  assert.equal(
    (await vm.put('/logger', { log_path: vmms.path('none/log') })).fault,
    'Logger error: Failed to open target file: No such file or directory (os error 2)',
  );
  const logger = { log_path: vmms.path('log'), level: 'warning', show_level: true };
  await vm.all(['PUT', '/logger', { ...logger, level: 'Info' }], ['PUT', '/logger', logger]);
  assert.equal((await vm.get('/nowhere')).status, 400);
  // Opened once more, it is written from its beginning once more.
  const [line] = readFileSync(vmms.path('log'), 'utf8').split('\n');
  assert.match(line ?? '', / \[tried:main:ERROR\] Received Error\. Status code: 400 Bad Request\. /);
});

test('a start that fails can be mended and tried again', async () => {
  using vmms = new TriedVmms();
  const vm = vmms.open();
  const start = async (): Promise<string | null> =>
    (await vm.put('/actions', { action_type: 'InstanceStart' })).fault;
  assert.equal(await start(), 'Start microvm error: Cannot start microvm without kernel configuration.');
  await vm.put('/boot-source', { kernel_image_path: vmms.path('bzImage') });
  assert.match((await start()) ?? '', /^Start microvm error: .*Invalid ELF magic number$/);
  await vm.put('/boot-source', { kernel_image_path: vmms.path('kernel') });
  await vm.put('/machine-config', { vcpu_count: 1, mem_size_mib: 2 ** 30 });
  assert.equal(
    await start(),
    'Start microvm error: Invalid Memory Configuration: Cannot create mmap region: Out of memory (os error 12)',
  );
  await vm.put('/machine-config', { vcpu_count: 1, mem_size_mib: 128 });
  await vm.put('/serial', { serial_out_path: vmms.path('none/console') });
  assert.match((await start()) ?? '', /No such file or directory \(os error 2\)$/);
  await vm.put('/serial', { serial_out_path: vmms.path('console') });
  assert.equal(await start(), null);
  assert.equal(await start(), POST_BOOT);
});

test('without KVM, or the right to it, no machine starts', async () => {
  using vmms = new TriedVmms();
  for (const [kvm, why] of [
    ['denied', 'Permission denied (os error 13)'],
    ['missing', 'No such file or directory (os error 2)'],
  ] as const) {
    const vm = vmms.open({ FC_DOUBLE_KVM: kvm });
    await vm.put('/boot-source', { kernel_image_path: vmms.path('kernel') });
    assert.equal(
      (await vm.put('/actions', { action_type: 'InstanceStart' })).fault,
      `Start microvm error: Kvm error: Error creating KVM object: ${why} Make sure the user launching the firecracker process is configured on the /dev/kvm file's ACL.`,
    );
  }
});

test('there is room for seventeen devices', async () => {
  using vmms = new TriedVmms();
  const vm = vmms.open();
  await vm.put('/boot-source', { kernel_image_path: vmms.path('kernel') });
  await vm.put('/serial', { serial_out_path: vmms.path('console') });
  for (let i = 0; i < 18; i++)
    await vm.put(`/drives/d${i}`, {
      drive_id: `d${i}`,
      is_root_device: false,
      path_on_host: vmms.path('disk'),
    });
  assert.match(
    (await vm.put('/actions', { action_type: 'InstanceStart' })).fault ?? '',
    /^Start microvm error: .*Could not allocate GSI/,
  );
});

test('log, metrics and console files are made, and written over from their beginning', async () => {
  using vmms = new TriedVmms();
  writeFileSync(vmms.path('console'), '#'.repeat(1000));
  const vm = vmms.open();
  await vm.boot('console=ttyS0', ['PUT', '/metrics', { metrics_path: vmms.path('metrics') }]);
  const console = readFileSync(vmms.path('console'), 'utf8');
  assert.match(console, /^\[ {4}0\.000000\] Linux version/);
  assert.match(console, /#$/);
  const [line = ''] = readFileSync(vmms.path('metrics'), 'utf8').split('\n');
  assert.deepEqual((JSON.parse(line) as Record<string, unknown>)['block'], {
    read_bytes: 4 * 2 ** 20,
    write_bytes: 0,
  });
});
