import assert from 'node:assert/strict';
import { Readable } from 'node:stream';
import { test } from 'node:test';
import { fileName, type FileEntry } from '../model/saved-files.ts';
import type { Hatch } from '../ops/hatch.ts';
import { field, fields, testApi, type TestApi } from './test-client.ts';

const FACTS = {
  kind: 'file',
  sizeBytes: 6,
  mode: 0o644,
  uid: 0,
  gid: 0,
  modifiedAt: 0,
  target: null,
} as const;
const entry = (name: string | Uint8Array): FileEntry => ({
  ...FACTS,
  name: fileName(typeof name === 'string' ? Buffer.from(name) : name),
});

/** An API with a snapshot `golden`. */
async function withSnapshot(): Promise<TestApi> {
  const api = await testApi();
  await api.call('POST', '/vms', { name: 'web' });
  await api.call('POST', '/vms/web/snapshot', { name: 'golden' });
  return api;
}

test('a folder is listed page by page, from / when no path is said, and the VM stays asleep', async () => {
  const api = await withSnapshot();
  api.hatch.disk.entries = ['a', 'b', 'c'].map(entry);
  const all = await api.call('GET', '/snapshots/golden/files');
  assert.deepEqual(field(all.body, 0), {
    name: 'a',
    kind: 'file',
    size_bytes: 6,
    mode: '0644',
    uid: 0,
    gid: 0,
    modified_at: '1970-01-01T00:00:00Z',
  });
  assert.deepEqual([field(all.body, 'length'), all.headers['link']], [3, undefined]);
  const page = await api.call('GET', '/snapshots/golden/files?path=/etc&limit=2');
  assert.equal(page.headers['link'], '</snapshots/golden/files?path=%2Fetc&limit=2&after=2>; rel="next"');
  const last = await api.call('GET', '/snapshots/golden/files?path=%2Fetc&limit=2&after=2');
  assert.deepEqual([field(last.body, 0, 'name'), last.headers['link']], ['c', undefined]);
  assert.deepEqual(api.hatch.disk.asked, [
    { path: '/', limit: 100, after: undefined },
    { path: '/etc', limit: 2, after: undefined },
    { path: '/etc', limit: 2, after: '2' },
  ]);
  assert.equal(field((await api.call('GET', '/vms/web')).body, 'state'), 'snapshotted');
});

test('a name that is not UTF-8 is shown with its bytes, and asked for by them', async () => {
  const api = await withSnapshot();
  api.hatch.disk.entries = [entry(Buffer.from([0x61, 0xff]))];
  const { body } = await api.call('GET', '/snapshots/golden/files?path_base64=L2V0Yw%3D%3D');
  assert.equal(field(body, 0, 'name_base64'), Buffer.from([0x61, 0xff]).toString('base64'));
  assert.deepEqual(api.hatch.disk.asked, [{ path: Buffer.from('/etc'), limit: 100, after: undefined }]);
});

test('a file is answered as it is, to be kept and not shown, and a HEAD tells its size only', async () => {
  const api = await withSnapshot();
  api.hatch.disk.contents.set('/etc/motd', Buffer.from('<script>'));
  const url = '/snapshots/golden/files/content?path=/etc/motd';
  const answer = await api.call('GET', url);
  assert.deepEqual([answer.status, answer.text], [200, '<script>']);
  assert.deepEqual(
    ['content-type', 'content-length', 'content-disposition', 'x-content-type-options'].map(
      (name) => answer.headers[name],
    ),
    ['application/octet-stream', '8', 'attachment', 'nosniff'],
  );
  const head = await api.call('HEAD', url);
  assert.deepEqual([head.status, head.text, head.headers['content-length']], [200, '', '8']);
  assert.equal(api.hatch.disk.open.size, 0, 'nothing stays open');
  await api.refused('not_found', 'GET', '/snapshots/golden/files/content?path=/none');
});

/** Lets every file begin with a byte and then be as `then` makes it; gives what resolves when it is let go of. */
function unfinished(api: TestApi, then: (content: Readable) => void): Promise<void> {
  const gone = Promise.withResolvers<void>();
  const readFile: Hatch['snapshots']['readFile'] = async (_caller, _id, _path, signal) => {
    const content = new Readable({ read: () => undefined });
    content.push('x');
    content.once('close', () => gone.resolve());
    signal.addEventListener('abort', () => content.destroy(), { once: true });
    then(content);
    return { facts: FACTS, sizeBytes: 1000, content };
  };
  Object.assign(api.hatch.snapshots, { readFile });
  return gone.promise;
}

test('a caller who hangs up ends the reading of a file', async (t) => {
  const api = await withSnapshot();
  const gone = unfinished(api, () => undefined);
  const url = await api.app.listen({ host: '127.0.0.1', port: 0 });
  t.after(() => api.app.close());
  const stop = new AbortController();
  const answer = await fetch(`${url}/snapshots/golden/files/content?path=/x`, {
    headers: { authorization: `Bearer ${api.key}` },
    signal: stop.signal,
  });
  assert.equal(answer.status, 200);
  stop.abort();
  await gone;
  assert.ok(!api.logged.some(({ level }) => level === 'warn' || level === 'error'));
});

