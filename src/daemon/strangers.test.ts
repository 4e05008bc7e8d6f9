import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { newSecret } from '../ops/accounts.ts';
import { field } from '../api/test-client.ts';
import { makeFakeHost, type FakeDaemon, type FakeHost } from '../../test/support/fake-daemon.ts';

/** Who may do what, through the whole daemon: keys that are none, other accounts, quotas. */
let host: FakeHost;
let hatch: FakeDaemon;
before(async () => {
  host = await makeFakeHost();
  hatch = await host.start({ HATCH_MAX_VMS_PER_ACCOUNT: '3' });
});
after(() => host.end());

interface Account {
  readonly id: string;
  readonly key: string;
}

/** An account of its own, with a key that may do everything in it. */
async function makeAccount(name: string, quotas: object = {}): Promise<Account> {
  const made = await hatch.call('POST', '/accounts', { name, quotas });
  assert.equal(made.status, 201, JSON.stringify(made.body));
  const id = String(field(made.body, 'id'));
  return { id, key: await makeKey({ account_id: id, scopes: ['read', 'write', 'admin'] }) };
}

async function makeKey(request: object): Promise<string> {
  const made = await hatch.call('POST', '/keys', { name: 'a test', ...request });
  assert.equal(made.status, 201, JSON.stringify(made.body));
  return String(field(made.body, 'secret'));
}

async function countOfVms(): Promise<number> {
  return (await hatch.daemon.world.store.vms.list({}, { limit: 1000 })).length;
}

test('without a key that is good nothing is told and nothing made', async () => {
  const { store } = hatch.daemon.world;
  const account = (await store.accounts.byName('default')) ?? assert.fail('no account');
  const expired = newSecret();
  const scopes = ['read', 'write'] as const;
  await store.keys.create({
    accountId: account.id,
    name: 'old',
    scopes,
    ...expired,
    expiresAt: Date.now() - 1,
  });
  const revoked = await hatch.call('POST', '/keys', { name: 'short', scopes: ['write'] });
  const live = { key: String(field(revoked.body, 'secret')) };
  assert.equal((await hatch.call('GET', '/vms', undefined, live)).status, 200);
  await hatch.call('DELETE', `/keys/${String(field(revoked.body, 'id'))}`);

  for (const key of [null, '', 'hatch_unknown', hatch.key.slice(0, -1), expired.secret, live.key]) {
    for (const [method, path] of [
      ['POST', '/vms'],
      ['GET', '/vms'],
      ['DELETE', '/vms/web'],
    ] as const) {
      const { error } = await hatch.refused('unauthorized', method, path, undefined, { key });
      assert.ok(key === null || key === '' || !error.includes(key));
    }
  }
  assert.equal(await countOfVms(), 0);
});

test('a key does what its scopes say and no more', async () => {
  const reader = { key: await makeKey({ scopes: ['read'] }) };
  const vm = await hatch.makeVm({ name: 'web' });
  assert.equal((await hatch.call('GET', '/vms/web', undefined, reader)).status, 200);
  for (const [method, path, body] of [
    ['POST', '/vms', {}],
    ['PATCH', '/vms/web', { name: 'mine' }],
    ['POST', '/vms/web/stop', {}],
    ['POST', '/vms/web/exec', { command: 'id' }],
    ['GET', '/vms/web/user-data', undefined],
    ['DELETE', '/vms/web', undefined],
    ['POST', '/images', { name: 'x', kernel_path: '/k', rootfs_path: '/r' }],
    ['POST', '/keys', { name: 'x', scopes: ['read'] }],
  ] as const) {
    const { details } = await hatch.refused('forbidden', method, path, body, reader);
    assert.equal(typeof details['scope'], 'string', `${method} ${path}`);
  }
  const after = (await hatch.call('GET', '/vms/web')).body;
  assert.deepEqual([field(after, 'id'), field(after, 'state')], [vm['id'], 'running']);
  assert.equal(await countOfVms(), 1);
  await hatch.call('DELETE', '/vms/web');
});

