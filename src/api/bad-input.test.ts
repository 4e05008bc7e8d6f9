import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { fields, testApi } from './test-client.ts';

const KEY = 'AAAAC3NzaC1lZDI1NTE5AAAAIGJ0bXlrZXlieXRlc2FyZWhlcmVmb3Jyb29t';

/** What a create request may get wrong, the field its refusal names, and what the sentence must say. */
const badCreates: readonly [body: unknown, named: string, says: RegExp][] = [
  [
    { vcpu_count: '2' },
    'vcpu_count',
    /"vcpu_count" must be a whole number from 1 to 32; it is the string "2"/,
  ],
  [{ vcpu_count: 0 }, 'vcpu_count', /from 1 to 32; it is 0/],
  [{ vcpu_count: 33 }, 'vcpu_count', /from 1 to 32; it is 33/],
  [{ vcpu_count: 1.5 }, 'vcpu_count', /whole number.*it is 1\.5/],
  [{ vcpu_count: null }, 'vcpu_count', /it is null/],
  [{ mem_mib: 127 }, 'mem_mib', /from 128 to 65536; it is 127/],
  [{ mem_mib: 65537 }, 'mem_mib', /from 128 to 65536; it is 65537/],
  [{ mem_mib: [512] }, 'mem_mib', /it is a list/],
  [{ disk_mib: -1 }, 'disk_mib', /from 1 to/],
  [{ enable_network: 'false' }, 'enable_network', /must be true or false; it is the string "false"/],
  [{ enable_network: 0 }, 'enable_network', /must be true or false; it is 0/],
  [{ vcpus: 2 }, 'vcpus', /Unknown field "vcpus"\. Did you mean "vcpu_count"\?/],
  [{ memory_mib: 2 }, 'memory_mib', /Did you mean "mem_mib"\?/],
  [{ 'user-data': 'x' }, 'user-data', /Did you mean "user_data"\?/],
  [{ colour: 'red' }, 'colour', /Unknown field "colour"\. Known here: name, image_id/],
  [{ snapshot_id: 'snap-abc123def456' }, 'snapshot_id', /There is no snapshot "snap-abc123def456"/],
  [{ snapshot_id: '../x' }, 'snapshot_id', /a snapshot’s id \(snap-abc123def456\) or its name/],
  [{ autostart: 'yes' }, 'autostart', /true or false/],
  [{ guest_mac: '02:fc:00:00:00:32\ndhcp-host=x' }, 'guest_mac', /six pairs of hexadecimal digits/],
  [{ guest_mac: '01:00:5e:00:00:01' }, 'guest_mac', /multicast/],
  [{ boot_args: 'quiet\ninit=/bin/sh' }, 'boot_args', /one line of printable ASCII/],
  [{ boot_args: 'x'.repeat(2049) }, 'boot_args', /at most 2048 characters; it has 2049/],
  [{ guest_ip: '192.168.241.010' }, 'guest_ip', /without leading zeros/],
  [{ guest_ip: '192.168.241.999' }, 'guest_ip', /dotted decimal/],
  [{ guest_ip: '192.168.241.50', enable_network: false }, 'guest_ip', /"enable_network" is false/],
  [{ guest_mac: '02:fc:00:00:00:32', enable_network: false }, 'guest_mac', /"enable_network" is false/],
  [{ name: 'Web' }, 'name', /must be a name of 1 to 63 lower-case letters/],
  [{ name: 'vm-abc123' }, 'name', /does not begin like an id/],
  [{ name: '' }, 'name', /must be a name/],
  [{ image_id: 'debian' }, 'image_id', /an image id such as img-default/],
  [{ template_id: '../x' }, 'template_id', /a template id such as/],
  [
    { labels: { 'a b': 'x' } },
    'labels.a b',
    /"labels" has a key "a b" that is not allowed: keys are of 1 to 63/,
  ],
  [{ labels: { a: 1 } }, 'labels.a', /"labels\.a" must be a string; it is 1/],
  [
    { labels: Object.fromEntries(Array.from({ length: 33 }, (_, i) => [`l${i}`, ''])) },
    'labels',
    /at most 32/,
  ],
  [
    { idle: { timeout_seconds: 0 } },
    'idle.timeout_seconds',
    /"idle\.timeout_seconds" must be a whole number from 1/,
  ],
  [
    { idle: { action: 'sleep' } },
    'idle.action',
    /must be one of snapshot, stop, none; it is the string "sleep"/,
  ],
  [{ idle: { timeout: 5 } }, 'idle.timeout', /Unknown field "idle\.timeout"\./],
  [{ idle: 'never' }, 'idle', /"idle" must be an object; it is the string "never"/],
  [{ ssh_authorized_keys: `ssh-ed25519 ${KEY}` }, 'ssh_authorized_keys', /must be a list/],
  [{ ssh_authorized_keys: ['hello'] }, 'ssh_authorized_keys.0', /must be one line as in a \.pub file/],
  [{ ssh_authorized_keys: [`ssh-ed25519 ${KEY}\n`] }, 'ssh_authorized_keys.0', /without a line break/],
  [{ user_data: 'packages: [nginx]' }, 'user_data', /must begin with "#cloud-config"/],
  [{ user_data: '#cloud-config\na: [' }, 'user_data', /not YAML: line/],
  [{ user_data: 5 }, 'user_data', /must be a string/],
  [[], '', /The body must be an object; it is a list/],
  ['null', '', /The body must be an object; it is null/],
  ['"{}"', '', /The body must be an object/],
];

