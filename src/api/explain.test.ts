import assert from 'node:assert/strict';
import { test } from 'node:test';
import { testApi } from './test-client.ts';

/** More entries than the validator names one by one. */
const many = (prefix: string): Record<string, string> =>
  Object.fromEntries(Array.from({ length: 30 }, (_, i) => [`${prefix}${i}`, 'x']));

test('the first of very many unknown fields is named, wherever they stand', async () => {
  const api = await testApi();
  const cases: readonly [method: 'GET' | 'POST', url: string, body: unknown, named: string, says: RegExp][] =
    [
      ['POST', '/vms', many('x'), 'x0', /^Unknown field "x0"\. Known here: name, image_id/],
      ['POST', '/vms', { idle: many('x') }, 'idle.x0', /^Unknown field "idle\.x0"\. Known here: timeout/],
      [
        'POST',
        '/vms',
        { labels: many('/~') },
        'labels./~0',
        /has a key "\/~0" that is not allowed: keys are/,
      ],
      ['GET', `/vms?${new URLSearchParams(many('x')).toString()}`, undefined, 'x0', /query parameter "x0"/],
    ];
  for (const [method, url, body, named, says] of cases) {
    const { error, details } = await api.refused('invalid_request', method, url, body);
    assert.equal(details['field'], named, error);
    assert.match(error, says);
  }
});

test('a list that is wrong throughout is told by the rule of its field, as one wrong entry is', async () => {
  const api = await testApi();
  for (const length of [1, 30]) {
    const command = Array.from({ length }, () => 5);
    const { error, details } = await api.refused('invalid_request', 'POST', '/vms/web/exec', { command });
    assert.equal(details['field'], 'command', error);
    assert.match(error, /must be a line for the shell .* or a program and its arguments/);
  }
});
