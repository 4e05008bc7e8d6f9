import assert from 'node:assert/strict';
import { test } from 'node:test';
import { newId } from '../base/ids.ts';
import { Failure } from '../model/failure.ts';
import { field, fields, testApi, type TestApi } from './test-client.ts';

const ids = (body: unknown): unknown[] => (Array.isArray(body) ? body.map((row) => field(row, 'id')) : []);

/** Follows `Link` from page to page, as a client would. */
async function pages(api: TestApi, url: string): Promise<unknown[][]> {
  const found: unknown[][] = [];
  for (let next: string | undefined = url; next !== undefined;) {
    const answer = await api.call('GET', next);
    found.push(ids(answer.body));
    next = /^<([^>]+)>; rel="next"$/.exec(String(answer.headers['link'] ?? ''))?.[1];
  }
  return found;
}

test('a list comes in pages, newest first, each naming the next with all that was asked', async () => {
  const api = await testApi();
  const made: unknown[] = [];
  for (let i = 0; i < 5; i++)
    made.unshift(
      field((await api.call('POST', '/vms', { labels: { n: i % 2 ? 'a=b&c' : 'x' } })).body, 'id'),
    );
  assert.deepEqual(await pages(api, '/vms'), [made]);
  assert.deepEqual(await pages(api, '/vms?limit=2'), [made.slice(0, 2), made.slice(2, 4), made.slice(4)]);
  assert.deepEqual(await pages(api, '/vms?limit=5'), [made]);
  const odd = encodeURIComponent('n=a=b&c');
  assert.deepEqual(await pages(api, `/vms?label=${odd}&state=running&limit=1`), [[made[1]], [made[3]]]);
  assert.deepEqual(await pages(api, '/vms?label=n%3Dx&label=n%3Dx&limit=1000'), [
    [made[0], made[2], made[4]],
  ]);
  assert.deepEqual(await pages(api, '/vms?state=stopped'), [[]]);
  const events = await pages(api, `/vms/${String(made[0])}/events?limit=1`);
  assert.deepEqual(
    events.map((page) => page.length),
    [1],
  );
  assert.equal((await pages(api, '/events?kind=vm.created&limit=2')).flat().length, 5);
});

test('a VM’s object has what has a value, and nothing of the host’s', async () => {
  const api = await testApi();
  const created = await api.call('POST', '/vms', {
    name: 'web-1',
    labels: { tier: 'web' },
    idle: { pinned: true },
    boot_args: 'quiet',
    user_data: '#!/bin/sh\necho hunter2',
    ssh_authorized_keys: [
      'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGJ0bXlrZXlieXRlc2FyZWhlcmVmb3Jyb29t secretive',
    ],
  });
  assert.equal(created.headers['location'], `/vms/${String(field(created.body, 'id'))}`);
  assert.equal(field(created.body, 'idle', 'timeout_seconds'), 2700);
  assert.doesNotMatch(created.text, /hunter2|secretive|4711|layer|process|account|epoch/);

  const [row] = api.hatch.vmRows.values();
  assert.ok(row);
  const readyAt = api.clock.now() + 1500;
  api.hatch.vmRows.set(row.id, {
    ...row,
    readyAt,
    operation: { id: newId('op'), verb: 'delete' },
    state: 'running',
    stateReason: { code: 'forced_stop', message: 'It was killed.', at: readyAt },
    lastActiveAt: readyAt,
  });
  const shown = fields((await api.call('GET', '/vms/web-1')).body);
  assert.equal(shown['ready'], true);
  assert.equal(shown['ready_at'], '2026-03-06T10:30:01.500Z');
  assert.equal(shown['operation'], 'deleting');
  assert.deepEqual(shown['state_reason'], {
    code: 'forced_stop',
    message: 'It was killed.',
    at: '2026-03-06T10:30:01.500Z',
  });
  api.hatch.vmRows.set(row.id, { ...row, readyAt, state: 'stopped' });
  const stopped = fields((await api.call('GET', '/vms/web-1')).body);
  assert.equal(stopped['ready'], false);
  assert.ok(!Object.hasOwn(stopped, 'ready_at') && !Object.hasOwn(stopped, 'operation'));
});

test('a patch changes what it names and null takes away', async () => {
  const api = await testApi();
  await api.call('POST', '/vms', { name: 'web', labels: { a: '1' } });
  const patched = await api.call('PATCH', '/vms/web', {
    name: 'db',
    labels: {},
    idle: { action: 'stop' },
    mem_mib: 1024,
  });
  assert.deepEqual(
    ['name', 'labels', 'mem_mib'].map((name) => field(patched.body, name)),
    ['db', undefined, 1024],
  );
  assert.equal(field(patched.body, 'idle', 'action'), 'stop');
  const bare = await api.call('PATCH', '/vms/db', { name: null, idle: null });
  assert.ok(!Object.hasOwn(fields(bare.body), 'name') && !Object.hasOwn(fields(bare.body), 'idle'));
});