test('every wrong field of a create request is refused with its name, its limit and nothing made', async () => {
  const api = await testApi();
  for (const [body, named, says] of badCreates) {
    const { error, details } = await api.refused('invalid_request', 'POST', '/vms', body);
    assert.equal(details['field'], named, error);
    assert.match(error, says);
  }
  assert.equal(api.hatch.vmRows.size, 0);
});

test('wrong fields of other requests are named too', async () => {
  const api = await testApi();
  const cases: [method: 'POST' | 'PATCH', url: string, body: unknown, named: string, says: RegExp][] = [
    ['POST', '/keys', {}, 'name', /"name" is required/],
    ['POST', '/keys', { name: 'x' }, 'scopes', /"scopes" is required/],
    ['POST', '/keys', { name: 'x', scopes: [] }, 'scopes', /at least 1/],
    ['POST', '/keys', { name: 'x', scopes: ['root'] }, 'scopes.0', /one of read, write, admin, operator/],
    ['POST', '/keys', { name: 'x', scopes: ['read', 'read'] }, 'scopes', /twice/],
    ['POST', '/keys', { name: 'x', scopes: ['read'], expires_at: 'soon' }, 'expires_at', /RFC 3339/],
    [
      'POST',
      '/keys',
      { name: 'x', scopes: ['read'], expires_at: '2020-01-01T00:00:00Z' },
      'expires_at',
      /future/,
    ],
    [
      'POST',
      '/keys',
      { name: 'x', scopes: ['read'], account_id: 'acct-abc123def456' },
      'account_id',
      /no acc/,
    ],
    [
      'POST',
      '/keys',
      { name: 'x', scopes: ['read'], expires_at: '9999-12-31T23:59:59-12:00' },
      'expires_at',
      /before the year 10000/,
    ],
    [
      'POST',
      '/images',
      { name: 'x', kernel_path: 'k', rootfs_path: '/r' },
      'kernel_path',
      /an absolute path/,
    ],
    [
      'POST',
      '/images',
      { name: 'x', kernel_path: '/k\n', rootfs_path: '/r' },
      'kernel_path',
      /an absolute path/,
    ],
    ['POST', '/images', { name: 'img-x', kernel_path: '/k', rootfs_path: '/r' }, 'name', /begin like an id/],
    ['POST', '/templates', { vcpu_count: 2 }, 'name', /"name" is required/],
    ['PATCH', '/templates/tpl-x', { vcpu_count: 64 }, 'vcpu_count', /from 1 to 32 or null; it is 64/],
    ['PATCH', '/templates/tpl-x', { vcpu_count: 'x' }, 'vcpu_count', /from 1 to 32 or null/],
    ['PATCH', '/vms/web', { name: 'A' }, 'name', /lower-case/],
    ['PATCH', '/vms/web', { idle: { pinned: 1 } }, 'idle.pinned', /true or false/],
    ['PATCH', '/vms/web', { image_id: 'img-x' }, 'image_id', /Unknown field/],
    ['POST', '/vms/web/stop', { grace_seconds: 601 }, 'grace_seconds', /from 0 to 600; it is 601/],
    ['POST', '/vms/web/start', { now: true }, 'now', /None is taken here/],
    ['POST', '/vms/web/exec', {}, 'command', /"command" is required/],
    ['POST', '/vms/web/exec?wake=maybe', { command: 'ls' }, 'wake', /true or false/],
    ['POST', '/vms/web/exec', { command: [] }, 'command', /a line for the shell/],
    ['POST', '/vms/web/exec', { command: 5 }, 'command', /a line for the shell/],
    ['POST', '/vms/web/exec', { command: 'ls', timeout_seconds: 3601 }, 'timeout_seconds', /from 1 to 3600/],
    ['POST', '/vms/web/exec', { command: 'ls', cwd: 'tmp' }, 'cwd', /an absolute path/],
    ['POST', '/vms/web/exec', { command: 'ls', env: { 'A-B': 'x' } }, 'env.A-B', /keys are of 1 to 128/],
    ['POST', '/accounts', { name: 'a', quotas: { vms: -1 } }, 'quotas.vms', /or null; it is -1/],
    ['POST', '/accounts', { name: 'a', quotas: { disks: 1 } }, 'quotas.disks', /Unknown field/],
  ];
  for (const time of ['2027-13-01T00:00:00Z', '2027-02-30T00:00:00Z', '2027-03-01T24:00:00Z'])
    cases.push([
      'POST',
      '/keys',
      { name: 'x', scopes: ['read'], expires_at: time },
      'expires_at',
      /not exist/,
    ]);
  for (const [method, url, body, named, says] of cases) {
    const { error, details } = await api.refused('invalid_request', method, url, body);
    assert.equal(details['field'], named, error);
    assert.match(error, says);
  }
});

