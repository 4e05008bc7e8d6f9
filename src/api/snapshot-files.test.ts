import assert from 'node:assert/strict';
import { once } from 'node:events';
import { request, type ClientRequest, type IncomingMessage } from 'node:http';
import { text } from 'node:stream/consumers';
import { test, type TestContext } from 'node:test';
import { FakeClock, systemClock } from '../base/clock.ts';
import { until } from '../base/until.ts';
import { ApiError, HatchClient } from '../clients/http.ts';
import { ERRORS } from '../contract/errors.ts';
import { Failure } from '../model/failure.ts';
import { field, testApi, type TestApi } from './test-client.ts';

const KEY = 'c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3I=';
async function withSnapshot(clock = new FakeClock()): Promise<TestApi & { readonly time: FakeClock }> {
  const api = await testApi(clock);
  await api.call('POST', '/vms', { name: 'web' });
  await api.call('POST', '/vms/web/snapshot', { name: 'golden', keep_running: true });
  return { ...api, time: clock };
}

const upload = (headers: Record<string, string> = {}) => ({
  'content-type': 'application/octet-stream',
  ...headers,
});

test('an export is the file as it comes, under the snapshot’s name, and its key is in no log', async () => {
  const api = await withSnapshot();
  const answer = await api.call('GET', '/snapshots/golden/export', undefined, { 'hatch-snapshot-key': KEY });
  assert.equal(answer.status, 200);
  assert.equal(answer.headers['content-type'], 'application/octet-stream');
  assert.equal(answer.headers['content-disposition'], 'attachment; filename="golden.hatch"');
  assert.equal(answer.text, 'a snapshot');
  await api.call('GET', '/snapshots/golden/export?plain=true');
  assert.deepEqual(api.hatch.disk.asked, [
    { key: KEY, plain: false },
    { key: undefined, plain: true },
  ]);
  await api.refused('not_found', 'GET', '/snapshots/none/export', undefined, { 'hatch-snapshot-key': KEY });
  await api.refused('invalid_request', 'GET', '/snapshots/golden/export?key=1');
  const wrong = Buffer.from('another');
  await api.refused(
    'invalid_request',
    'POST',
    '/snapshots/import',
    wrong,
    upload({ 'hatch-snapshot-key': KEY }),
  );
  assert.ok(api.logged.length > 4);
  assert.ok(!JSON.stringify(api.logged).includes(KEY));
});

test('an import answers with the snapshot, the VM that sleeps as it, and what keeps it from waking', async () => {
  const api = await withSnapshot();
  api.hatch.disk.file = Buffer.alloc(3 * 1024 * 1024, 'more than a body may have otherwise');
  const answer = await api.call('POST', '/snapshots/import?name=far', api.hatch.disk.file, upload());
  assert.equal(answer.status, 201, answer.text);
  assert.deepEqual(
    [field(answer.body, 'name'), field(answer.body, 'differences')],
    ['far', ['it is another']],
  );
  assert.equal(answer.headers['location'], `/snapshots/${String(field(answer.body, 'id'))}`);
  await api.refused('already_exists', 'POST', '/snapshots/import?name=far', api.hatch.disk.file, upload());
  const { details } = await api.refused(
    'invalid_request',
    'POST',
    '/snapshots/import?name=Far',
    'x',
    upload(),
  );
  assert.equal(details['field'], 'name');
});

test('a file is taken where files belong, and nowhere else', async () => {
  const api = await withSnapshot();
  for (const type of ['application/json', 'text/plain', 'application/x-tar'])
    await api.refused('unsupported_media_type', 'POST', '/snapshots/import', '{}', { 'content-type': type });
  await api.refused('unsupported_media_type', 'POST', '/snapshots/import');
  await api.refused('unsupported_media_type', 'POST', '/vms', '{}', upload());
});

/** A request on a socket of its own that is sent piece by piece. */
async function slowly(
  t: TestContext,
  api: TestApi,
  path: string,
  headers: Record<string, string>,
): Promise<{ readonly sent: ClientRequest; readonly answer: Promise<IncomingMessage> }> {
  await api.app.listen({ host: '127.0.0.1', port: 0 });
  t.after(() => api.app.close());
  const address = api.app.server.address();
  assert.ok(typeof address === 'object' && address !== null);
  const sent = request({
    host: '127.0.0.1',
    port: address.port,
    method: 'POST',
    path,
    headers: { authorization: `Bearer ${api.key}`, ...headers },
  });
  sent.on('error', () => undefined);
  const answer = once(sent, 'response').then(([message]: unknown[]) => message as IncomingMessage);
  return { sent, answer };
}