test('stop hands its grace on, and a forced one says so', async () => {
  const api = await testApi();
  await api.call('POST', '/vms', { name: 'web' });
  const forced = await api.call('POST', '/vms/web/stop', { grace_seconds: 0 });
  assert.equal(field(forced.body, 'state_reason', 'code'), 'forced_stop');
  await api.call('POST', '/vms/web/start');
  const { error, details } = await api.refused('wrong_state', 'POST', '/vms/web/start');
  assert.match(error, /running/);
  assert.deepEqual(details['allowed'], ['stop', 'reboot', 'delete']);
});

test('waiting too long is 504 and leaves the VM as it is', async () => {
  const api = await testApi();
  await api.call('POST', '/vms', { name: 'web' });
  assert.match((await api.refused('timeout', 'GET', '/vms/web?wait=ready&timeout=7')).error, /7 s/);
  assert.match((await api.refused('timeout', 'GET', '/vms/web?wait=ready')).error, /60 s/);
  assert.equal((await api.call('GET', '/vms/web?wait=running')).status, 200);
});

test('metrics show what is known, and a net part only where there is a network', async () => {
  const api = await testApi();
  const made = await api.call('POST', '/vms', { name: 'web', mem_mib: 256 });
  const used = {
    vm_id: field(made.body, 'id'),
    at: '2026-03-06T10:30:00Z',
    uptime_seconds: 61,
    cpu_seconds: 14,
    memory: { mem_mib: 256, resident_bytes: 8192 },
    block: { read_bytes: 9, written_bytes: 5 },
  };
  const net = { received_bytes: 1500, received_packets: 3, sent_bytes: 700, sent_packets: 2 };
  const answer = await api.call('GET', '/vms/web/metrics');
  assert.equal(answer.status, 200);
  assert.deepEqual({ ...fields(answer.body), at: used.at }, { ...used, net });
  assert.match(String(field(answer.body, 'at')), /^\d{4}-\d\d-\d\dT.*Z$/);
  await api.call('POST', '/vms', { name: 'alone', enable_network: false, mem_mib: 256 });
  assert.ok(!Object.hasOwn(fields((await api.call('GET', '/vms/alone/metrics')).body), 'net'));
  await api.refused('not_found', 'GET', '/vms/nobody/metrics');
});

test('a command reaches the guest as it was given', async () => {
  const api = await testApi();
  await api.call('POST', '/vms', { name: 'web' });
  const answer = await api.call('POST', '/vms/web/exec', { command: 'uname -a' });
  assert.deepEqual(answer.body, {
    exit_code: 0,
    stdout: 'out',
    stderr: '',
    truncated: false,
    timed_out: false,
  });
  await api.call('POST', '/vms/web/exec', {
    command: ['cat', '-'],
    cwd: '/tmp',
    env: { A: 'b' },
    stdin: 'in\0',
    timeout_seconds: 3600,
  });
  assert.deepEqual(api.hatch.commands, [
    { command: 'uname -a', cwd: null, env: {}, stdin: null, timeoutMs: 60_000 },
    { command: ['cat', '-'], cwd: '/tmp', env: { A: 'b' }, stdin: 'in\0', timeoutMs: 3_600_000 },
  ]);
});

test('a VM without user data has none to read', async () => {
  const api = await testApi();
  await api.call('POST', '/vms', { name: 'web' });
  assert.match((await api.refused('not_found', 'GET', '/vms/web/user-data')).error, /no user data/);
});

test('images are shown without their paths, and one in use is not deleted', async () => {
  const api = await testApi();
  const made = await api.call('POST', '/images', {
    name: 'debian',
    kernel_path: '/secret/k',
    rootfs_path: '/secret/r',
  });
  assert.equal(made.status, 201);
  assert.equal(field(made.body, 'id'), 'img-debian');
  for (const url of ['/images', '/images/img-debian', '/images/img-default'])
    assert.doesNotMatch((await api.call('GET', url)).text, /secret/);
  await api.refused('already_exists', 'POST', '/images', {
    name: 'debian',
    kernel_path: '/k',
    rootfs_path: '/r',
  });
  const vm = await api.call('POST', '/vms', { image_id: 'img-debian' });
  const { details } = await api.refused('in_use', 'DELETE', '/images/img-debian');
  assert.deepEqual(details['vms'], [field(vm.body, 'id')]);
});