test("another account's VM is not there, whatever is asked of it, by id or by name", async () => {
  const mine = await hatch.makeVm({ name: 'web', guest_ip: '192.168.241.40', user_data: '#!/bin/sh\n' });
  const stranger = await makeAccount('strangers');
  const as = { key: stranger.key };
  for (const id of ['web', String(mine['id'])]) {
    for (const [method, path, body] of [
      ['GET', '', undefined],
      ['GET', '?wait=ready&timeout=1', undefined],
      ['PATCH', '', { labels: {} }],
      ['POST', '/start', {}],
      ['POST', '/stop', {}],
      ['POST', '/reboot', {}],
      ['POST', '/exec', { command: 'id' }],
      ['GET', '/console', undefined],
      ['GET', '/metrics', undefined],
      ['GET', '/events', undefined],
      ['GET', '/user-data', undefined],
      ['POST', '/snapshot', {}],
      ['POST', '/restore', {}],
      ['POST', '/fork', { count: 1 }],
      ['GET', '/snapshots', undefined],
      ['DELETE', '', undefined],
    ] as const) {
      const { error } = await hatch.refused('not_found', method, `/vms/${id}${path}`, body, as);
      assert.equal(error, `There is no vm "${id}" in this account.`, `${method} ${path}`);
    }
  }
  const cursor = await hatch.refused(
    'invalid_request',
    'GET',
    `/vms?after=${String(mine['id'])}`,
    undefined,
    as,
  );
  assert.equal(cursor.details['field'], 'after');
  for (const path of ['/vms', '/events', '/templates'])
    assert.deepEqual((await hatch.call('GET', path, undefined, as)).body, [], path);
  await hatch.refused('forbidden', 'GET', '/vms?all=true', undefined, as);

  // A name belongs to an account, an address to the host.
  const same = await hatch.call('POST', '/vms', { name: 'web' }, as);
  assert.equal(same.status, 201);
  const { details } = await hatch.refused(
    'already_exists',
    'POST',
    '/vms',
    { guest_ip: mine['guest_ip'] },
    as,
  );
  assert.equal(details['field'], 'guest_ip');
  assert.equal((await hatch.call('DELETE', '/vms/web', undefined, as)).status, 200);
  assert.equal(field((await hatch.call('GET', '/vms/web')).body, 'id'), mine['id']);
  await hatch.call('DELETE', '/vms/web');
});

test("another account's snapshot is not there: not to be seen, changed, looked into, copied or gone back to", async () => {
  await hatch.makeVm({ name: 'web' });
  const saved = await hatch.call('POST', '/vms/web/snapshot', { name: 'golden', keep_running: true });
  assert.equal(saved.status, 201);
  const id = String(field(saved.body, 'id'));
  const as = { key: (await makeAccount('peeper')).key };
  assert.equal((await hatch.call('POST', '/vms', { name: 'own' }, as)).status, 201);
  for (const name of [id, 'golden']) {
    for (const [method, path, body] of [
      ['GET', '', undefined],
      ['GET', '?wait=stored&timeout=1', undefined],
      ['PATCH', '', { name: 'mine' }],
      ['POST', '/verify', {}],
      ['GET', '/files?path=/', undefined],
      ['DELETE', '', undefined],
    ] as const)
      await hatch.refused('not_found', method, `/snapshots/${name}${path}`, body, as);
    const { details } = await hatch.refused('invalid_request', 'POST', '/vms', { snapshot_id: name }, as);
    assert.equal(details['field'], 'snapshot_id');
    await hatch.call('POST', '/vms/own/stop', {}, as);
    await hatch.refused('not_found', 'POST', '/vms/own/restore', { snapshot_id: name, discard: true }, as);
  }
  assert.deepEqual((await hatch.call('GET', '/snapshots', undefined, as)).body, []);
  await hatch.refused('forbidden', 'GET', '/snapshots?all=true', undefined, as);
  assert.equal(field((await hatch.call('GET', '/vms/own', undefined, as)).body, 'state'), 'stopped');
  assert.equal(field((await hatch.call('GET', '/snapshots/golden')).body, 'id'), id);

  // Nor does a VM go back to one of another VM of its own account.
  const other = await hatch.makeVm({ name: 'other' });
  await hatch.call('POST', '/vms/other/stop', {});
  await hatch.refused('not_found', 'POST', '/vms/other/restore', { snapshot_id: id, discard: true });
  await hatch.call('DELETE', `/vms/${String(other['id'])}`);
  await hatch.call('DELETE', '/vms/own', undefined, as);
  await hatch.call('DELETE', '/vms/web');
});