/** The API's clock, moved on by so many seconds once somebody sleeps by it and `ready` says so. */
async function pass(time: FakeClock, seconds: number, ready = () => true): Promise<void> {
  const patience = { clock: systemClock, signal: AbortSignal.timeout(20_000) };
  await until(patience, () => (time.sleepers > 0 && ready() ? true : undefined));
  await time.advance(seconds * 1000);
}

test('an upload may take as long as it flows', async (t) => {
  const api = await withSnapshot();
  const pieces = ['one', ' two', ' three'];
  api.hatch.disk.file = Buffer.from(pieces.join(''));
  const take = api.hatch.snapshots.import.bind(api.hatch.snapshots);
  let came = 0;
  Object.assign(api.hatch.snapshots, {
    import: (caller, asked, source, signal) => {
      async function* counted(): AsyncGenerator<Uint8Array> {
        for await (const piece of source) {
          came += 1;
          yield piece;
        }
      }
      return take(caller, asked, counted(), signal);
    },
  } satisfies Partial<typeof api.hatch.snapshots>);
  const { sent, answer } = await slowly(t, api, '/snapshots/import', upload());
  for (const [index, piece] of pieces.entries()) {
    sent.write(piece);
    await pass(api.time, 50, () => came === index + 1);
  }
  sent.end();
  assert.equal((await answer).statusCode, 201);
});

test('an upload that stalls, and any other body that does not come whole in time, is given up', async (t) => {
  const api = await withSnapshot();
  const stalled = await slowly(t, api, '/snapshots/import', upload());
  stalled.sent.write('one');
  await pass(api.time, 61);
  const late = await stalled.answer;
  assert.equal(late.statusCode, ERRORS.timeout.status);
  assert.match(await text(late), /No part of the file has come for 60 s/);
  // It goes on sending all the same.
  const cut = once(late.socket, 'close');
  await pass(api.time, 6);
  await cut;

  const other = await withSnapshot();
  const json = await slowly(t, other, '/vms', { 'content-type': 'application/json' });
  json.sent.write('{');
  await pass(other.time, 61);
  const answer = await json.answer;
  assert.equal(answer.statusCode, ERRORS.request_timeout.status);
  assert.match(await text(answer), /did not come whole within 60 s/);
});

test('nobody waits for the body of who was refused before it came, once the connection has ended', async (t) => {
  const api = await withSnapshot();
  const before = api.time.sleepers;
  const { sent, answer } = await slowly(t, api, '/vms', {
    'content-type': 'application/json',
    'content-length': '100000000',
  });
  sent.write('{');
  assert.equal((await answer).statusCode, ERRORS.too_large.status);
  const patience = { clock: systemClock, signal: AbortSignal.timeout(20_000) };
  await until(patience, () => (api.time.sleepers === before ? true : undefined));
});

test('who is refused in the middle of a large upload is told why, and need not send the rest', async (t) => {
  const api = await testApi(systemClock);
  const url = await api.app.listen({ host: '127.0.0.1', port: 0 });
  t.after(() => api.app.close());
  Object.assign(api.hatch.snapshots, {
    import: async (_caller, _asked, source) => {
      for await (const piece of source) throw new Failure('quota_exceeded', `Enough after ${piece.length}.`);
      return assert.fail('nothing came');
    },
  } satisfies Partial<typeof api.hatch.snapshots>);
  const client = new HatchClient({ url, apiKey: api.key });
  t.after(() => client.close());
  const most = 4000;
  for (let round = 0; round < 3; round++) {
    let sent = 0;
    async function* much(): AsyncGenerator<Uint8Array> {
      for (; sent < most; sent++) yield Buffer.alloc(64 * 1024);
    }
    await assert.rejects(
      client.snapshots.import(much()),
      (error) => error instanceof ApiError && error.code === 'quota_exceeded',
    );
    assert.ok(sent < most, 'it stopped');
  }
});
