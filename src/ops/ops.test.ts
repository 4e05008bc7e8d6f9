import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { newId } from '../base/ids.ts';
import { Failure } from '../model/failure.ts';
import type { ErrorCode } from '../contract/errors.ts';
import {
  assertNothingLeft,
  makeHostFolder,
  openFakeWorld,
  type FakeHostFolder,
  type FakeWorld,
} from '../../test/support/fake-world.ts';
import type { CreateVm } from './hatch.ts';
import { reconcile } from './reconcile.ts';

let host: FakeHostFolder;
let fake: FakeWorld;
before(async () => {
  host = await makeHostFolder();
  fake = await openFakeWorld(host);
});
after(async () => {
  await assertNothingLeft(fake);
  await fake.close();
  await host.remove();
});

/** That a call is refused with this code, naming this field, in a sentence. */
async function refused(call: Promise<unknown>, code: ErrorCode, field?: string): Promise<Failure> {
  try {
    await call;
  } catch (error) {
    assert.ok(error instanceof Failure, String(error));
    assert.equal(error.code, code, error.message);
    if (field !== undefined) assert.equal(error.details['field'], field);
    assert.match(error.message, /[.!?]$/);
    return error;
  }
  assert.fail(`was not refused with ${code}`);
}

const create = (request: CreateVm = {}): ReturnType<FakeWorld['hatch']['vms']['create']> =>
  fake.hatch.vms.create(fake.caller, request);

test('a VM of nothing but defaults gets the first address, a MAC of ours and the first SSH port', async () => {
  const vm = await create();
  assert.equal(vm.state, 'running');
  assert.equal(vm.imageId, 'img-default');
  assert.equal(vm.vcpuCount, 1);
  assert.equal(vm.memMib, 512);
  assert.equal(vm.network?.ip, '192.168.241.10');
  assert.match(vm.network.mac, /^02:fc:/);
  assert.equal(vm.network.sshPort, 2200);
  assert.deepEqual(fake.world.ports.vmIds(), [vm.id]);
  await fake.hatch.vms.delete(fake.caller, vm.id);
  await refused(fake.hatch.vms.get(fake.caller, vm.id), 'not_found');
});

test('create waits until the guest answers when it is asked to', async () => {
  const vm = await fake.hatch.vms.create(fake.caller, {}, { until: 'ready', timeoutMs: 5000 });
  assert.ok(vm.readyAt !== null);
  await fake.hatch.vms.delete(fake.caller, vm.id);
});

test('stop keeps addresses and disk, start brings them back, and both may be asked twice', async () => {
  const vm = await create({ name: 'keeper', labels: { a: 'b' } });
  const stopped = await fake.hatch.vms.stop(fake.caller, 'keeper', { graceSeconds: 5 });
  assert.equal(stopped.state, 'stopped');
  assert.deepEqual(stopped.network, vm.network);
  assert.deepEqual(fake.world.ports.vmIds(), []);
  assert.equal((await fake.hatch.vms.stop(fake.caller, vm.id, { graceSeconds: 5 })).state, 'stopped');
  const started = await fake.hatch.vms.start(fake.caller, vm.id);
  assert.equal(started.state, 'running');
  assert.deepEqual(started.network, vm.network);
  assert.equal((await fake.hatch.vms.start(fake.caller, vm.id)).state, 'running');
  await fake.hatch.vms.delete(fake.caller, 'keeper');
});

test('two creates racing for one address: one wins, the other is told which field', async () => {
  const both = await Promise.allSettled([
    create({ guestIp: '192.168.241.77' }),
    create({ guestIp: '192.168.241.77' }),
  ]);
  const won = both.filter((one) => one.status === 'fulfilled');
  assert.equal(won.length, 1);
  const lost = both.find((one) => one.status === 'rejected');
  assert.ok(lost?.reason instanceof Failure);
  assert.equal(lost.reason.code, 'already_exists');
  assert.equal(lost.reason.details['field'], 'guest_ip');
  for (const one of won) await fake.hatch.vms.delete(fake.caller, one.value.id);
});

test('many creates at once get different addresses, MACs and ports, until the ports are used up', async () => {
  const made = await Promise.allSettled(Array.from({ length: 12 }, () => create()));
  const vms = made.flatMap((one) => (one.status === 'fulfilled' ? [one.value] : []));
  assert.equal(vms.length, 10);
  for (const pick of ['ip', 'mac', 'sshPort'] as const)
    assert.equal(new Set(vms.map((vm) => vm.network?.[pick])).size, 10);
  for (const one of made)
    if (one.status === 'rejected') assert.equal((one.reason as Failure).code, 'no_capacity');
  await Promise.all(vms.map((vm) => fake.hatch.vms.delete(fake.caller, vm.id)));
  assert.equal((await fake.hatch.vms.list(fake.caller, {}, { limit: 100 })).length, 0);
});

