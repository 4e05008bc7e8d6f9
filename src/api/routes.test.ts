import assert from 'node:assert/strict';
import { test } from 'node:test';
import { field, fields, testApi, type TestApi } from './test-client.ts';

async function withVm(name = 'web'): Promise<TestApi> {
  const api = await testApi();
  await api.call('POST', '/vms', { name });
  return api;
}

/** Makes a route and gives its id. */
async function route(api: TestApi, body: object, vm = 'web'): Promise<string> {
  const made = await api.call('POST', `/vms/${vm}/routes`, body);
  assert.equal(made.status, 201, made.text);
  return String(field(made.body, 'id'));
}

test('a route is made with what was left out said, seen alone and in lists, changed and removed', async () => {
  const api = await withVm();
  const made = await api.call('POST', '/vms/web/routes', { subdomain: 'shop', target_port: 8080 });
  assert.equal(made.status, 201);
  const id = String(field(made.body, 'id'));
  assert.equal(made.headers['location'], `/routes/${id}`);
  const vmId = field((await api.call('GET', '/vms/web')).body, 'id');
  assert.deepEqual(made.body, {
    id,
    vm_id: vmId,
    subdomain: 'shop',
    url: 'http://shop.hatch.localhost:9090',
    target_port: 8080,
    auto_wake: true,
    created_at: '2026-03-06T10:30:00Z',
    updated_at: '2026-03-06T10:30:00Z',
  });
  assert.deepEqual((await api.call('GET', `/routes/${id}`)).body, made.body);
  for (const list of ['/routes', '/vms/web/routes', `/vms/${String(vmId)}/routes`, '/routes?all=true'])
    assert.deepEqual((await api.call('GET', list)).body, [made.body], list);
  const wake = { methods: ['GET'], paths: ['/api/*'], cidrs: ['10.1.0.0/16'], daily_budget: 5 };
  const changed = await api.call('PATCH', `/routes/${id}`, { target_port: 3000, auto_wake: false, wake });
  assert.deepEqual(changed.body, { ...fields(made.body), target_port: 3000, auto_wake: false, wake });
  const less = await api.call('PATCH', `/routes/${id}`, { wake: { daily_budget: 1 } });
  assert.deepEqual(field(less.body, 'wake'), { daily_budget: 1 });
  assert.deepEqual((await api.call('PATCH', `/routes/${id}`, {})).body, less.body);
  const bare = await api.call('PATCH', `/routes/${id}`, { wake: null });
  assert.ok(!Object.hasOwn(fields(bare.body), 'wake'));
  assert.deepEqual((await api.call('DELETE', `/routes/${id}`)).body, { status: 'deleted' });
  await api.refused('not_found', 'GET', `/routes/${id}`);
  await api.refused('not_found', 'DELETE', `/routes/${id}`);
  assert.deepEqual((await api.call('GET', '/vms/web/routes')).body, []);
});

test('a domain is in place of a subdomain, and with neither a name is made', async () => {
  const api = await withVm();
  const own = await api.call('POST', '/vms/web/routes', { domain: 'Shop.Example.com', target_port: 80 });
  assert.equal(field(own.body, 'domain'), 'shop.example.com');
  assert.equal(field(own.body, 'url'), 'http://shop.example.com:9090');
  assert.ok(!Object.hasOwn(fields(own.body), 'subdomain'));
  const made = await api.call('POST', '/vms/web/routes', { target_port: 80 });
  assert.match(String(field(made.body, 'subdomain')), /^[0-9a-f]{12}$/);
});

