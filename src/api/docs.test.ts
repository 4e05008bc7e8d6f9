import assert from 'node:assert/strict';
import { test } from 'node:test';
import { SCHEMAS } from '../contract/schemas.ts';
import { field, fields, testApi } from './test-client.ts';

/** Every value inside a JSON document, with the way to it. */
function* walk(
  value: unknown,
  path: readonly string[] = [],
): Generator<readonly [readonly string[], unknown]> {
  yield [path, value];
  if (typeof value !== 'object' || value === null) return;
  for (const [key, inner] of Object.entries(value)) yield* walk(inner, [...path, key]);
}

async function description(): Promise<unknown> {
  const api = await testApi();
  const answer = await api.call('GET', '/openapi.json');
  assert.equal(answer.status, 200);
  return answer.body;
}

test('the description is OpenAPI 3.1 for this very server', async () => {
  const doc = await description();
  assert.match(String(field(doc, 'openapi')), /^3\.1\./);
  assert.deepEqual([field(doc, 'info', 'title'), field(doc, 'info', 'version')], ['Hatch', '1.2.3']);
  assert.equal(field(doc, 'servers', 0, 'url'), '/');
  assert.deepEqual(Object.keys(fields(field(doc, 'components', 'securitySchemes'))), ['bearer', 'apiKey']);
});

test('every call has its own operation id, a tag, a summary, and answers that are described', async () => {
  const doc = await description();
  const known = new Set<unknown>();
  const tags = (Array.isArray(field(doc, 'tags')) ? Object.values(fields(field(doc, 'tags'))) : []).map(
    (tag) => field(tag, 'name'),
  );
  for (const [url, methods] of Object.entries(fields(field(doc, 'paths'))))
    for (const [method, call] of Object.entries(fields(methods))) {
      const name = `${method} ${url}`;
      const id = field(call, 'operationId');
      assert.ok(typeof id === 'string' && !known.has(id), `${name}: ${String(id)}`);
      known.add(id);
      assert.ok(tags.includes(field(call, 'tags', 0)), name);
      assert.ok(typeof field(call, 'summary') === 'string', name);
      const answers = fields(field(call, 'responses'));
      assert.ok(
        Object.keys(answers).some((status) => status.startsWith('2')),
        name,
      );
      for (const [status, answer] of Object.entries(answers)) {
        assert.ok(String(field(answer, 'description')).length > 0, `${name} ${status}`);
        if (!status.startsWith('2'))
          assert.equal(
            field(answer, 'content', 'application/json', 'schema', '$ref'),
            '#/components/schemas/Error',
            `${name} ${status}`,
          );
      }
      assert.ok(Object.hasOwn(answers, '500') && Object.hasOwn(answers, '400'), name);
      const open = ['/healthz', '/readyz'].includes(url);
      assert.equal(Object.hasOwn(answers, '401'), !open, name);
      for (const parameter of [...url.matchAll(/\{(\w+)\}/g)].map((match) => match[1]))
        assert.ok(
          Object.values(fields(field(call, 'parameters'))).some(
            (each) => field(each, 'in') === 'path' && field(each, 'name') === parameter,
          ),
          name,
        );
    }
});

test('schemas go by their names, every reference leads somewhere, and no private keyword is left', async () => {
  const doc = await description();
  const named = fields(field(doc, 'components', 'schemas'));
  assert.deepEqual(Object.keys(named).sort(), SCHEMAS.map((schema) => String(field(schema, '$id'))).sort());
  let references = 0;
  for (const [path, value] of walk(doc)) {
    const key = path.at(-1) ?? '';
    if (key === '$ref') {
      references++;
      assert.ok(Object.hasOwn(named, String(value).replace('#/components/schemas/', '')), String(value));
    }
    assert.ok(!key.startsWith('~') && key !== '$id', path.join('/'));
  }
  assert.ok(references > 100);
  assert.equal(
    field(doc, 'paths', '/vms', 'post', 'requestBody', 'content', 'application/json', 'schema', '$ref'),
    '#/components/schemas/CreateVm',
  );
  assert.equal(
    field(
      doc,
      'paths',
      '/vms',
      'get',
      'responses',
      '200',
      'content',
      'application/json',
      'schema',
      'items',
      '$ref',
    ),
    '#/components/schemas/Vm',
  );
  assert.equal(field(named['CreateVm'], 'properties', 'vcpu_count', 'maximum'), 32);
});

