import assert from 'node:assert/strict';
import { test } from 'node:test';
import { SCOPES, type Scope } from '../model/records.ts';
import { field, fields, testApi } from './test-client.ts';

type Method = 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';

/** Every route of the API and who may use it; the description is asked whether one is missing here. */
const routes: readonly [method: Method, url: string, access: 'open' | 'read and write' | readonly Scope[]][] =
  [
    ['POST', '/vms', ['write']],
    ['GET', '/vms', ['read', 'write']],
    ['GET', '/vms/{id}', ['read', 'write']],
    ['PATCH', '/vms/{id}', ['write']],
    ['DELETE', '/vms/{id}', ['write']],
    ['GET', '/vms/{id}/user-data', ['write']],
    ['POST', '/vms/{id}/start', ['write']],
    ['POST', '/vms/{id}/stop', ['write']],
    ['POST', '/vms/{id}/reboot', ['write']],
    ['POST', '/vms/{id}/exec', ['write']],
    ['GET', '/vms/{id}/files', ['write']],
    ['PUT', '/vms/{id}/files', ['write']],
    ['GET', '/vms/{id}/console', ['read', 'write']],
    ['GET', '/vms/{id}/metrics', ['read', 'write']],
    ['POST', '/vms/{id}/lease', ['write']],
    ['GET', '/vms/{id}/why', ['read', 'write']],
    ['POST', '/idle/simulate', ['read', 'write']],
    ['GET', '/vms/{id}/events', ['read', 'write']],
    ['GET', '/events', ['read', 'write']],
    ['POST', '/vms/{id}/snapshot', ['write']],
    ['POST', '/vms/{id}/restore', ['write']],
    ['POST', '/vms/{id}/fork', ['write']],
    ['GET', '/vms/{id}/snapshots', ['read', 'write']],
    ['GET', '/snapshots', ['read', 'write']],
    ['GET', '/snapshots/{id}', ['read', 'write']],
    ['PATCH', '/snapshots/{id}', ['write']],
    ['POST', '/snapshots/{id}/verify', ['write']],
    ['DELETE', '/snapshots/{id}', ['write']],
    ['GET', '/snapshots/{id}/export', 'read and write'],
    ['POST', '/snapshots/import', ['operator']],
    ['GET', '/snapshots/{id}/files', ['read', 'write']],
    ['GET', '/snapshots/{id}/files/content', ['read', 'write']],
    ['GET', '/snapshots/{id}/diff/{other}', ['read', 'write']],
    ['POST', '/vms/{id}/routes', ['write']],
    ['GET', '/vms/{id}/routes', ['read', 'write']],
    ['GET', '/routes', ['read', 'write']],
    ['GET', '/routes/{id}', ['read', 'write']],
    ['PATCH', '/routes/{id}', ['write']],
    ['DELETE', '/routes/{id}', ['write']],
    ['POST', '/images', ['operator']],
    ['GET', '/images', ['read', 'write', 'operator']],
    ['GET', '/images/{id}', ['read', 'write', 'operator']],
    ['DELETE', '/images/{id}', ['operator']],
    ['POST', '/templates', ['write']],
    ['GET', '/templates', ['read', 'write']],
    ['GET', '/templates/{id}', ['read', 'write']],
    ['PATCH', '/templates/{id}', ['write']],
    ['DELETE', '/templates/{id}', ['write']],
    ['POST', '/keys', ['admin', 'operator']],
    ['GET', '/keys', ['admin', 'operator']],
    ['DELETE', '/keys/{id}', ['admin', 'operator']],
    ['GET', '/account', SCOPES],
    ['GET', '/metrics', ['operator']],
    ['POST', '/accounts', ['operator']],
    ['GET', '/accounts', ['operator']],
    ['PATCH', '/accounts/{id}', ['operator']],
    ['GET', '/healthz', 'open'],
    ['GET', '/readyz', 'open'],
  ];

test('the table below is the whole API', async () => {
  const api = await testApi();
  const described = fields(field((await api.call('GET', '/openapi.json')).body, 'paths'));
  const found = Object.entries(described).flatMap(([url, methods]) =>
    Object.keys(fields(methods)).map((method) => `${method.toUpperCase()} ${url}`),
  );
  assert.deepEqual(found.sort(), routes.map(([method, url]) => `${method} ${url}`).sort());
});

test('each route lets in exactly the scopes it names, before it looks at anything else', async () => {
  const api = await testApi();
  for (const [method, url, access] of routes) {
    const path = url.replace(/\{\w+\}/g, 'x');
    const ask = async (headers: Record<string, string>) =>
      (await api.call(method, path, method === 'GET' ? undefined : 'not json', headers)).status;
    if (access === 'open') {
      assert.equal((await api.app.inject({ method, url: path })).statusCode, 200, url);
      continue;
    }
    assert.equal(
      await ask({ authorization: 'Bearer hatch_unknown' }),
      401,
      `${method} ${url} with an unknown key`,
    );
    if (access === 'read and write') {
      for (const scopes of [...SCOPES.map((scope) => [scope]), ['read', 'admin', 'operator'] as const])
        assert.equal(await ask({ authorization: `Bearer ${api.hatch.makeKey(scopes)}` }), 403, url);
      assert.equal(await ask({ authorization: `Bearer ${api.hatch.makeKey(['read', 'write'])}` }), 404, url);
      continue;
    }
    for (const scope of SCOPES) {
      const status = await ask({ authorization: `Bearer ${api.hatch.makeKey([scope])}` });
      if (access.includes(scope))
        assert.ok(status !== 401 && status !== 403, `${method} ${url} as ${scope}: ${status}`);
      else assert.equal(status, 403, `${method} ${url} as ${scope}`);
    }
  }
});