test('what cannot be is refused by field, and nothing is made of it', async () => {
  await create({ name: 'taken', guestIp: '192.168.241.50', guestMac: '02:fc:00:00:00:32' });
  await refused(create({ name: 'taken' }), 'already_exists', 'name');
  await refused(create({ guestIp: '192.168.241.50' }), 'already_exists', 'guest_ip');
  await refused(create({ guestMac: '02:FC:00:00:00:32' }), 'already_exists', 'guest_mac');
  for (const guestIp of [
    '10.0.0.5',
    '192.168.241.1',
    '192.168.241.0',
    '192.168.241.255',
    '192.168.241.010',
    '192.168.241.5 ',
  ]) {
    await refused(create({ guestIp }), 'invalid_request', 'guest_ip');
  }
  for (const guestMac of [
    '02:fc:00:00:00:32\n',
    '01:00:5e:00:00:01',
    '00:00:00:00:00:00',
    '02-fc-00-00-00-01',
  ]) {
    await refused(create({ guestMac }), 'invalid_request', 'guest_mac');
  }
  await refused(create({ enableNetwork: false, guestIp: '192.168.241.51' }), 'invalid_request', 'guest_ip');
  await refused(create({ imageId: 'img-nope' }), 'invalid_request', 'image_id');
  await refused(create({ templateId: 'tpl-nope' }), 'invalid_request', 'template_id');
  await refused(create({ diskMib: 1024 }), 'invalid_request', 'disk_mib');
  await refused(create({ userData: '#cloud-config\na: [b' }), 'invalid_request', 'user_data');
  assert.equal((await fake.hatch.vms.list(fake.caller, {}, { limit: 100 })).length, 1);
  await fake.hatch.vms.delete(fake.caller, 'taken');
});

test('a VM without a network has no address, no port in the network and no SSH port', async () => {
  const vm = await create({ enableNetwork: false });
  assert.equal(vm.network, null);
  assert.deepEqual(await fake.world.net.observe(), []);
  assert.deepEqual(fake.world.ports.vmIds(), []);
  await fake.hatch.vms.delete(fake.caller, vm.id);
});

test('a template serves where the request is silent, and is kept while a VM names it', async () => {
  await fake.hatch.templates.create(fake.caller, 'web', {
    vcpuCount: 2,
    memMib: 1024,
    labels: { role: 'web' },
  });
  const vm = await create({ templateId: 'tpl-web', memMib: 256 });
  assert.deepEqual([vm.vcpuCount, vm.memMib, vm.labels['role'], vm.templateId], [2, 256, 'web', 'tpl-web']);
  const failure = await refused(fake.hatch.templates.delete(fake.caller, 'tpl-web'), 'in_use');
  assert.deepEqual(failure.details['vms'], [vm.id]);
  await refused(fake.hatch.templates.create(fake.caller, 'web', {}), 'already_exists', 'name');
  await fake.hatch.vms.delete(fake.caller, vm.id);
  await fake.hatch.templates.delete(fake.caller, 'tpl-web');
});

test('the default image is kept while a VM stands on it', async () => {
  const vm = await create();
  await refused(fake.hatch.images.delete(fake.caller, 'img-default'), 'in_use');
  await fake.hatch.vms.delete(fake.caller, vm.id);
});

test('an image that only a disk without a VM stands on is told to be let go of soon, and is', async () => {
  const { store, settings } = fake.world;
  const [image] = await store.images.list([settings.sharedAccountId], { limit: 1 });
  assert.ok(image);
  const layer = await store.layers.create({
    id: newId('layer'),
    hostId: settings.hostId,
    kind: 'disk',
    path: '/gone',
    format: 'raw',
    parentId: null,
    imageAccountId: image.accountId,
    imageId: image.id,
    frozen: false,
  });
  const failure = await refused(fake.hatch.images.delete(fake.caller, image.id), 'in_use');
  assert.equal(failure.message, `Image ${image.id} is just being let go of; try again in a minute.`);
  await reconcile(fake.world);
  assert.equal(await store.layers.get(layer.id), null);
});

