import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { fields } from '../api/test-client.ts';
import { makeFakeHost, type FakeDaemon, type FakeHost } from '../../test/support/fake-daemon.ts';

/** Lists of the daemon itself: their pages, their order and their filters. */
let host: FakeHost;
let hatch: FakeDaemon;
before(async () => {
  host = await makeFakeHost({ inMemory: true });
  hatch = await host.start();
  for (const [name, tier] of [
    ['one', 'web'],
    ['two', 'web'],
    ['three', 'db'],
  ])
    await hatch.makeVm({ name, labels: { tier, of: name } });
  for (const name of ['one', 'two']) {
    for (const body of [{ target_port: 80 }, { target_port: 81, subdomain: `${name}-other` }])
      assert.equal((await hatch.call('POST', `/vms/${name}/routes`, body)).status, 201);
    assert.equal((await hatch.call('POST', '/vms/one/snapshot', { keep_running: true })).status, 201);
    for (const [path, body] of [
      ['/images', { kernel_path: '/k', rootfs_path: '/r' }],
      ['/templates', {}],
      ['/keys', { scopes: ['read'] }],
      ['/accounts', {}],
    ] as const)
      assert.equal((await hatch.call('POST', path, { name, ...body })).status, 201);
  }
  await hatch.call('POST', '/vms/three/stop', { grace_seconds: 0 });
});
after(() => host.end());

interface Page {
  readonly ids: readonly string[];
  /** Where the next one is; undefined on the last. */
  readonly next: string | undefined;
}

async function page(path: string): Promise<Page> {
  const { status, body, headers } = await hatch.call('GET', path);
  assert.ok(status === 200 && Array.isArray(body), `${path}: ${status}`);
  const link = headers.get('link');
  const next = link === null ? undefined : /^<([^>]+)>; rel="next"$/.exec(link)?.[1];
  assert.equal(next === undefined, link === null, String(link));
  return { ids: body.map((row) => String(fields(row)['id'])), next };
}

test('every list comes whole in pages of any size, newest first, each naming the next but the last', async () => {
  const lists = [
    'vms',
    'snapshots',
    'routes',
    'images',
    'templates',
    'keys',
    'accounts',
    'events',
    'vms/one/events',
    'vms/one/routes',
    'vms/one/snapshots',
  ];
  for (const list of lists) {
    const whole = await page(`/${list}?limit=1000`);
    assert.ok(whole.ids.length > 1 && whole.next === undefined, list);
    assert.equal(new Set(whole.ids).size, whole.ids.length, list);
    for (const limit of [1, 2, whole.ids.length - 1, whole.ids.length]) {
      const found: string[] = [];
      let at: string | undefined = `/${list}?limit=${limit}`;
      while (at !== undefined) {
        const one: Page = await page(at);
        assert.ok(one.ids.length > 0 && one.ids.length <= limit, at);
        found.push(...one.ids);
        at = one.next;
      }
      assert.deepEqual(found, whole.ids, `${list} by ${limit}`);
    }
  }
  const { body } = await hatch.call('GET', '/vms');
  assert.deepEqual(Array.isArray(body) && body.map((vm) => fields(vm)['name']), ['three', 'two', 'one']);
});

test('a list of all accounts says whose each VM is, and an operator sees and revokes keys of others', async () => {
  const account = fields((await hatch.call('POST', '/accounts', { name: 'theirs' })).body)['id'];
  const { body: made } = await hatch.call('POST', '/keys', {
    name: 'k',
    scopes: ['read', 'write', 'admin'],
    account_id: account,
  });
  const { id, secret } = fields(made);
  const key = String(secret);
  assert.equal((await hatch.call('POST', '/vms', { name: 'one' }, { key })).status, 201);
  const { body } = await hatch.call('GET', '/vms?all=true');
  assert.ok(Array.isArray(body));
  const owners = body.map((vm) => fields(vm)).filter(({ name }) => name === 'one');
  assert.deepEqual(owners.length, 2);
  assert.equal(owners[0]?.['account_id'], account);
  assert.notEqual(owners[1]?.['account_id'], account);
  const { body: own } = await hatch.call('GET', '/vms');
  assert.ok(Array.isArray(own) && own.every((vm) => !('account_id' in fields(vm))));

  const theirs = `account_id=${String(account)}`;
  const { body: keys } = await hatch.call('GET', `/keys?${theirs}`);
  assert.deepEqual(Array.isArray(keys) && keys.map((one) => fields(one)['id']), [id]);
  await hatch.refused('not_found', 'DELETE', `/keys/${String(id)}`);
  for (const where of ['/keys', `/keys/${String(id)}`]) {
    const method = where === '/keys' ? 'GET' : 'DELETE';
    await hatch.refused('invalid_request', method, `${where}?account_id=acct-zzzzzzzzzzzz`);
    const foreign = fields(owners[1])['account_id'];
    await hatch.refused('forbidden', method, `${where}?account_id=${String(foreign)}`, undefined, { key });
  }
  assert.equal((await hatch.call('DELETE', `/keys/${String(id)}?${theirs}`)).status, 200);
  await hatch.refused('unauthorized', 'GET', '/vms', undefined, { key });
});

test('VMs are found by labels and state, on every page', async () => {
  const names = async (query: string): Promise<unknown[]> => {
    const { body } = await hatch.call('GET', `/vms?${query}`);
    assert.ok(Array.isArray(body));
    return body.map((vm) => fields(vm)['name']);
  };
  assert.deepEqual(await names('label=tier%3Dweb'), ['two', 'one']);
  assert.deepEqual(await names('label=tier%3Dweb&label=of%3Done'), ['one']);
  assert.deepEqual(await names('label=tier%3D'), []);
  assert.deepEqual(await names('state=stopped'), ['three']);
  assert.deepEqual(await names('state=running'), ['two', 'one']);
  assert.deepEqual(await names('state=stopped&label=tier%3Dweb'), []);
  const { ids, next } = await page('/vms?label=tier%3Dweb&limit=1');
  const rest = await page(next ?? assert.fail('there is another page'));
  assert.deepEqual([ids.length, rest.ids.length, rest.next], [1, 1, undefined]);
});
