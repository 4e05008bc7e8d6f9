import assert from 'node:assert/strict';
import { test } from 'node:test';
import { FakeClock } from '../base/clock.ts';
import { field, fields, testApi } from './test-client.ts';

/** The requests of the user's own description, as they stand there, host, key and ids aside. */
const json = { 'content-type': 'application/json' };

/** Fields of a VM that stand in every answer, and those a network adds; more may follow them. */
const always = [
  'id',
  'image_id',
  'state',
  'vcpu_count',
  'mem_mib',
  'enable_network',
  'created_at',
  'updated_at',
];
const networked = ['guest_ip', 'guest_mac', 'ssh_port'];

test('an empty POST makes a VM of the default image and answers as described', async () => {
  const api = await testApi(new FakeClock(Date.UTC(2026, 2, 6, 10, 30)));
  const answer = await api.call('POST', '/vms', '{}', json);
  assert.equal(answer.status, 201);
  const { id, ready, vmm, accel, host, ...shown } = fields(answer.body);
  assert.match(String(id), /^vm-[a-z0-9]{12}$/);
  assert.deepEqual(shown, {
    image_id: 'img-default',
    state: 'running',
    vcpu_count: 1,
    mem_mib: 512,
    guest_ip: '192.168.241.10',
    guest_mac: '02:fc:00:00:00:0a',
    ssh_port: 2200,
    enable_network: true,
    created_at: '2026-03-06T10:30:00Z',
    updated_at: '2026-03-06T10:30:00Z',
  });
  assert.deepEqual([ready, vmm, accel, host], [false, 'fake', 'none', 'host-1']);

  const got = await api.call('GET', `/vms/${String(id)}`);
  assert.equal(got.status, 200);
  assert.deepEqual(got.body, answer.body);
});

test('a VM with cloud-init user data is made, and never echoes it', async () => {
  const api = await testApi();
  const userData =
    '#cloud-config\nusers:\n  - name: ubuntu\n    sudo: ALL=(ALL) NOPASSWD:ALL\n    ssh_authorized_keys:\n      - ssh-ed25519 AAAAC3Nza...\npackages:\n  - nginx\n  - git\nruncmd:\n  - systemctl enable nginx\n  - systemctl start nginx';
  const answer = await api.call('POST', '/vms', { vcpu_count: 2, mem_mib: 2048, user_data: userData }, json);
  assert.equal(answer.status, 201);
  assert.deepEqual([field(answer.body, 'vcpu_count'), field(answer.body, 'mem_mib')], [2, 2048]);
  assert.ok(!answer.text.includes('nginx'));
  const id = String(field(answer.body, 'id'));
  assert.ok(!(await api.call('GET', '/vms')).text.includes('nginx'));
  const owner = await api.call('GET', `/vms/${id}/user-data`);
  assert.equal(owner.headers['content-type'], 'text/plain; charset=utf-8');
  assert.equal(owner.text, userData);
});

test('resources and addresses are as they were asked for', async () => {
  const api = await testApi();
  const answer = await api.call(
    'POST',
    '/vms',
    {
      vcpu_count: 4,
      mem_mib: 4096,
      guest_ip: '192.168.241.50',
      guest_mac: '02:fc:00:00:00:32',
      enable_network: true,
    },
    json,
  );
  assert.equal(answer.status, 201);
  assert.deepEqual(
    ['vcpu_count', 'mem_mib', 'guest_ip', 'guest_mac'].map((name) => field(answer.body, name)),
    [4, 4096, '192.168.241.50', '02:fc:00:00:00:32'],
  );
});

test('a template’s values are used where the request is silent', async () => {
  const api = await testApi();
  await api.call('POST', '/templates', { name: 'web-server', vcpu_count: 2, mem_mib: 1024 });
  const silent = await api.call('POST', '/vms', { template_id: 'tpl-web-server' }, json);
  assert.deepEqual(
    ['template_id', 'vcpu_count', 'mem_mib'].map((name) => field(silent.body, name)),
    ['tpl-web-server', 2, 1024],
  );
  const said = await api.call('POST', '/vms', { template_id: 'tpl-web-server', mem_mib: 512 }, json);
  assert.deepEqual([field(said.body, 'vcpu_count'), field(said.body, 'mem_mib')], [2, 512]);
});

test('without a network the network’s fields are absent', async () => {
  const api = await testApi();
  const answer = await api.call('POST', '/vms', { enable_network: false, vcpu_count: 1, mem_mib: 512 }, json);
  assert.equal(answer.status, 201);
  assert.equal(field(answer.body, 'enable_network'), false);
  for (const name of networked) assert.ok(!Object.hasOwn(fields(answer.body), name), name);
});

test('the list is an array, newest first, and stop and delete answer as described', async () => {
  const api = await testApi();
  assert.deepEqual((await api.call('GET', '/vms')).body, []);
  const older = field((await api.call('POST', '/vms', '{}', json)).body, 'id');
  const newer = field((await api.call('POST', '/vms', '{}', json)).body, 'id');
  const list = await api.call('GET', '/vms');
  assert.equal(list.status, 200);
  assert.deepEqual([field(list.body, 0, 'id'), field(list.body, 1, 'id')], [newer, older]);
  for (const name of [...always, ...networked]) assert.ok(field(list.body, 0, name) !== undefined, name);

  const stopped = await api.call('POST', `/vms/${String(newer)}/stop`);
  assert.equal(stopped.status, 200);
  assert.equal(field(stopped.body, 'state'), 'stopped');
  assert.equal(field(stopped.body, 'guest_ip'), field(list.body, 0, 'guest_ip'));

  const deleted = await api.call('DELETE', `/vms/${String(newer)}`);
  assert.equal(deleted.status, 200);
  assert.deepEqual(deleted.body, { status: 'deleted' });
  await api.refused('not_found', 'GET', `/vms/${String(newer)}`);
});