test("another account's image, template and keys are not there either; the default account's are everybody's", async () => {
  const owner = {
    key: await makeKey({ account_id: (await makeAccount('owner')).id, scopes: ['operator', 'write'] }),
  };
  const image = { name: 'private', kernel_path: '/k', rootfs_path: '/r' };
  assert.equal((await hatch.call('POST', '/images', image, owner)).status, 201);
  assert.equal((await hatch.call('POST', '/templates', { name: 'private' }, owner)).status, 201);
  await hatch.call('POST', '/templates', { name: 'common', mem_mib: 256 });
  const as = { key: (await makeAccount('looker')).key };
  for (const path of ['/images/img-private', '/templates/tpl-private'])
    await hatch.refused('not_found', 'GET', path, undefined, as);
  for (const [named, id] of [
    ['image_id', 'img-private'],
    ['template_id', 'tpl-private'],
  ] as const) {
    const { details } = await hatch.refused('invalid_request', 'POST', '/vms', { [named]: id }, as);
    assert.equal(details['field'], named);
  }
  await hatch.refused('not_found', 'DELETE', '/templates/tpl-common', undefined, as);
  await hatch.refused('not_found', 'PATCH', '/templates/tpl-common', { mem_mib: 512 }, as);
  const vm = await hatch.call('POST', '/vms', { template_id: 'tpl-common' }, as);
  assert.deepEqual([field(vm.body, 'image_id'), field(vm.body, 'mem_mib')], ['img-default', 256]);
  assert.deepEqual((await hatch.refused('in_use', 'DELETE', '/templates/tpl-common')).details, {
    vms: [field(vm.body, 'id')],
  });
  await hatch.call('DELETE', `/vms/${String(field(vm.body, 'id'))}`, undefined, as);
  const [key] = (await hatch.call('GET', '/keys')).body as { id: string }[];
  await hatch.refused('not_found', 'DELETE', `/keys/${key?.id}`, undefined, as);
});

test('a quota is told with what is used and its limit, of many at once exactly as many are made as may', async () => {
  const { key } = await makeAccount('crowd');
  const answers = await Promise.all(Array.from({ length: 8 }, () => hatch.call('POST', '/vms', {}, { key })));
  const refused = answers.filter(({ status }) => status !== 201);
  assert.equal(refused.length, 5);
  for (const { body } of refused) {
    assert.equal(field(body, 'code'), 'quota_exceeded');
    assert.deepEqual(field(body, 'details'), { quota: 'vms', used: 3, limit: 3 });
  }
  await hatch.assertNothingLeft();
  for (const { body } of answers.filter(({ status }) => status === 201))
    await hatch.call('DELETE', `/vms/${String(field(body, 'id'))}`, undefined, { key });
  assert.equal(
    (await hatch.call('POST', '/vms', {}, { key })).status,
    201,
    'what was deleted no longer counts',
  );
  const [left] = (await hatch.call('GET', '/vms', undefined, { key })).body as { id: string }[];
  await hatch.call('DELETE', `/vms/${left?.id}`, undefined, { key });
});

test('vCPUs and memory have their quotas too, also when a stopped VM is to grow', async () => {
  const { key } = await makeAccount('small', { vcpus: 2, mem_mib: 1024 });
  const as = { key };
  for (const [body, quota, limit] of [
    [{ vcpu_count: 3 }, 'vcpus', 2],
    [{ mem_mib: 2048 }, 'mem_mib', 1024],
  ] as const) {
    const { details, error } = await hatch.refused('quota_exceeded', 'POST', '/vms', body, as);
    assert.deepEqual(details, { quota, used: 0, limit });
    assert.match(error, /delete VMs or ask the operator for a larger quota\.$/);
  }
  await hatch.call('POST', '/vms', { name: 'one' }, as);
  await hatch.call('POST', '/vms/one/stop', { grace_seconds: 0 }, as);
  const grown = await hatch.refused('quota_exceeded', 'PATCH', '/vms/one', { mem_mib: 1025 }, as);
  assert.deepEqual(grown.details, { quota: 'mem_mib', used: 512, limit: 1024 });
  assert.equal((await hatch.call('PATCH', '/vms/one', { mem_mib: 1024 }, as)).status, 200);
  await hatch.call('DELETE', '/vms/one', undefined, as);
});
