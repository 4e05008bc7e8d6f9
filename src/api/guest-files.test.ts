import assert from 'node:assert/strict';
import { request } from 'node:http';
import { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { test, type TestContext } from 'node:test';
import { FakeClock, systemClock, type Clock } from '../base/clock.ts';
import { until } from '../base/until.ts';
import { ApiError, HatchClient, Unreachable } from '../clients/http.ts';
import { Failure } from '../model/failure.ts';
import { field, testApi, type TestApi } from './test-client.ts';

const BYTES = { 'content-type': 'application/octet-stream' };
const PATIENCE = { clock: systemClock, signal: AbortSignal.timeout(20_000) };

async function withVm(clock: Clock = new FakeClock(Date.now())): Promise<TestApi> {
  const api = await testApi(clock);
  await api.call('POST', '/vms', { name: 'web' });
  return api;
}

/** A client of the API over a socket. */
async function listening(
  t: TestContext,
): Promise<TestApi & { readonly client: HatchClient; readonly url: string }> {
  const api = await withVm(systemClock);
  const url = await api.app.listen({ host: '127.0.0.1', port: 0 });
  t.after(() => api.app.close());
  const client = new HatchClient({ url, apiKey: api.key });
  t.after(() => client.close());
  return { ...api, client, url };
}

test('a file that is put is got again, with what it is in the headers', async () => {
  const api = await withVm();
  const large = Buffer.alloc(3 * 1024 * 1024, 'more than a body may have otherwise');
  const url = '/vms/web/files?path=/etc/motd&mode=4755&owner=1000&group=50&parents=true';
  const put = await api.call('PUT', url, large, BYTES);
  assert.equal(put.status, 200, put.text);
  assert.deepEqual(
    ['kind', 'size_bytes', 'mode', 'uid', 'gid'].map((name) => field(put.body, name)),
    ['file', large.length, '4755', 1000, 50],
  );
  const { visitor, ...written } = api.hatch.inside.written[0] ?? assert.fail();
  assert.deepEqual(written, { path: '/etc/motd', mode: 0o4755, owner: '1000', group: '50', parents: true });
  assert.equal(visitor, undefined);
  for (const method of ['GET', 'HEAD'] as const) {
    const got = await api.call(method, '/vms/web/files?path=/etc/motd');
    assert.equal(got.status, 200);
    assert.equal(got.text, method === 'HEAD' ? '' : large.toString());
    const { headers } = got;
    assert.deepEqual(
      ['content-type', 'content-length', 'hatch-file-mode', 'hatch-file-uid', 'hatch-file-gid'].map((name) =>
        String(headers[name]),
      ),
      ['application/octet-stream', String(large.length), '4755', '1000', '50'],
    );
    assert.equal(headers['content-disposition'], 'attachment');
    assert.ok(Math.abs(Date.parse(String(headers['last-modified'])) - Date.now()) < 10_000);
  }
});

test('bytes are taken whatever they are said to be, and none are an empty file; a form is refused', async () => {
  const api = await withVm();
  const url = '/vms/web/files?path=/tmp/a';
  for (const type of ['application/json', 'text/plain; charset=utf-8', 'image/png']) {
    assert.equal((await api.call('PUT', url, '{"a":', { 'content-type': type })).status, 200, type);
    assert.equal((await api.call('GET', url)).text, '{"a":');
  }
  // As curl -T sends it.
  const { statusCode } = await api.app.inject({
    method: 'PUT',
    url,
    headers: { authorization: `Bearer ${api.key}`, 'transfer-encoding': 'chunked' },
    payload: Readable.from([Buffer.from('bare')]),
  });
  assert.equal(statusCode, 200);
  assert.equal((await api.call('GET', url)).text, 'bare');
  assert.equal((await api.call('PUT', url)).status, 200);
  assert.equal((await api.call('GET', url)).text, '');
  const form = { 'content-type': 'multipart/form-data; boundary=x' };
  const { error } = await api.refused('unsupported_media_type', 'PUT', url, 'x', form);
  assert.match(error, /curl -T/);
});

test('what no file can be called, and what no mode or owner is, is refused by name before anything is asked', async () => {
  const api = await withVm();
  const wrong: readonly (readonly [query: string, named: string, says: RegExp])[] = [
    ['', 'path', /"path" is required/],
    ['path=', 'path', /may not be empty/],
    ['path=etc/motd', 'path', /absolute path of at most 4095 bytes/],
    ['path=/a%00b', 'path', /absolute path/],
    [`path=/${'a'.repeat(4095)}`, 'path', /at most 4095/],
    [`path=/${'é'.repeat(2048)}`, 'path', /at most 4095 bytes/],
    ['path=/etc/', 'path', /must name a file/],
    ['path=/a&mode=rw', 'mode', /octal, such as 0644/],
    ['path=/a&mode=10000', 'mode', /octal/],
    ['path=/a&mode=9', 'mode', /octal/],
    ['path=/a&owner=-1', 'owner', /a name or a number/],
    ['path=/a&owner=a:b', 'owner', /a name or a number/],
    ['path=/a&group=$(id)', 'group', /a name or a number/],
    ['path=/a&parents=yes', 'parents', /true or false/],
    ['path=/a&wake=1', 'wake', /true or false/],
    ['path=/a&modes=1', 'modes', /Did you mean "mode"/],
  ];
  for (const [query, named, says] of wrong) {
    const { error, details } = await api.refused(
      'invalid_request',
      'PUT',
      `/vms/web/files?${query}`,
      'x',
      BYTES,
    );
    assert.equal(details['field'], named, error);
    assert.match(error, says);
  }
  for (const query of ['path=etc', 'path=/etc/', 'mode=0644&path=/a'])
    await api.refused('invalid_request', 'GET', `/vms/web/files?${query}`);
  assert.equal(api.hatch.inside.written.length, 0);
});

test('who may only read is not let into a guest, and another account sees none', async () => {
  const api = await withVm();
  const reader = { authorization: `Bearer ${api.hatch.makeKey(['read'])}` };
  await api.refused('forbidden', 'GET', '/vms/web/files?path=/etc/motd', undefined, reader);
  await api.refused('forbidden', 'PUT', '/vms/web/files?path=/etc/motd', 'x', { ...BYTES, ...reader });
  await api.call('POST', '/accounts', { name: 'team-a' });
  const key = api.hatch.makeKey(['write'], api.hatch.accountRows.at(-1)?.id);
  const stranger = { authorization: `Bearer ${key}` };
  await api.refused('not_found', 'GET', '/vms/web/files?path=/etc/motd', undefined, stranger);
});

test('a file that is not there, and a VM that does not run, are told apart, and a wake is asked for as told', async () => {
  const api = await withVm();
  await api.refused('not_found', 'GET', '/vms/web/files?path=/etc/none');
  await api.call('PUT', '/vms/web/files?path=/a&wake=true', 'x', BYTES);
  assert.deepEqual(api.hatch.inside.written[0]?.visitor, { by: 'file', from: '127.0.0.1' });
  await api.call('POST', '/vms/web/stop', {});
  await api.refused('wrong_state', 'GET', '/vms/web/files?path=/a');
  await api.refused('wrong_state', 'PUT', '/vms/web/files?path=/a', 'x', BYTES);
});

test('a client reads and writes files as streams, texts and bytes', async (t) => {
  const { client, hatch } = await listening(t);
  const parts = ['one', ' two', ' three'].map((part) => Buffer.from(part));
  const facts = await client.vms.writeFile('web', '/srv/a b', Readable.from(parts), { mode: '0600' });
  assert.deepEqual([facts.size_bytes, facts.mode], [13, '0600']);
  const file = await client.vms.readFile('web', '/srv/a b');
  assert.deepEqual([file.size_bytes, file.mode, file.uid, file.gid], [13, '0600', 0, 0]);
  assert.ok(Math.abs(file.modified_at.getTime() - Date.now()) < 10_000);
  assert.equal((await buffer(file.content)).toString(), 'one two three');
  await client.vms.writeFile('web', '/srv/text', 'é');
  assert.equal((await buffer((await client.vms.readFile('web', '/srv/text')).content)).toString(), 'é');
  assert.equal((await client.vms.writeFile('web', '/srv/none', new Uint8Array())).size_bytes, 0);
  // As one of /proc, which does not know its size.
  for (const [key, { facts: known, bytes }] of hatch.inside.files)
    hatch.inside.files.set(key, { bytes, facts: { ...known, sizeBytes: 0 } });
  const proc = await client.vms.readFile('web', '/srv/text');
  assert.equal(proc.size_bytes, undefined);
  assert.equal((await buffer(proc.content)).toString(), 'é');
  await assert.rejects(
    client.vms.readFile('web', '/srv/nothing'),
    (error) => error instanceof ApiError && error.code === 'not_found',
  );
});

test('who hangs up in the middle of an upload ends it, and nothing is written', async (t) => {
  const { hatch, url, key } = await listening(t);
  const sent = request(`${url}/vms/web/files?path=/srv/half`, {
    method: 'PUT',
    headers: { authorization: `Bearer ${key}`, ...BYTES, 'content-length': '1000000' },
  });
  sent.on('error', () => undefined);
  sent.write('half');
  await until(PATIENCE, () => (hatch.inside.written.length > 0 ? true : undefined));
  sent.destroy();
  await until(PATIENCE, () => (hatch.inside.givenUp.length > 0 ? true : undefined));
  assert.equal(hatch.inside.files.size, 0);
});

test('who is refused in the middle of a file that was sent already asks on over the same connection', async (t) => {
  const { client, hatch } = await listening(t);
  Object.assign(hatch.vms, {
    writeFile: async (_caller, _vm, _file, source) => {
      for await (const piece of source) throw new Failure('no_space', `Full after ${piece.length} bytes.`);
      return assert.fail('nothing came');
    },
  } satisfies Partial<typeof hatch.vms>);
  for (let round = 0; round < 3; round++) {
    await assert.rejects(
      client.vms.writeFile('web', '/srv/a', Buffer.alloc(3 * 1024 * 1024)),
      (error) => error instanceof ApiError && error.code === 'no_space',
    );
    assert.equal((await client.vms.list()).length, 1);
  }
});

test('a download that breaks off is seen to, and one nobody takes is let go', async (t) => {
  const { client, hatch, logged } = await listening(t);
  await client.vms.writeFile('web', '/srv/a', 'x');
  const whole = hatch.vms.readFile.bind(hatch.vms);
  let read = 0;
  let isLetGo = false;
  const answerWith = (content: () => Readable): void => {
    Object.assign(hatch.vms, {
      readFile: async (...asked: Parameters<typeof whole>) => ({
        ...(await whole(...asked)),
        sizeBytes: 1_000_000_000,
        content: content(),
      }),
    });
  };
  answerWith(() =>
    Readable.from(
      (async function* () {
        yield Buffer.from('begun');
        throw new Error('the guest has ended');
      })(),
    ),
  );
  const broken = await client.vms.readFile('web', '/srv/a');
  await assert.rejects(buffer(broken.content), Unreachable);
  assert.ok(logged.some(({ message }) => /broke off/.test(message)));

  answerWith(() => {
    const content = new Readable({
      read() {
        read += 1;
        content.push(Buffer.alloc(64 * 1024));
      },
    });
    content.once('close', () => (isLetGo = true));
    return content;
  });
  const stop = new AbortController();
  const { content } = await client.vms.readFile('web', '/srv/a', { signal: stop.signal });
  for await (const piece of content) {
    assert.ok(piece.length > 0);
    break;
  }
  await until(PATIENCE, () => (isLetGo ? true : undefined));
  // What the sockets between hold is all that was read: the rest of a gigabyte was never asked for.
  assert.ok(read < 1000, `${read} pieces`);
});