test('wrong query parameters and path ids are named', async () => {
  const api = await testApi();
  const cases: readonly [url: string, named: string, says: RegExp][] = [
    ['/vms?limit=0', 'limit', /The query parameter "limit" must be a whole number from 1 to 1000; it is 0/],
    ['/vms?limit=1001', 'limit', /from 1 to 1000/],
    ['/vms?limit=ten', 'limit', /from 1 to 1000/],
    ['/vms?limit=1e2', 'limit', /from 1 to 1000/],
    ['/vms?limit=', 'limit', /from 1 to 1000/],
    ['/vms?limit=1&limit=2', 'limit', /it is a list/],
    ['/vms?after=x', 'after', /the id of the last one of the page before/],
    ['/vms?after=vm-abc123def456', 'after', /no "vm-abc123def456" to go on after/],
    ['/vms?state=paused', 'state', /one of starting, running, stopping, stopped, snapshotted, error/],
    ['/vms?label=web', 'label.0', /key=value/],
    ['/vms?label=a%3D1&label=a%3D2', 'label', /only one/],
    ['/vms?all=yes', 'all', /true or false/],
    ['/vms?lable=a%3Db', 'lable', /Unknown query parameter "lable"\. Did you mean "label"\?/],
    ['/vms/web?wait=soon', 'wait', /one of ready, running/],
    ['/vms/web?timeout=5', 'timeout', /goes with "wait=ready"/],
    ['/vms/web?wait=ready&timeout=601', 'timeout', /from 1 to 600/],
    ['/vms/web/console?tail=1048577', 'tail', /from 0 to 1048576/],
    ['/vms/Web', 'id', /"id" in the path must be a VM’s id/],
    ['/vms/..%2f..%2fetc', 'id', /must be a VM’s id/],
    ['/vms/web%0a', 'id', /must be a VM’s id/],
    [`/vms/${'a'.repeat(100)}`, 'id', /must be a VM’s id/],
    [`/vms/${'a'.repeat(600)}`, 'id', /too long/],
    ['/images/default', 'id', /an image id such as img-default/],
    ['/events?kind=%27', 'kind', /a kind of event/],
  ];
  for (const [url, named, says] of cases) {
    const { error, details } = await api.refused('invalid_request', 'GET', url);
    assert.equal(details['field'], named, error);
    assert.match(error, says);
  }
  await api.refused('invalid_request', 'GET', '/vms/%zz');
});

