import assert from 'node:assert/strict';
import { test } from 'node:test';
import { field, testApi } from './test-client.ts';

test('half a surrogate pair is refused wherever it stands, and never kept as another text', async () => {
  const api = await testApi();
  const cases: readonly [url: string, json: string, named: string][] = [
    ['/vms', '{"labels":{"tier":"\\ud800"}}', 'labels.tier'],
    ['/vms', '{"labels":{"\\udc00":"x"}}', 'labels'],
    ['/vms', '{"user_data":"#!/bin/sh\\n\\ud83d"}', 'user_data'],
    ['/vms', '{"ssh_authorized_keys":["a","\\uDFFF"]}', 'ssh_authorized_keys.1'],
    ['/templates', '{"name":"t","description":"\\udc00\\ud83d"}', 'description'],
    ['/keys', '{"name":"\\ud800","scopes":["read"]}', 'name'],
    ['/vms/web/exec', '{"command":"cat","stdin":"a\\ud800b"}', 'stdin'],
    ['/vms', '"\\ud800"', ''],
    ['/vms', `{"labels":${'['.repeat(50_000)}"\\ud800"${']'.repeat(50_000)}}`, 'labels.0'],
  ];
  for (const [url, json, named] of cases) {
    const { error, details } = await api.refused('invalid_request', 'POST', url, json);
    assert.match(error, /half a surrogate pair/);
    assert.ok(String(details['field']).startsWith(named), error.slice(0, 300));
    assert.ok(error.length < 500);
  }
});

test('a whole surrogate pair, and a backslash before a u, are text as any other', async () => {
  const api = await testApi();
  const whole = await api.call('POST', '/vms', '{"labels":{"tier":"\\ud83d\\ude00 \\\\ud800"}}');
  assert.equal(whole.status, 201);
  assert.equal(field(whole.body, 'labels', 'tier'), '\u{1f600} \\ud800');
});