test('a file that cannot be read to its end is cut off, and the log says why', async (t) => {
  const api = await withSnapshot();
  const gone = unfinished(api, (content) => setImmediate(() => content.destroy(new Error('a pack is gone'))));
  const url = await api.app.listen({ host: '127.0.0.1', port: 0 });
  t.after(() => api.app.close());
  const whole = async (): Promise<string> => {
    const answer = await fetch(`${url}/snapshots/golden/files/content?path=/x`, {
      headers: { authorization: `Bearer ${api.key}` },
    });
    return answer.text();
  };
  await assert.rejects(whole());
  await gone;
  const line = api.logged.find(({ level }) => level === 'warn');
  assert.match(JSON.stringify(line), /golden.*a pack is gone/);
});

test('two snapshots are compared from a path on, and it is told when there is more', async () => {
  const api = await withSnapshot();
  await api.call('POST', '/vms/web/restore');
  await api.call('POST', '/vms/web/snapshot', { name: 'later' });
  api.hatch.disk.changes = [
    { path: fileName(Buffer.from('/a')), change: 'added', differences: [], before: null, after: FACTS },
    {
      path: fileName(Buffer.from('/b')),
      change: 'changed',
      differences: ['mode'],
      before: FACTS,
      after: { ...FACTS, mode: 0o4755 },
    },
  ];
  const all = await api.call('GET', '/snapshots/golden/diff/later');
  assert.deepEqual(
    [0, 1].map((at) => [field(all.body, 'changes', at, 'path'), field(all.body, 'changes', at, 'change')]),
    [
      ['/a', 'added'],
      ['/b', 'changed'],
    ],
  );
  assert.equal(field(all.body, 'changes', 1, 'after', 'mode'), '4755');
  assert.ok(!Object.hasOwn(fields(field(all.body, 'changes', 0)), 'before'));
  assert.equal(field(all.body, 'truncated'), false);
  const one = await api.call('GET', '/snapshots/golden/diff/later?path=/etc&limit=1');
  assert.deepEqual([field(one.body, 'changes', 'length'), field(one.body, 'truncated')], [1, true]);
  assert.deepEqual(api.hatch.disk.asked, [
    { path: '/', limit: 1000 },
    { path: '/etc', limit: 1 },
  ]);
});

test('a snapshot that is not there, or another account’s, cannot be looked into', async () => {
  const api = await withSnapshot();
  api.hatch.disk.contents.set('/x', Buffer.from('secret'));
  await api.call('POST', '/accounts', { name: 'team-a' });
  const as = { authorization: `Bearer ${api.hatch.makeKey(['read'], api.hatch.accountRows.at(-1)?.id)}` };
  for (const [id, headers] of [
    ['golden', as],
    ['none', {}],
  ] as const)
    for (const rest of ['files', 'files/content?path=/x', `diff/${id}`])
      await api.refused('not_found', 'GET', `/snapshots/${id}/${rest}`, undefined, headers);
  await api.refused('not_found', 'GET', '/snapshots/golden/diff/none');
});

test('wrong parameters are named with their limit', async () => {
  const api = await withSnapshot();
  const cases: readonly [rest: string, named: string, says: RegExp][] = [
    ['files?path=etc', 'path', /an absolute path/],
    ['files?path=/a%00b', 'path', /an absolute path/],
    [`files?path=/${'a'.repeat(4096)}`, 'path', /at most 4096/],
    ['files?path_base64=a', 'path_base64', /base64 with its padding/],
    ['files?path=/&path_base64=Lw%3D%3D', 'path', /not both/],
    ['files?limit=0', 'limit', /from 1 to 1000/],
    ['files?limit=1001', 'limit', /from 1 to 1000/],
    ['files?after=snap-abc123def456', 'after', /the `Link` header of an earlier page/],
    ['files?pth=/', 'pth', /Did you mean "path"\?/],
    ['files/content', 'path', /"path" is missing/],
    ['files/content?path=motd', 'path', /an absolute path/],
    ['files/content?path=/a&limit=1', 'limit', /Unknown query parameter/],
    ['diff/golden?limit=10001', 'limit', /from 1 to 10000/],
    ['diff/golden?path=x', 'path', /an absolute path/],
    ['diff/Golden', 'other', /"other" in the path must be a snapshot’s id/],
  ];
  for (const [rest, named, says] of cases) {
    const { error, details } = await api.refused('invalid_request', 'GET', `/snapshots/golden/${rest}`);
    assert.equal(details['field'], named, error);
    assert.match(error, says);
  }
  assert.deepEqual(api.hatch.disk.asked, []);
});

test('the description says that a file is answered as bytes', async () => {
  const api = await testApi();
  const doc = (await api.call('GET', '/openapi.json')).body;
  const answers = field(doc, 'paths', '/snapshots/{id}/files/content', 'get', 'responses');
  assert.deepEqual(Object.keys(fields(field(answers, '200', 'content'))), ['application/octet-stream']);
  assert.ok(Object.hasOwn(fields(answers), '504'));
  const diff = field(doc, 'paths', '/snapshots/{id}/diff/{other}', 'get', 'responses');
  assert.ok(Object.hasOwn(fields(diff), '413'));
});
