import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import type { ErrorCode } from '../contract/errors.ts';
import { makeFakeHost, type FakeDaemon, type FakeHost } from '../../test/support/fake-daemon.ts';

/** Bad requests to the daemon itself, down to its rows: each is refused by code and field, and leaves nothing. */
let host: FakeHost;
let hatch: FakeDaemon;
before(async () => {
  host = await makeFakeHost();
  hatch = await host.start();
});
after(() => host.end());

/** What there is of VMs and of their past. */
async function rows(): Promise<object> {
  const { store, settings } = hatch.daemon.world;
  const vms = await store.vms.ofHost(settings.hostId);
  return { vms, events: await store.events.list({}, { limit: 1000 }) };
}

/** That a request is refused, and that nothing at all has changed. */
async function refusedAndNothingMade(
  code: ErrorCode,
  body: unknown,
  headers?: Record<string, string>,
): Promise<{ error: string; details: Record<string, unknown> }> {
  const before = await rows();
  const refusal = await hatch.refused(code, 'POST', '/vms', body, { ...(headers ? { headers } : {}) });
  assert.deepEqual(await rows(), before, `${JSON.stringify(body)} left something`);
  await hatch.assertNothingLeft();
  return refusal;
}

test('a create with a wrong field is refused by the name of the field and its limit, and leaves nothing', async () => {
  const cases: readonly [body: object, named: string, says: RegExp][] = [
    [{ vcpu_count: '2' }, 'vcpu_count', /whole number from 1 to 32/],
    [{ vcpu_count: 33 }, 'vcpu_count', /from 1 to 32; it is 33/],
    [{ mem_mib: 127 }, 'mem_mib', /from 128 to 65536; it is 127/],
    [{ mem_mib: 512.5 }, 'mem_mib', /whole number/],
    [{ vcpus: 2 }, 'vcpus', /Unknown field "vcpus"\. Did you mean "vcpu_count"\?/],
    [{ disk_mib: 100 }, 'disk_mib', /at least the image's size, 2048 MiB/],
    [{ guest_mac: '02:fc:00:00:00:32\n' }, 'guest_mac', /six pairs of hexadecimal digits/],
    [{ guest_mac: '02:fc:00:00:00:32\ndhcp-option=3' }, 'guest_mac', /six pairs/],
    [{ guest_mac: '00:00:00:00:00:00' }, 'guest_mac', /all zero/],
    [{ guest_mac: '01:00:5e:00:00:01' }, 'guest_mac', /multicast/],
    [{ boot_args: 'quiet\ninit=/bin/sh' }, 'boot_args', /one line/],
    [{ boot_args: 'quiet\r' }, 'boot_args', /one line/],
    [{ boot_args: 'x'.repeat(2049) }, 'boot_args', /at most 2048/],
    [{ guest_ip: '10.0.0.5' }, 'guest_ip', /192\.168\.241\.0\/24/],
    [{ guest_ip: '192.168.241.1' }, 'guest_ip', /the bridge's own address/],
    [{ guest_ip: '192.168.241.0' }, 'guest_ip', /network/],
    [{ guest_ip: '192.168.241.255' }, 'guest_ip', /broadcast/],
    [{ guest_ip: '192.168.241.010' }, 'guest_ip', /without leading zeros/],
    [{ guest_ip: '192.168.241.5\n' }, 'guest_ip', /dotted decimal/],
    [{ enable_network: false, guest_ip: '192.168.241.50' }, 'guest_ip', /"?enable_network"? is false/],
    [{ enable_network: false, guest_mac: '02:fc:00:00:00:32' }, 'guest_mac', /"?enable_network"? is false/],
    [{ name: 'Web' }, 'name', /lower-case/],
    [{ name: 'vm-abc' }, 'name', /like an id/],
    [{ image_id: 'img-unknown' }, 'image_id', /There is no image "img-unknown"; `GET \/images` lists them/],
    [{ template_id: 'tpl-unknown' }, 'template_id', /There is no template "tpl-unknown"/],
    [{ user_data: '#cloud-config\na: [b' }, 'user_data', /not YAML/],
    [{ user_data: 'packages: [nginx]' }, 'user_data', /must begin with "#cloud-config"/],
    [{ ssh_authorized_keys: ['no key'] }, 'ssh_authorized_keys.0', /\.pub file/],
    [{ labels: { 'a b': 'x' } }, 'labels.a b', /not allowed/],
  ];
  for (const [body, named, says] of cases) {
    const { error, details } = await refusedAndNothingMade('invalid_request', body);
    assert.equal(details['field'], named, error);
    assert.match(error, says);
  }
});

test('a body that is no JSON, of another type or too large is refused before anything is looked at', async () => {
  for (const body of ['{"name": "a"', 'name=a', '[]', '"{}"', '{"name":"a"}{}'])
    await refusedAndNothingMade('invalid_request', body);
  for (const type of ['text/plain', 'application/x-www-form-urlencoded'])
    await refusedAndNothingMade('unsupported_media_type', '{}', { 'content-type': type });
  const body = await refusedAndNothingMade('too_large', { user_data: `#!${'x'.repeat(1_048_576)}` });
  assert.match(body.error, /1048576 bytes \(1 MiB\)/);
  const userData = await refusedAndNothingMade('too_large', { user_data: `#!${'x'.repeat(262_143)}` });
  assert.deepEqual(userData.details, { field: 'user_data', limit: 262_144 });
});

test('what another VM has is taken, running or stopped, and the refusal names the field', async () => {
  const taken = { name: 'taken', guest_ip: '192.168.241.50', guest_mac: '02:fc:00:00:00:32' };
  await hatch.makeVm(taken);
  // Its row changes when it becomes ready.
  await hatch.call('GET', '/vms/taken?wait=ready&timeout=20');
  for (const state of ['running', 'stopped']) {
    if (state === 'stopped') await hatch.call('POST', '/vms/taken/stop', { grace_seconds: 0 });
    for (const [field, value] of Object.entries(taken)) {
      const { error, details } = await refusedAndNothingMade('already_exists', { [field]: value });
      assert.equal(details['field'], field);
      assert.match(error, new RegExp(`^"${field}" cannot be "${value}": another VM has it\\.$`));
    }
    await refusedAndNothingMade('already_exists', { guest_mac: '02:FC:00:00:00:32' });
  }
  await hatch.makeVm({ name: 'other' });
  const renamed = await hatch.refused('already_exists', 'PATCH', '/vms/other', { name: 'taken' });
  assert.equal(renamed.details['field'], 'name');
  for (const name of ['taken', 'other'])
    assert.equal((await hatch.call('DELETE', `/vms/${name}`)).status, 200);
  await hatch.refused('not_found', 'DELETE', '/vms/taken');
  assert.equal((await hatch.makeVm(taken))['guest_ip'], taken.guest_ip, 'what was deleted is free again');
  await hatch.call('DELETE', '/vms/taken');
});

test('an id, name or cursor that is none is refused by its parameter; one that is unknown is not there', async () => {
  const cases: readonly [url: string, named: string][] = [
    ['/vms/Web', 'id'],
    ['/vms/..%2f..%2fetc', 'id'],
    ['/vms?after=vm-abc123def456', 'after'],
    ['/vms?after=nonsense', 'after'],
    ['/images?after=img-nothing', 'after'],
    ['/templates?after=tpl-nothing', 'after'],
    ['/events?after=evt-abc123def456', 'after'],
    ['/keys?after=key-abc123def456', 'after'],
    ['/vms?limit=0', 'limit'],
  ];
  for (const [url, named] of cases) {
    const { error, details } = await hatch.refused('invalid_request', 'GET', url);
    assert.equal(details['field'], named, error);
  }
  for (const url of ['/vms/vm-abc123def456', '/vms/nobody', '/images/img-nothing', '/templates/tpl-nothing'])
    await hatch.refused('not_found', 'GET', url);
});

test('a template or an image that is used is kept, and the refusal names who uses it', async () => {
  await hatch.call('POST', '/images', { name: 'own', kernel_path: '/k', rootfs_path: '/r' });
  const template = { name: 'web', image_id: 'img-own', mem_mib: 1024 };
  assert.equal((await hatch.call('POST', '/templates', template)).status, 201);
  const again = await hatch.refused('already_exists', 'POST', '/templates', template);
  assert.equal(again.details['field'], 'name');
  const strange = { name: 'x', image_id: 'img-unknown' };
  const unknown = await hatch.refused('invalid_request', 'POST', '/templates', strange);
  assert.equal(unknown.details['field'], 'image_id');

  const byTemplate = await hatch.refused('in_use', 'DELETE', '/images/img-own');
  assert.deepEqual(byTemplate.details, { vms: [], templates: ['tpl-web'] });
  const vm = await hatch.makeVm({ template_id: 'tpl-web' });
  const image = await hatch.refused('in_use', 'DELETE', '/images/img-own');
  assert.deepEqual(image.details, { vms: [vm['id']], templates: ['tpl-web'] });
  assert.match(image.error, new RegExp(`^Image img-own is used by ${String(vm['id'])}, tpl-web\\.$`));
  const used = await hatch.refused('in_use', 'DELETE', '/templates/tpl-web');
  assert.deepEqual(used.details, { vms: [vm['id']] });
  const standard = await hatch.makeVm({});
  await hatch.refused('in_use', 'DELETE', '/images/img-default');
  for (const { id } of [vm, standard]) await hatch.call('DELETE', `/vms/${String(id)}`);
  for (const path of ['/templates/tpl-web', '/images/img-own'])
    assert.equal((await hatch.call('DELETE', path)).status, 200);
});

test('what a VM’s state does not allow is refused with the state and what it does allow', async () => {
  await hatch.makeVm({ name: 'web' });
  const size = await hatch.refused('wrong_state', 'PATCH', '/vms/web', { mem_mib: 1024 });
  assert.deepEqual(size.details, { field: 'mem_mib', state: 'running', allowed: ['stopped'] });
  await hatch.call('POST', '/vms/web/stop', {});
  const exec = await hatch.refused('wrong_state', 'POST', '/vms/web/exec', { command: 'id' });
  assert.equal(exec.details['state'], 'stopped');
  await hatch.refused('wrong_state', 'POST', '/vms/web/reboot');
  const disk = await hatch.refused('invalid_request', 'PATCH', '/vms/web', { disk_mib: 1 });
  assert.equal(disk.details['field'], 'disk_mib');
  await hatch.call('DELETE', '/vms/web');
});