test('a template is made, seen, changed and removed', async () => {
  const api = await testApi();
  const made = await api.call('POST', '/templates', {
    name: 'web',
    vcpu_count: 2,
    labels: { a: 'b' },
    idle: { action: 'none' },
  });
  assert.equal(made.headers['location'], '/templates/tpl-web');
  const patched = await api.call('PATCH', '/templates/tpl-web', { vcpu_count: null, description: 'Web.' });
  assert.ok(!Object.hasOwn(fields(patched.body), 'vcpu_count'));
  assert.equal(field(patched.body, 'description'), 'Web.');
  assert.deepEqual(field(patched.body, 'labels'), { a: 'b' });
  assert.equal((await api.call('DELETE', '/templates/tpl-web')).status, 200);
  await api.refused('not_found', 'GET', '/templates/tpl-web');
});

test('an account sees its quotas and use, and an operator sets them', async () => {
  const api = await testApi();
  await api.call('POST', '/vms', { vcpu_count: 3 });
  const own = await api.call('GET', '/account');
  assert.deepEqual(field(own.body, 'quotas'), { vms: 50, vcpus: null, mem_mib: null });
  assert.deepEqual(field(own.body, 'use'), { vms: 1, vcpus: 3, mem_mib: 512 });
  const made = await api.call('POST', '/accounts', { name: 'team-a' });
  const url = `/accounts/${String(field(made.body, 'id'))}`;
  const patched = await api.call('PATCH', url, { quotas: { vms: 5, mem_mib: null } });
  assert.deepEqual(field(patched.body, 'quotas'), { vms: 5, vcpus: null, mem_mib: null });
  assert.equal(field((await api.call('GET', '/accounts')).body, 'length'), 2);
});

test('healthz says the version, readyz what is missing', async () => {
  const api = await testApi();
  assert.deepEqual((await api.call('GET', '/healthz')).body, { status: 'ok', version: '1.2.3' });
  assert.deepEqual((await api.call('GET', '/readyz')).body, { status: 'ready' });
  api.hatch.problems = [{ part: 'network', problem: 'The bridge is down.' }];
  const { error, details } = await api.refused('unavailable', 'GET', '/readyz');
  assert.match(error, /The bridge is down\./);
  assert.deepEqual(details['missing'], api.hatch.problems);
});

test('HEAD answers as GET does, without a body', async () => {
  const api = await testApi();
  await api.call('POST', '/vms', { name: 'web' });
  for (const url of ['/vms', '/vms/web', '/healthz', '/vms/web/console?follow=true']) {
    const answer = await api.call('HEAD', url);
    assert.equal(answer.status, 200, url);
    assert.equal(answer.text, '');
  }
  assert.equal((await api.call('HEAD', '/vms/none')).status, 404);
});

test('an answer that is not as promised is withheld, and the log says why', async () => {
  const api = await testApi();
  await api.call('POST', '/vms', { name: 'web' });
  const [row] = api.hatch.vmRows.values();
  assert.ok(row);
  api.hatch.vmRows.set(row.id, { ...row, vcpuCount: 99 });
  const { error } = await api.refused('internal', 'GET', '/vms/web');
  assert.doesNotMatch(error, /vcpu/);
  assert.match(JSON.stringify(api.logged), /vcpu_count/);
});

test('a defect is 500 without a word of it, and the log has it under the request id', async () => {
  const api = await testApi();
  Object.assign(api.hatch.vms, {
    get: async () => {
      throw new Error('ENOENT: /var/lib/secret');
    },
  });
  const answer = await api.call('GET', '/vms/web');
  assert.equal(answer.status, 500);
  assert.doesNotMatch(answer.text, /secret|ENOENT|\.ts|at /);
  const line = api.logged.find(({ level }) => level === 'error');
  assert.equal(field(line?.fields, 'request_id'), answer.headers['x-request-id']);
  assert.match(JSON.stringify(line), /\/var\/lib\/secret/);
});

test('a failure’s retry time becomes Retry-After', async () => {
  const api = await testApi();
  Object.assign(api.hatch.vms, {
    get: async () => {
      throw new Failure('rate_limited', 'Too many requests.', { details: { retry_after_seconds: 1.2 } });
    },
  });
  const answer = await api.call('GET', '/vms/web');
  assert.equal(answer.status, 429);
  assert.equal(answer.headers['retry-after'], '2');
});

test('each request is one line in the log, with its key and without its secrets', async () => {
  const api = await testApi();
  const answer = await api.call('GET', '/vms?limit=5&label=a%3Dhunter2');
  const lines = api.logged.filter(({ message }) => message === 'request');
  assert.equal(lines.length, 1);
  const logged = fields(lines[0]?.fields);
  assert.deepEqual(
    [logged['request_id'], logged['method'], logged['path'], logged['status']],
    [answer.headers['x-request-id'], 'GET', '/vms', 200],
  );
  assert.match(String(logged['key']), /^key-/);
  assert.doesNotMatch(JSON.stringify(api.logged), /hunter2|hatch_/);
  assert.equal(answer.headers['x-content-type-options'], 'nosniff');
});