test('no answer may have a field its schema does not know, but where it holds what is not known before', async () => {
  const doc = await description();
  const named = fields(field(doc, 'components', 'schemas'));
  const asked = /^(?:Create|Patch|ExecVm|ForkVm|LeaseVm|NoFields|RestoreVm|SimulateIdle|SnapshotVm|StopVm)/;
  const open: string[] = [];
  for (const [name, schema] of Object.entries(named))
    if (!asked.test(name))
      for (const [path, node] of walk(schema, [name]))
        if (field(node, 'type') === 'object' && field(node, 'additionalProperties') !== false)
          open.push(path.join('.'));
  assert.deepEqual(open.sort(), [
    'Error.properties.details',
    'Event.properties.data',
    'Template.properties.labels',
    'Vm.properties.labels',
    'VmWhy.properties.events.items.properties.data',
    'VmWhy.properties.now.properties.signals',
  ]);
});

test('a stream of events is described beside the list', async () => {
  const doc = await description();
  for (const url of ['/events', '/vms/{id}/events'])
    assert.deepEqual(Object.keys(fields(field(doc, 'paths', url, 'get', 'responses', '200', 'content'))), [
      'application/json',
      'text/event-stream',
    ]);
});

test('a body that may be left out is described so', async () => {
  const doc = await description();
  const required = (url: string): unknown => field(doc, 'paths', url, 'post', 'requestBody', 'required');
  assert.deepEqual(['/vms', '/vms/{id}/stop', '/vms/{id}/start'].map(required), [false, false, false]);
  assert.deepEqual(['/vms/{id}/exec', '/keys', '/images'].map(required), [true, true, true]);
});

test('what labels and variables may be called is described, beside what they may hold', async () => {
  const doc = await description();
  const named = (schema: string, property: string): ((name: string) => boolean) => {
    const node = field(doc, 'components', 'schemas', schema, 'properties', property);
    assert.equal(field(node, 'additionalProperties', 'type'), 'string');
    const pattern = new RegExp(String(field(node, 'propertyNames', 'pattern')));
    return (name) => pattern.test(name);
  };
  for (const schema of ['CreateVm', 'PatchVm', 'CreateTemplate', 'Vm'])
    assert.deepEqual(['a/b', 'a b', '-a', ''].map(named(schema, 'labels')), [true, false, false, false]);
  assert.deepEqual(['A_1', 'A-B', '1A'].map(named('ExecVm', 'env')), [true, false, false]);
});

test('how a wait, a full disk and a stopping server are answered is described', async () => {
  const doc = await description();
  const described = (method: string, url: string): string[] =>
    Object.keys(fields(field(doc, 'paths', url, method, 'responses')));
  for (const status of ['404', '409', '504'])
    for (const [method, url] of [
      ['post', '/vms'],
      ['get', '/vms/{id}'],
      ['post', '/vms/{id}/start'],
    ] as const)
      assert.ok(described(method, url).includes(status), `${method} ${url} ${status}`);
  for (const [url, calls] of Object.entries(fields(field(doc, 'paths'))))
    for (const method of Object.keys(fields(calls))) {
      assert.ok(described(method, url).includes('503'), `${method} ${url}`);
      // A snapshot that is exported is packed on the host's disk first, and a VM may be woken to read a file of it.
      const writes = method !== 'get' || ['/snapshots/{id}/export', '/vms/{id}/files'].includes(url);
      assert.equal(described(method, url).includes('507'), writes, `${method} ${url}`);
    }
});

test('text answers are described as text', async () => {
  const doc = await description();
  for (const url of ['/vms/{id}/console', '/vms/{id}/user-data'])
    assert.deepEqual(Object.keys(fields(field(doc, 'paths', url, 'get', 'responses', '200', 'content'))), [
      'text/plain',
    ]);
});

test('the page, its scripts and its styles come from this server alone', async () => {
  const api = await testApi();
  assert.match((await api.app.inject({ url: '/docs' })).body, /src="\/docs\/static/);
  const page = await api.app.inject({ url: '/docs/' });
  assert.equal(page.statusCode, 200);
  assert.match(String(page.headers['content-type']), /^text\/html/);
  const policy = String(page.headers['content-security-policy']);
  assert.match(policy, /default-src 'none'/);
  assert.doesNotMatch(policy, /https?:|unsafe-eval|upgrade-insecure|validator/);
  assert.doesNotMatch(page.body, /(?:src|href)="(?:https?:)?\/\//);
  assert.doesNotMatch(page.body, /<script>[^<]/, 'no inline script, which the policy would stop');
  const parts = [...page.body.matchAll(/(?:src|href)="([^"]+)"/g)].map((match) => match[1] ?? '');
  assert.ok(parts.length >= 4);
  for (const part of parts) {
    const url = new URL(part, 'http://hatch/docs/').pathname;
    const answer = await api.app.inject({ url });
    assert.equal(answer.statusCode, 200, url);
  }
  const start = await api.app.inject({ url: '/docs/static/swagger-initializer.js' });
  assert.match(start.body, /validatorUrl: null/);
  assert.equal((await api.app.inject({ url: '/docs/json' })).statusCode, 200);
});
