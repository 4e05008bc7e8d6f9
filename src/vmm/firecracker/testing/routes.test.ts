import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Refused } from './calls.ts';
import { parserOf, type HttpRequest, type Parsed } from './routes.ts';
import { versionOf } from './versions.ts';

const parse = parserOf(versionOf('v1.16.1'));

function refusal(method: HttpRequest['method'], path: string, body?: string, parser = parse): string {
  try {
    parser({ method, path, body });
  } catch (error) {
    if (error instanceof Refused) return error.message;
    throw error;
  }
  return 'none';
}

function put(path: string, body: unknown): Parsed {
  return parse({ method: 'PUT', path, body: JSON.stringify(body) });
}

const DRIVE = { drive_id: 'disk0', is_root_device: true, path_on_host: 'disk' };
const NET = { iface_id: 'net0', host_dev_name: 'tap0' };
const SERDE = 'An error occurred when deserializing the json body of a request: ';

test('a path or method that is not known is named by its first part', () => {
  for (const [method, path, named] of [
    ['GET', '/nowhere', 'GET nowhere'],
    ['GET', '/vm', 'GET vm'],
    ['GET', '/hotplug/cpu', 'GET hotplug'],
    ['GET', '/drives/disk0', 'GET drives'],
    ['DELETE', '/vsock', 'DELETE vsock'],
  ] as const)
    assert.equal(refusal(method, path), `Invalid request method and/or path: ${named}.`);
  assert.equal(
    refusal('PATCH', '/boot-source', '{}'),
    'Invalid request method and/or path: PATCH boot-source.',
  );
  assert.equal(refusal('PUT', '/vm', '{}'), 'Invalid request method and/or path: PUT vm.');
  assert.equal(
    refusal('PUT', '/snapshot/foo', '{}'),
    'Invalid request method and/or path: PUT /snapshot/foo.',
  );
  assert.equal(refusal('PUT', '/snapshot', '{}'), 'Missing snapshot operation type.');
});

test('a body that is missing, or too much, is refused by method', () => {
  assert.equal(refusal('PUT', '/vsock'), 'Empty PUT request.');
  assert.equal(refusal('PUT', '/nowhere'), 'Empty PUT request.');
  assert.equal(refusal('PATCH', '/vm'), 'Empty PATCH request.');
  assert.equal(refusal('PATCH', '/balloon'), 'Empty PATCH request.');
  assert.equal(refusal('PATCH', '/machine-config', '{}'), 'Empty PATCH request.');
  assert.equal(refusal('GET', '/', '{}'), 'GET request cannot have a body.');
  assert.equal(refusal('DELETE', '/drives/disk0', '{}'), 'Empty Delete request.');
});

test('the id of a device is letters, digits and underscores, in the path as in the body', () => {
  for (const path of ['/drives', '/pmem', '/network-interfaces']) {
    assert.equal(refusal('PUT', path, '{}'), 'The ID cannot be empty.');
    assert.equal(refusal('PATCH', `${path}/`, '{}'), 'The ID cannot be empty.');
    assert.equal(refusal('DELETE', path), 'The ID cannot be empty.');
    for (const id of ['disk-0', 'disk.0', 'disk%200'])
      assert.equal(
        refusal('PUT', `${path}/${id}`, '{}'),
        'API Resource IDs can only contain alphanumeric characters and underscores.',
      );
  }
  const other = 'The id from the path does not match the id from the body!';
  assert.equal(refusal('PUT', '/drives/disk1', JSON.stringify(DRIVE)), other);
  assert.equal(refusal('PATCH', '/drives/disk1', '{"drive_id":"disk0"}'), other);
  assert.equal(refusal('PUT', '/pmem/p1', '{"id":"p0","path_on_host":"x"}'), other);
  assert.equal(refusal('PATCH', '/pmem/p1', '{"id":"p0"}'), other);
  const named = 'The id from the path [net1] does not match the id from the body [net0]!';
  assert.equal(refusal('PUT', '/network-interfaces/net1', JSON.stringify(NET)), named);
  assert.equal(refusal('PATCH', '/network-interfaces/net1', '{"iface_id":"net0"}'), named);
});

test('a body of another form is refused with what serde says of it', () => {
  assert.equal(
    refusal('PUT', '/machine-config', '{"mem_size_mib": 128}'),
    `${SERDE}missing field \`vcpu_count\` at line 1 column 21.`,
  );
  assert.match(
    refusal('PUT', '/boot-source', '{"kernel_image_path":"x","is_read_only":true}'),
    /unknown field `is_read_only`, expected one of `kernel_image_path`, `initrd_path`, `boot_args` at /,
  );
  assert.match(
    refusal('PUT', '/actions', '{"action_type":"Stop"}'),
    /unknown variant `Stop`, expected one of/,
  );
  assert.match(
    refusal('PATCH', '/vm', '{"state":"Running"}'),
    /unknown variant `Running`, expected `Paused` or `Resumed`/,
  );
  assert.match(
    refusal('PUT', '/network-interfaces/net0', JSON.stringify({ ...NET, guest_mac: '02:fc' })),
    /The provided MAC address is invalid\./,
  );
  assert.match(
    refusal('PUT', '/mmds/config', '{"network_interfaces":["net0"],"ipv4_address":"169.254"}'),
    /invalid IPv4 address syntax/,
  );
  assert.equal(refusal('PUT', '/vsock', 'rubbish'), `${SERDE}expected value at line 1 column 1.`);
});

