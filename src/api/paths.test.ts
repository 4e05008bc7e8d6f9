import assert from 'node:assert/strict';
import { test } from 'node:test';
import { testApi } from './test-client.ts';

test('what no route takes is refused before its body is looked at', async () => {
  const api = await testApi();
  const text = { 'content-type': 'text/plain' };
  await api.refused('not_found', 'POST', '/nowhere', '{ broken');
  await api.refused('not_found', 'POST', '/nowhere', 'x', text);
  await api.refused('not_found', 'POST', '/nowhere', 'x'.repeat(2 * 1024 * 1024));
  await api.refused('method_not_allowed', 'PATCH', '/vms', '{ broken');
  await api.refused('method_not_allowed', 'DELETE', '/vms', 'x', text);
});

test('a method the web server knows and we do not is 405, with a body or without one', async () => {
  const api = await testApi();
  // QUERY needs a Content-Type by its own rules; it is not for us to ask for one.
  for (const body of [undefined, {}]) {
    const { error } = await api.refused('method_not_allowed', 'QUERY', '/vms', body);
    assert.match(error, /^QUERY is not possible here; GET, HEAD, POST are\.$/);
    await api.refused('not_found', 'QUERY', '/nowhere', body);
  }
});

test('beside the files of the documentation there is nothing, and nothing above them', async () => {
  const api = await testApi();
  for (const path of ['nope.js', '../../package.json', '%2e%2e/%2e%2e/package.json', '%00', 'a'.repeat(600)])
    await api.refused('not_found', 'GET', `/docs/static/${path}`);
  assert.deepEqual(
    api.logged.filter(({ level }) => level === 'error'),
    [],
  );
  assert.equal((await api.call('GET', '/docs/static/swagger-ui.css')).status, 200);
});

test('a path that is no URL is told so, whatever is wrong with it', async () => {
  const api = await testApi();
  for (const url of ['/vms/%', '/vms/%zz', '/vms/%ff', '/nowhere/%c3%28'])
    assert.match(
      (await api.refused('invalid_request', 'GET', url)).error,
      /every % must be followed by two hex digits, and what they spell must be UTF-8/,
    );
});