test('a key may come as Bearer or as X-API-Key, and what is not a key is told what one is', async () => {
  const api = await testApi();
  const ask = async (headers: Record<string, string>) => api.app.inject({ url: '/vms', headers });
  assert.equal((await ask({ authorization: `Bearer ${api.key}` })).statusCode, 200);
  assert.equal((await ask({ authorization: `bearer  ${api.key}` })).statusCode, 200);
  assert.equal((await ask({ 'x-api-key': api.key })).statusCode, 200);
  for (const headers of [
    {},
    { 'x-api-key': '' },
    { authorization: '' },
    { authorization: 'Basic abc' },
    { authorization: 'Bearer' },
    { 'x-api-key': 'hatch_x' },
  ]) {
    const answer = await ask(headers);
    assert.equal(answer.statusCode, 401, JSON.stringify(headers));
    assert.equal(answer.headers['www-authenticate'], 'Bearer realm="hatch"');
    assert.equal(field(answer.json(), 'code'), 'unauthorized');
  }
});

test('what is open needs no key', async () => {
  const api = await testApi();
  for (const url of ['/healthz', '/readyz', '/openapi.json', '/docs', '/docs/'])
    assert.ok((await api.app.inject({ url })).statusCode < 400, url);
});

test('a revoked or expired key is dead at once', async () => {
  const api = await testApi();
  const made = await api.call('POST', '/keys', { name: 'short', scopes: ['read'] });
  assert.equal(made.status, 201);
  const { id, secret, prefix } = fields(made.body);
  assert.ok(String(secret).startsWith(String(prefix)));
  const as = { authorization: `Bearer ${String(secret)}` };
  assert.equal((await api.call('GET', '/vms', undefined, as)).status, 200);
  assert.ok(!(await api.call('GET', '/keys')).text.includes(String(secret)));
  assert.deepEqual((await api.call('DELETE', `/keys/${String(id)}`)).body, { status: 'deleted' });
  await api.refused('unauthorized', 'GET', '/vms', undefined, as);
});

test('a key makes no mightier one: operator keys and other accounts’ keys are the operator’s', async () => {
  const api = await testApi();
  const other = fields((await api.call('POST', '/accounts', { name: 'team-a', quotas: { vms: 2 } })).body);
  const admin = { authorization: `Bearer ${api.hatch.makeKey(['admin'])}` };
  const operator = { authorization: `Bearer ${api.hatch.makeKey(['operator'])}` };
  const mighty = { name: 'x', scopes: ['operator'] };
  const foreign = { name: 'x', scopes: ['read'], account_id: other['id'] };
  for (const body of [mighty, foreign]) {
    const { details } = await api.refused('forbidden', 'POST', '/keys', body, admin);
    assert.equal(details['scope'], 'operator');
    assert.equal((await api.call('POST', '/keys', body, operator)).status, 201);
  }
  assert.equal(
    (await api.call('POST', '/keys', { name: 'x', scopes: ['read', 'admin'] }, admin)).status,
    201,
  );
});

test('another account’s VM is not there, and everyone’s list is the operator’s', async () => {
  const api = await testApi();
  const other = api.hatch.accountRows[0]?.id;
  const mine = String(field((await api.call('POST', '/vms', { name: 'web' })).body, 'id'));
  await api.call('POST', '/accounts', { name: 'team-a' });
  const stranger = api.hatch.makeKey(['read', 'write'], api.hatch.accountRows.at(-1)?.id);
  const as = { authorization: `Bearer ${stranger}` };
  assert.notEqual(api.hatch.accountRows.at(-1)?.id, other);
  for (const id of [mine, 'web']) {
    await api.refused('not_found', 'GET', `/vms/${id}`, undefined, as);
    await api.refused('not_found', 'POST', `/vms/${id}/stop`, undefined, as);
    await api.refused('not_found', 'DELETE', `/vms/${id}`, undefined, as);
    await api.refused('not_found', 'GET', `/vms/${id}/user-data`, undefined, as);
  }
  assert.deepEqual((await api.call('GET', '/vms', undefined, as)).body, []);
  const { details } = await api.refused('forbidden', 'GET', '/vms?all=true', undefined, as);
  assert.equal(details['scope'], 'operator');
  await api.refused('forbidden', 'GET', '/events?all=true', undefined, as);
  assert.equal(field((await api.call('GET', '/vms?all=true')).body, 'length'), 1);
});

test('a template’s user data is shown to those who may write, and not in lists', async () => {
  const api = await testApi();
  const reader = { authorization: `Bearer ${api.hatch.makeKey(['read'])}` };
  await api.call('POST', '/templates', { name: 'web', user_data: '#!/bin/sh\necho hunter2' });
  assert.match((await api.call('GET', '/templates/tpl-web')).text, /hunter2/);
  assert.doesNotMatch((await api.call('GET', '/templates/tpl-web', undefined, reader)).text, /hunter2/);
  assert.doesNotMatch((await api.call('GET', '/templates')).text, /hunter2/);
});