test('size changes wait for a stopped VM; name and labels do not', async () => {
  const vm = await create({ name: 'before' });
  await refused(fake.hatch.vms.patch(fake.caller, vm.id, { vcpuCount: 4 }), 'wrong_state', 'vcpu_count');
  const renamed = await fake.hatch.vms.patch(fake.caller, vm.id, {
    name: 'after',
    labels: { x: 'y' },
    idle: { pinned: true },
  });
  assert.deepEqual([renamed.name, renamed.labels, renamed.idle?.pinned], ['after', { x: 'y' }, true]);
  // DHCP calls it so at once, not when the network is next looked over.
  assert.match(await readFile(join(host.net, 'fake-network.json'), 'utf8'), /"hostname": ?"after"/);
  await fake.hatch.vms.stop(fake.caller, 'after', { graceSeconds: 1 });
  await refused(fake.hatch.vms.patch(fake.caller, vm.id, { diskMib: 100 }), 'invalid_request', 'disk_mib');
  const grown = await fake.hatch.vms.patch(fake.caller, vm.id, { vcpuCount: 4, memMib: 1024, diskMib: 4096 });
  assert.deepEqual([grown.vcpuCount, grown.memMib, grown.diskMib], [4, 1024, 4096]);
  assert.equal((await fake.hatch.vms.start(fake.caller, vm.id)).state, 'running');
  await fake.hatch.vms.delete(fake.caller, vm.id);
});

test("another account's VM is not there, by id or by name", async () => {
  const vm = await create({ name: 'mine' });
  const other = await fake.hatch.accounts.create(fake.caller, { name: 'other', quotas: { vms: 0 } });
  const stranger = { ...fake.caller, accountId: other.id };
  for (const id of [vm.id, 'mine']) {
    await refused(fake.hatch.vms.get(stranger, id), 'not_found');
    await refused(fake.hatch.vms.delete(stranger, id), 'not_found');
    await refused(fake.hatch.vms.metrics(stranger, id), 'not_found');
    await refused(
      fake.hatch.vms.exec(stranger, id, { command: 'id', cwd: null, env: {}, stdin: null, timeoutMs: 1000 }),
      'not_found',
    );
  }
  const failure = await refused(fake.hatch.vms.create(stranger, {}), 'quota_exceeded');
  assert.equal(failure.details['limit'], 0);
  await fake.hatch.vms.delete(fake.caller, vm.id);
});

test('a revoked or unknown key is nobody', async () => {
  const { key, secret } = await fake.hatch.keys.create(fake.caller, { name: 'short', scopes: ['read'] });
  assert.equal((await fake.hatch.accounts.authenticate(secret))?.keyId, key.id);
  await fake.hatch.keys.revoke(fake.caller, key.id);
  assert.equal(await fake.hatch.accounts.authenticate(secret), undefined);
  assert.equal(await fake.hatch.accounts.authenticate('hatch_nope'), undefined);
  await refused(
    fake.hatch.keys.create(
      { ...fake.caller, scopes: new Set(['read', 'admin']) },
      { name: 'more', scopes: ['operator'] },
    ),
    'forbidden',
  );
});

test('exec speaks with the guest; what is not running is told so', async () => {
  const vm = await fake.hatch.vms.create(fake.caller, {}, { until: 'ready', timeoutMs: 5000 });
  const result = await fake.hatch.vms.exec(fake.caller, vm.id, {
    command: ['echo', 'hello'],
    cwd: null,
    env: {},
    stdin: null,
    timeoutMs: 5000,
  });
  assert.deepEqual([result.exitCode, result.stdout], [0, 'hello\n']);
  await fake.hatch.vms.stop(fake.caller, vm.id, { graceSeconds: 1 });
  const failure = await refused(
    fake.hatch.vms.exec(fake.caller, vm.id, {
      command: 'id',
      cwd: null,
      env: {},
      stdin: null,
      timeoutMs: 1000,
    }),
    'wrong_state',
  );
  assert.equal(failure.details['state'], 'stopped');
  await refused(fake.hatch.vms.reboot(fake.caller, vm.id), 'wrong_state');
  await fake.hatch.vms.delete(fake.caller, vm.id);
});

test("events tell a VM's story, newest first, and outlive it", async () => {
  const vm = await create();
  await fake.hatch.vms.stop(fake.caller, vm.id, { graceSeconds: 1 });
  const kinds = (await fake.hatch.events.list(fake.caller, { vm: vm.id }, { limit: 10 })).map(
    (event) => event.kind,
  );
  assert.equal(kinds[0], 'vm.stopped');
  assert.equal(kinds.at(-1), 'vm.creating');
  await fake.hatch.vms.delete(fake.caller, vm.id);
  const newest = await fake.hatch.events.list(fake.caller, {}, { limit: 1 });
  assert.equal(newest[0]?.kind, 'vm.deleted');
});