test('only what is meant to stay open takes fields that nobody knows', () => {
  const limiter = { bandwidth: { size: 1, refill_time: 1, colour: 'red' } };
  put('/drives/disk0', { ...DRIVE, rate_limiter: limiter });
  put('/metrics', { metrics_path: 'x', colour: 'red' });
  const load = { snapshot_path: 's', mem_backend: { backend_type: 'File', backend_path: 'm' } };
  put('/snapshot/load', { ...load, vsock_override: { uds_path: 'x', colour: 'red' } });
  put('/snapshot/load', {
    ...load,
    network_overrides: [{ iface_id: 'net0', host_dev_name: 'tap1', colour: 'red' }],
  });
  assert.match(
    refusal('PUT', '/drives/disk0', JSON.stringify({ ...DRIVE, rate_limiter: { colour: 'red' } })),
    /unknown field `colour`/,
  );
});

test('a load names its memory once', () => {
  const path = '/snapshot/load';
  const backend = { backend_type: 'File', backend_path: 'm' };
  assert.equal(
    refusal('PUT', path, '{"snapshot_path":"s"}'),
    `${SERDE}missing field: either \`mem_backend\` or \`mem_file_path\` is required.`,
  );
  assert.equal(
    refusal('PUT', path, JSON.stringify({ snapshot_path: 's', mem_backend: backend, mem_file_path: 'm' })),
    `${SERDE}too many fields: either \`mem_backend\` or \`mem_file_path\` exclusively is required.`,
  );
  assert.match(
    refusal(
      'PUT',
      path,
      JSON.stringify({ snapshot_path: 's', mem_backend: { ...backend, backend_type: 'foo' } }),
    ),
    /unknown variant `foo`, expected `File` or `Uffd`/,
  );
});

test('paths that go on are told what is not known in them', () => {
  assert.equal(refusal('GET', '/balloon/foo'), 'Unrecognized GET request path `foo`.');
  assert.equal(refusal('GET', '/balloon/hinting'), 'Unrecognized GET request path `/hinting/`.');
  assert.equal(refusal('PATCH', '/balloon/hinting/foo'), 'Unrecognized PATCH request path `/hinting/foo`.');
  assert.equal(refusal('PUT', '/mmds/foo', '{}'), 'Unrecognized PUT request path `foo`.');
});

test('what is deprecated is read, and marked', () => {
  const load = { snapshot_path: 's', mem_backend: { backend_type: 'File', backend_path: 'm' } };
  for (const [path, body, deprecated] of [
    ['/vsock', { guest_cid: 3, uds_path: 'u' }, false],
    ['/vsock', { guest_cid: 3, uds_path: 'u', vsock_id: 'v' }, true],
    ['/machine-config', { vcpu_count: 1, mem_size_mib: 128 }, false],
    ['/machine-config', { vcpu_count: 1, mem_size_mib: 128, cpu_template: 'T2' }, true],
    ['/mmds/config', { network_interfaces: ['net0'] }, true],
    ['/mmds/config', { network_interfaces: ['net0'], version: 'V2' }, false],
    ['/snapshot/load', load, false],
    ['/snapshot/load', { snapshot_path: 's', mem_file_path: 'm' }, true],
    ['/snapshot/load', { ...load, enable_diff_snapshots: true }, true],
  ] as const)
    assert.equal(put(path, body).deprecated, deprecated, `${path} ${JSON.stringify(body)}`);
});

test('an older release does not know what is newer', () => {
  const older = parserOf(versionOf('1.13.1'));
  assert.equal(refusal('PUT', '/serial', '{}', older), 'Invalid request method and/or path: PUT serial.');
  assert.equal(
    refusal('GET', '/hotplug/memory', undefined, older),
    'Invalid request method and/or path: GET hotplug.',
  );
  assert.equal(
    refusal('DELETE', '/drives/disk0', undefined, older),
    'Invalid request method and/or path: DELETE drives.',
  );
  assert.match(
    refusal('PUT', '/network-interfaces/net0', JSON.stringify({ ...NET, mtu: 1500 }), older),
    /unknown field `mtu`/,
  );
  const load = { snapshot_path: 's', mem_backend: { backend_type: 'File', backend_path: 'm' } };
  for (const field of ['vsock_override', 'clock_realtime'])
    assert.match(
      refusal('PUT', '/snapshot/load', JSON.stringify({ ...load, [field]: null }), older),
      new RegExp(`unknown field \`${field}\``),
    );
  assert.equal(
    refusal('PUT', '/snapshot/load', JSON.stringify({ ...load, network_overrides: [] }), older),
    'none',
  );
  const old = parserOf(versionOf('1.11.0'));
  assert.match(
    refusal('PUT', '/snapshot/load', JSON.stringify({ ...load, network_overrides: [] }), old),
    /unknown field `network_overrides`/,
  );
  // And 1.16 not what came after it.
  for (const body of [
    { vcpu_count: 1, mem_size_mib: 128, huge_pages: 'Transparent' },
    { ...load, huge_pages: 'None' },
  ])
    assert.notEqual(
      refusal('PUT', 'vcpu_count' in body ? '/machine-config' : '/snapshot/load', JSON.stringify(body)),
      'none',
    );
});

test('releases have the snapshot formats they had', () => {
  for (const [release, format] of [
    ['v1.10.1', '3.0.0'],
    ['v1.11.0', '5.0.0'],
    ['v1.12.0', '6.0.0'],
    ['v1.13.1', '8.0.0'],
    ['v1.14.0', '8.0.0'],
    ['v1.15.0', '9.0.0'],
    ['v1.16.1', '10.0.0'],
    ['1.17.0-dev', '11.0.0'],
  ] as const)
    assert.equal(versionOf(release).snapshotFormat, format, release);
  assert.throws(() => versionOf('new'), /is no version/);
});