test('every wrong field of a route is refused with its name and what it must be', async () => {
  const api = await withVm();
  const port = { target_port: 80 };
  const cases: readonly [body: object, named: string, says: RegExp][] = [
    [{}, 'target_port', /"target_port" is required/],
    [{ target_port: 0 }, 'target_port', /from 1 to 65535; it is 0/],
    [{ target_port: 65536 }, 'target_port', /from 1 to 65535/],
    [{ target_port: '80' }, 'target_port', /whole number/],
    [{ ...port, subdomain: 'Web' }, 'subdomain', /lower-case letters, digits and inner dashes/],
    [{ ...port, subdomain: 'a.b' }, 'subdomain', /a name of 1 to 63/],
    [{ ...port, subdomain: '' }, 'subdomain', /a name of 1 to 63/],
    [{ ...port, subdomain: 'a'.repeat(64) }, 'subdomain', /a name of 1 to 63/],
    [{ ...port, subdomain: 'grafana' }, 'subdomain', /"grafana": it is reserved/],
    [{ ...port, subdomain: 'a', domain: 'a.example.com' }, 'domain', /either "subdomain" or "domain"/],
    [{ ...port, domain: '10.0.0.1' }, 'domain', /not an address/],
    [{ ...port, domain: 'größe.example' }, 'domain', /write it as xn--gre-6ka8i\.example/],
    [{ ...port, domain: 'x.hatch.localhost' }, 'domain', /must not lie under hatch\.localhost/],
    [{ ...port, domain: 'a'.repeat(254) }, 'domain', /at most 253 characters/],
    [{ ...port, auto_wake: 'no' }, 'auto_wake', /true or false/],
    [{ ...port, wake: [] }, 'wake', /an object; it is a list/],
    [{ ...port, wake: null }, 'wake', /an object/],
    [{ ...port, wake: { method: ['GET'] } }, 'wake.method', /Did you mean "wake\.methods"/],
    [{ ...port, wake: { methods: [] } }, 'wake.methods', /at least 1/],
    [{ ...port, wake: { methods: ['get'] } }, 'wake.methods.0', /an HTTP method in capital letters/],
    [{ ...port, wake: { methods: ['PSOT'] } }, 'wake.methods.0', /an HTTP method .*: GET, HEAD, POST/],
    [{ ...port, wake: { methods: ['GET', 'GET'] } }, 'wake.methods', /twice/],
    [{ ...port, wake: { paths: ['api'] } }, 'wake.paths.0', /begins with a slash/],
    [{ ...port, wake: { paths: ['/a?b'] } }, 'wake.paths.0', /without "\?"/],
    [{ ...port, wake: { cidrs: ['10.0.0.0/8', 'home'] } }, 'wake.cidrs.1', /a network such as/],
    [{ ...port, wake: { daily_budget: 0 } }, 'wake.daily_budget', /from 1 to 1000000/],
    [{ ...port, port: 80 }, 'port', /Unknown field "port"/],
  ];
  for (const [body, named, says] of cases) {
    const { error, details } = await api.refused('invalid_request', 'POST', '/vms/web/routes', body);
    assert.equal(details['field'], named, error);
    assert.match(error, says);
  }
  assert.deepEqual((await api.call('GET', '/routes')).body, []);
  const id = await route(api, port);
  for (const [body, named] of [
    [{ subdomain: 'other' }, 'subdomain'],
    [{ domain: 'a.example.com' }, 'domain'],
    [{ target_port: null }, 'target_port'],
    [{ url: 'http://x' }, 'url'],
  ] as const) {
    const { details } = await api.refused('invalid_request', 'PATCH', `/routes/${id}`, body);
    assert.equal(details['field'], named);
  }
  for (const url of ['/routes/web', '/routes/vm-abc123def456', '/routes/rt-ABC'])
    await api.refused('invalid_request', 'GET', url);
  await api.refused('not_found', 'GET', '/routes/rt-abc123def456');
  await api.refused('not_found', 'POST', '/vms/nobody/routes', port);
});

test('a name is taken for all accounts, and another account’s route is not found', async () => {
  const api = await withVm();
  const id = await route(api, { subdomain: 'shop', target_port: 80 });
  const account = await api.call('POST', '/accounts', { name: 'other' });
  const other = String(field(account.body, 'id'));
  const row = api.hatch.accountRows.find((one) => one.id === other);
  const headers = { authorization: `Bearer ${api.hatch.makeKey(['read', 'write'], row?.id)}` };
  await api.call('POST', '/vms', { name: 'theirs' }, headers);
  const taken = { subdomain: 'shop', target_port: 81 };
  const { error, details } = await api.refused(
    'already_exists',
    'POST',
    '/vms/theirs/routes',
    taken,
    headers,
  );
  assert.equal(details['field'], 'subdomain');
  assert.doesNotMatch(error, /account|web|rt-/);
  for (const [method, body] of [['GET'], ['PATCH', { target_port: 1 }], ['DELETE']] as const)
    await api.refused('not_found', method, `/routes/${id}`, body, headers);
  await api.refused('not_found', 'GET', '/vms/web/routes', undefined, headers);
  assert.deepEqual((await api.call('GET', '/routes', undefined, headers)).body, []);
  await api.refused('forbidden', 'GET', '/routes?all=true', undefined, headers);
  assert.equal(field((await api.call('GET', `/routes/${id}`)).body, 'target_port'), 80);
});

test('routes come in pages, newest first, and go with their VM', async () => {
  const api = await withVm();
  await api.call('POST', '/vms', { name: 'db' });
  const ids: string[] = [];
  for (const vm of ['web', 'db', 'web']) ids.unshift(await route(api, { target_port: 80 }, vm));
  const page = await api.call('GET', '/routes?limit=2');
  const list = (body: unknown): unknown[] => (Array.isArray(body) ? body.map((one) => field(one, 'id')) : []);
  assert.deepEqual(list(page.body), ids.slice(0, 2));
  const next = /^<([^>]+)>; rel="next"$/.exec(String(page.headers['link']))?.[1];
  assert.deepEqual(list((await api.call('GET', next ?? '')).body), ids.slice(2));
  assert.deepEqual(list((await api.call('GET', '/vms/web/routes')).body), [ids[0], ids[2]]);
  await api.refused('invalid_request', 'GET', '/routes?after=rt-abc123def456');
  await api.call('DELETE', '/vms/web');
  assert.deepEqual(list((await api.call('GET', '/routes')).body), [ids[1]]);
});