test('what is not JSON is refused with its place, and never quoted', async () => {
  const api = await testApi();
  const broken = await api.refused('invalid_request', 'POST', '/vms', '{\n  "name": hunter2\n}');
  assert.match(broken.error, /The body is not JSON/);
  assert.ok(!broken.error.includes('hunter2'));
  const placed = await api.refused('invalid_request', 'POST', '/vms', '{\n  "name": "a" "b"\n}');
  assert.match(placed.error, /not JSON: it is broken at line 2, column 15/);
  const cut = await api.refused('invalid_request', 'POST', '/vms', '{"name": "a"');
  assert.match(cut.error, /broken at line 1, column 13/);
  for (const body of ['{', '{"a":1,}', "{'a':1}", 'undefined', '\ufeff{', '{"name":"a"} x'])
    assert.match((await api.refused('invalid_request', 'POST', '/vms', body)).error, /not JSON/);
  for (const body of ['{"__proto__":{}}', '{"labels":{"__proto__":"x"}}', '{"constructor":{"prototype":{}}}'])
    assert.match((await api.refused('invalid_request', 'POST', '/vms', body)).error, /__proto__/);
  assert.match(
    (await api.refused('invalid_request', 'POST', '/vms', Buffer.from([0x22, 0xff, 0x22]))).error,
    /not UTF-8/,
  );
  assert.match(
    (await api.refused('invalid_request', 'POST', '/vms', `${'['.repeat(50_000)}`)).error,
    /JSON|object/,
  );
});

test('a body of another type is 415, a larger one 413', async () => {
  const api = await testApi();
  for (const type of [
    'application/x-www-form-urlencoded',
    'text/plain',
    'text/json',
    'multipart/form-data; boundary=x',
    'nonsense',
  ])
    assert.match(
      (await api.refused('unsupported_media_type', 'POST', '/vms', '{}', { 'content-type': type })).error,
      /Content-Type: application\/json/,
    );
  await api.refused('unsupported_media_type', 'POST', '/vms', '{}', { 'content-encoding': 'gzip' });
  const huge = await api.refused('too_large', 'POST', '/vms', { user_data: 'x'.repeat(1_048_600) });
  assert.match(huge.error, /1048576 bytes \(1 MiB\)/);
  const userData = await api.refused('too_large', 'POST', '/vms', { user_data: `#!${'x'.repeat(262_143)}` });
  assert.deepEqual(userData.details, { field: 'user_data', limit: 262_144 });
  const bytes = await api.refused('too_large', 'POST', '/vms', { user_data: `#!${'é'.repeat(200_000)}` });
  assert.match(bytes.error, /at most 262144 bytes/);
  assert.equal(api.hatch.vmRows.size, 0);
});

test('no body, an empty one and {} mean the same, whatever type is named', async () => {
  const api = await testApi();
  assert.equal((await api.call('POST', '/vms')).status, 201);
  assert.equal(
    (await api.call('POST', '/vms', undefined, { 'content-type': 'application/json' })).status,
    201,
  );
  assert.equal(
    (await api.call('POST', '/vms', ' ', { 'content-type': 'application/json; charset=utf-8' })).status,
    201,
  );
  await api.call('POST', '/vms', { name: 'web' });
  for (const body of [undefined, '', '{}', ' {} ']) {
    assert.equal((await api.call('POST', '/vms/web/stop', body)).status, 200);
    assert.equal((await api.call('POST', '/vms/web/start', body)).status, 200);
    assert.equal((await api.call('POST', '/vms/web/reboot', body)).status, 200);
  }
  assert.equal(
    (await api.call('DELETE', '/vms/web', undefined, { 'content-type': 'application/json' })).status,
    200,
  );
});

