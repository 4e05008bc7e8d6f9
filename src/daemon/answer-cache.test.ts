import assert from 'node:assert/strict';
import { request } from 'node:http';
import { connect } from 'node:net';
import { DatabaseSync } from 'node:sqlite';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import { after, before, test } from 'node:test';
import type { Logger } from '../base/logger.ts';
import { makeFakeHost, type FakeDaemon, type FakeHost } from '../../test/support/fake-daemon.ts';

let host: FakeHost;
let hatch: FakeDaemon;
let lines: Record<string, unknown>[] = [];
/** How often a VM was read for `GET /vms/{id}`. */
let finds = 0;

before(async () => {
  host = await makeFakeHost();
  const log: Logger = {
    debug: () => undefined,
    info: (fields, message) => void (message === 'request' && lines.push({ ...fields })),
    warn: () => undefined,
    error: () => undefined,
    child: () => log,
  };
  hatch = await host.start(
    {},
    {
      log,
      wrapStore: (store) => ({
        ...store,
        vms: { ...store.vms, find: (...args) => (finds++, store.vms.find(...args)) },
      }),
    },
  );
  await hatch.makeVm({ name: 'steady' });
  await hatch.call('GET', '/vms/steady?wait=ready&timeout=20');
});
after(() => host.end());

interface Seen {
  readonly status: number;
  readonly headers: Record<string, unknown>;
  readonly body: string;
}

/** As a client of no library sends it. */
async function get(path: string, headers: Record<string, string> = {}): Promise<Seen> {
  const [url, key] = [new URL(path, hatch.daemon.url), hatch.key];
  return new Promise((resolve, reject) => {
    request(url, { headers: { authorization: `Bearer ${key}`, ...headers } }, (response) => {
      text(response).then(
        (body) => resolve({ status: response.statusCode ?? 0, headers: response.headers, body }),
        reject,
      );
    })
      .on('error', reject)
      .end();
  });
}

/** Asks until it is answered without a look at the rows; another write, as of a use, may come between. */
async function remembered(path: string, headers: Record<string, string> = {}): Promise<Seen> {
  for (let tries = 0; tries < 200; tries++) {
    await get(path, headers);
    const before = finds;
    const seen = await get(path, headers);
    if (finds === before) return seen;
  }
  return assert.fail('it is never remembered');
}

test('who asks for the same again is given the same answer, under an id of its own, and it is logged and counted', async () => {
  const first = await get('/vms/steady');
  lines = [];
  const again = await remembered('/vms/steady');
  assert.equal(again.body, first.body);
  const { 'x-request-id': id, date, ...others } = again.headers;
  const { 'x-request-id': firstId, date: firstDate, ...firstOthers } = first.headers;
  assert.deepEqual(others, firstOthers);
  assert.ok(date !== undefined && firstDate !== undefined);
  assert.match(String(id), /^req-[0-9a-f]{16}$/);
  assert.notEqual(id, firstId);
  const line = lines.find(({ request_id: its }) => its === id);
  assert.deepEqual(
    { ...line, account: typeof line?.['account'], key: typeof line?.['key'], ms: typeof line?.['ms'] },
    {
      request_id: id,
      method: 'GET',
      path: '/vms/steady',
      status: 200,
      ms: 'number',
      account: 'string',
      key: 'string',
    },
  );
});

test('whatever is written shows with the next request', async () => {
  for (let n = 0; n < 20; n++) {
    await remembered('/vms/steady');
    const changed = await hatch.call('PATCH', '/vms/steady', { labels: { n: String(n) } });
    assert.equal(changed.status, 200);
    assert.deepEqual((JSON.parse((await get('/vms/steady')).body) as { labels?: object }).labels, {
      n: String(n),
    });
  }
});

test('what another process writes shows soon', async () => {
  const database = new DatabaseSync(join(host.data, 'hatch.db'), { timeout: 3000 });
  try {
    await remembered('/vms/steady');
    database.exec(`update vms set boot_args = 'quiet' where name = 'steady'`);
    const until = Date.now() + 2000;
    while (!(await get('/vms/steady')).body.includes('"boot_args":"quiet"'))
      assert.ok(Date.now() < until, 'it does not show');
  } finally {
    database.close();
  }
});

test('an answer is its key’s alone, and one that was revoked is given none, a moment after it was', async () => {
  const { body } = await hatch.call('POST', '/keys', { name: 'other', scopes: ['read'] });
  const { key, id } = body as { key: string; id: string };
  await remembered('/vms/steady');
  const authorization = `Bearer ${key}`;
  await remembered('/vms/steady', { authorization });
  assert.equal((await get('/vms/steady', { authorization: 'Bearer hatch_unknown' })).status, 401);
  await hatch.call('DELETE', `/keys/${id}`);
  assert.equal((await get('/vms/steady', { authorization })).status, 401);
});

test('an answer is believed for half a second, and asked for anew then', async () => {
  await remembered('/vms/steady');
  await sleep(600);
  const before = finds;
  await get('/vms/steady');
  assert.equal(finds, before + 1);
});

test('a request that says more than who asks is answered by its route', async () => {
  await remembered('/vms/steady');
  const before = finds;
  await get('/vms/steady', { 'x-api-key': 'x' });
  await get('/vms/steady', { 'idempotency-key': 'x' });
  assert.equal(finds, before + 2);
  const { hostname, port } = new URL(hatch.daemon.url);
  const twoHosts = connect({ host: hostname, port: Number(port) });
  twoHosts.end(
    `GET /vms/steady HTTP/1.1\r\nhost: a\r\nhost: b\r\nauthorization: Bearer ${hatch.key}\r\nconnection: close\r\n\r\n`,
  );
  assert.match(await text(twoHosts), /^HTTP\/1\.1 400 /);
  assert.equal((await get('/vms/steady/')).status, 200);
  assert.equal((await get('/vms/steady?wait=nothing')).status, 400);
});

test('a list is remembered with the headers that lead to its next page', async () => {
  await hatch.makeVm({ name: 'second' });
  await hatch.call('GET', '/vms/second?wait=ready&timeout=20');
  const first = await get('/vms?limit=1');
  const again = await get('/vms?limit=1');
  assert.match(String(again.headers['link']), /rel="next"/);
  assert.equal(again.headers['link'], first.headers['link']);
  await hatch.call('DELETE', '/vms/second');
  assert.doesNotMatch((await get('/vms')).body, /second/);
});