test('an unknown path is 404, a known one with another method 405 with Allow', async () => {
  const api = await testApi();
  for (const url of ['/', '/vm', '/vms/web/nothing', '/docs.json', '/snapshot'])
    await api.refused('not_found', 'GET', url);
  const allowed: readonly [
    method: 'GET' | 'PUT' | 'POST' | 'DELETE' | 'OPTIONS',
    url: string,
    allow: string,
  ][] = [
    ['DELETE', '/vms', 'GET, HEAD, POST'],
    ['PUT', '/vms/web', 'DELETE, GET, HEAD, PATCH'],
    ['GET', '/vms/web/stop', 'POST'],
    ['OPTIONS', '/vms', 'GET, HEAD, POST'],
    ['POST', '/healthz', 'GET, HEAD'],
    ['POST', '/openapi.json', 'GET, HEAD'],
  ];
  for (const [method, url, allow] of allowed) {
    const answer = await api.call(method, url);
    assert.equal(answer.status, 405, `${method} ${url}`);
    assert.equal(answer.headers['allow'], allow);
    assert.equal(fields(answer.body)['code'], 'method_not_allowed');
  }
});

test('whatever JSON is sent to whatever takes a body, the answer is never a 5xx', async () => {
  const api = await testApi();
  await api.call('POST', '/vms', { name: 'web' });
  await api.call('POST', '/vms/web/snapshot', { name: 'golden', keep_running: true });
  const names = [
    'name',
    'vcpu_count',
    'mem_mib',
    'disk_mib',
    'boot_args',
    'enable_network',
    'guest_ip',
    'guest_mac',
    'user_data',
    'ssh_authorized_keys',
    'idle',
    'labels',
    'command',
    'env',
    'scopes',
    'quotas',
    'grace_seconds',
    'description',
    'image_id',
    'template_id',
    'expires_at',
    'account_id',
    'snapshot_id',
    'keep_running',
    'discard',
    'count',
  ];
  const value = fc.oneof(
    { weight: 3, arbitrary: fc.jsonValue() },
    { weight: 1, arbitrary: fc.integer({ min: -2, max: 200 }) },
  );
  const body = fc.oneof(
    fc.jsonValue().map((json) => JSON.stringify(json)),
    fc.dictionary(fc.constantFrom(...names), value).map((json) => JSON.stringify(json)),
    fc.string({ unit: 'binary' }),
  );
  const target = fc.constantFrom<readonly ['POST' | 'PATCH', string]>(
    ['POST', '/vms'],
    ['PATCH', '/vms/web'],
    ['POST', '/vms/web/stop'],
    ['POST', '/vms/web/exec'],
    ['POST', '/vms/web/snapshot'],
    ['POST', '/vms/web/restore'],
    ['POST', '/vms/web/fork'],
    ['PATCH', '/snapshots/golden'],
    ['POST', '/templates'],
    ['POST', '/keys'],
    ['POST', '/images'],
    ['POST', '/accounts'],
  );
  await fc.assert(
    fc.asyncProperty(target, body, async ([method, url], text) => {
      const answer = await api.call(method, url, text);
      assert.ok(answer.status < 500, `${method} ${url} ${text}: ${answer.text}`);
    }),
    { numRuns: 200 },
  );
});

test('whatever path and query is asked for, the answer is never a 5xx', async () => {
  const api = await testApi();
  const path = fc.webPath();
  const query = fc.webQueryParameters();
  await fc.assert(
    fc.asyncProperty(
      fc.constantFrom('', '/vms', '/vms/web', '/snapshots', '/images', '/events'),
      path,
      query,
      async (base, rest, asked) => {
        const answer = await api.call('GET', `${base}${rest.startsWith('/') ? rest : `/${rest}`}?${asked}`);
        assert.ok(answer.status < 500, answer.text);
      },
    ),
    { numRuns: 200 },
  );
});
