import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { makeFakeHost, type Answer, type FakeDaemon, type FakeHost } from '../../test/support/fake-daemon.ts';
import { field } from '../api/test-client.ts';
import { HatchClient } from '../clients/http.ts';
import type { Store } from '../store/store.ts';

let host: FakeHost;
let hatch: FakeDaemon;
/** Whether answers are lost, as by a crash before they were kept. */
let loses = false;

const wrapStore = (store: Store): Store => ({
  ...store,
  idempotency: {
    ...store.idempotency,
    settle: async (...how) => {
      if (loses) throw new Error('the disk is gone');
      await store.idempotency.settle(...how);
    },
  },
});

before(async () => {
  host = await makeFakeHost();
  hatch = await host.start({ HATCH_MEMORY_BUDGET_MIB: '8192' }, { wrapStore });
});
after(() => host.end());

const keyed = (key: string): { readonly headers: Record<string, string> } => ({
  headers: { 'idempotency-key': key },
});
const idOf = ({ body }: Answer): unknown => field(body, 'id');
const vms = async (): Promise<number> => ((await hatch.call('GET', '/vms')).body as unknown[]).length;

test('a request that is sent again makes nothing again, and is given the same answer', async () => {
  const had = await vms();
  const first = await hatch.call('POST', '/vms', { name: 'once' }, keyed('k-1'));
  assert.equal(first.status, 201);
  assert.equal(first.headers.get('idempotency-replayed'), null);
  await hatch.call('POST', '/vms/once/stop', {});
  const again = await hatch.call('POST', '/vms', { name: 'once' }, keyed('k-1'));
  assert.deepEqual([again.status, again.body], [201, first.body]);
  assert.equal(again.headers.get('idempotency-replayed'), 'true');
  assert.equal(again.headers.get('location'), first.headers.get('location'));
  assert.equal(await vms(), had + 1);
  assert.notEqual(idOf(await hatch.call('POST', '/vms', {}, keyed('k-2'))), idOf(first));
});

test('those that come at once are one, and all are answered', async () => {
  const had = await vms();
  const answers = await Promise.all(
    Array.from({ length: 8 }, () => hatch.call('POST', '/vms', { labels: { a: 'b' } }, keyed('at-once'))),
  );
  assert.deepEqual(new Set(answers.map(({ status }) => status)), new Set([201]));
  assert.equal(new Set(answers.map(idOf)).size, 1);
  assert.equal(await vms(), had + 1);
});

test('a key is for one request of one account, and has a form', async () => {
  await hatch.call('POST', '/templates', { name: 'small', mem_mib: 256 }, keyed('k-3'));
  for (const [path, body] of [
    ['/templates', { name: 'small', mem_mib: 512 }],
    ['/vms', { name: 'small' }],
  ] as const) {
    const { details } = await hatch.refused('already_exists', 'POST', path, body, keyed('k-3'));
    assert.equal(details['field'], 'Idempotency-Key');
  }
  const account = field((await hatch.call('POST', '/accounts', { name: 'theirs' }, keyed('k-4'))).body, 'id');
  const made = await hatch.call(
    'POST',
    '/keys',
    { name: 'k', scopes: ['write'], account_id: account },
    keyed('k-5'),
  );
  const key = String(field(made.body, 'secret'));
  const theirs = await hatch.call('POST', '/templates', { name: 'small' }, { key, ...keyed('k-3') });
  assert.equal(theirs.status, 201);
  const other = await hatch.call(
    'POST',
    '/keys',
    { name: 'k', scopes: ['write'], account_id: account },
    keyed('k-5'),
  );
  assert.notEqual(field(other.body, 'secret'), key, 'a secret is not kept to be given again');
  for (const bad of ['two words', 'x'.repeat(256)])
    assert.equal(
      (await hatch.refused('invalid_request', 'POST', '/vms', {}, keyed(bad))).details['field'],
      'Idempotency-Key',
    );
});

test('a key is for one query too, and for one file, but not for how long is waited', async () => {
  const send = (name: string, file: string): Promise<Response> =>
    fetch(`${hatch.daemon.url}/snapshots/import?name=${name}`, {
      method: 'POST',
      headers: {
        authorization: `Bearer ${hatch.key}`,
        'content-type': 'application/octet-stream',
        'idempotency-key': 'k-import',
      },
      body: file,
    });
  const first = await send('one', 'no snapshot');
  const said = field(await first.json(), 'code');
  assert.notEqual(said, 'already_exists');
  for (const [name, file] of [
    ['two', 'no snapshot'],
    ['one', 'another one that is none'],
  ] as const) {
    const other = await send(name, file);
    assert.deepEqual([other.status, field(await other.json(), 'code')], [409, 'already_exists'], name + file);
  }
  const again = await send('one', 'no snapshot');
  assert.deepEqual(
    [again.headers.get('idempotency-replayed'), field(await again.json(), 'code')],
    ['true', said],
  );
  const made = await hatch.call('POST', '/vms?wait=running&timeout=20', { name: 'waits' }, keyed('k-wait'));
  const same = await hatch.call('POST', '/vms', { name: 'waits' }, keyed('k-wait'));
  assert.deepEqual([same.status, idOf(same)], [201, idOf(made)]);
});

test('what may pass is tried again, what will not is answered again, and what was wrong was no request', async () => {
  const large = { mem_mib: 8192, name: 'large' };
  await hatch.refused('no_capacity', 'POST', '/vms', large, keyed('k-6'));
  for (const { id } of (await hatch.call('GET', '/vms')).body as { id: string }[])
    await hatch.call('DELETE', `/vms/${id}`);
  assert.equal((await hatch.call('POST', '/vms', large, keyed('k-6'))).status, 201);
  await hatch.refused('already_exists', 'POST', '/vms', { name: 'large', mem_mib: 128 }, keyed('k-7'));
  await hatch.call('DELETE', '/vms/large');
  const replayed = await hatch.call('POST', '/vms', { name: 'large', mem_mib: 128 }, keyed('k-7'));
  assert.equal(field(replayed.body, 'code'), 'already_exists');
  assert.equal(replayed.headers.get('x-request-id'), field(replayed.body, 'request_id'));
  await hatch.refused('invalid_request', 'POST', '/vms', { mem_mib: 1 }, keyed('k-8'));
  assert.equal((await hatch.call('POST', '/vms', { mem_mib: 128 }, keyed('k-8'))).status, 201);
});

test('what was made before a crash is found by whoever asks again, and is not made twice', async () => {
  await hatch.makeVm({ name: 'source' });
  loses = true;
  const asked = [
    ['/vms', { name: 'made' }],
    ['/vms/source/snapshot', { name: 'kept', keep_running: true }],
    ['/vms/source/fork', { count: 2 }],
    ['/vms/source/routes', { subdomain: 'here', target_port: 80 }],
  ] as const;
  const first: Answer[] = [];
  for (const [path, body] of asked)
    first.push(await hatch.call('POST', path, body, keyed(`crash ${path}`.replaceAll(/[ /]/g, '-'))));
  const had = await vms();
  await hatch.stop();
  loses = false;
  hatch = await host.start({ HATCH_MEMORY_BUDGET_MIB: '8192' }, { wrapStore });
  for (const [i, [path, body]] of asked.entries()) {
    const again = await hatch.call('POST', path, body, keyed(`crash ${path}`.replaceAll(/[ /]/g, '-')));
    assert.equal(again.status, 201);
    const ids = ({ body: said }: Answer): unknown =>
      Array.isArray(said) ? said.map((one: unknown) => field(one, 'id')).sort() : field(said, 'id');
    assert.deepEqual(ids(again), ids(first[i] ?? assert.fail()), path);
  }
  assert.equal(await vms(), had);
  assert.equal(((await hatch.call('GET', '/vms/source/snapshots')).body as unknown[]).length, 1);
});

test('the client sends the key with calls that make something', async () => {
  const client = new HatchClient({ url: hatch.daemon.url, apiKey: hatch.key });
  try {
    const made = await client.vms.create({ mem_mib: 128 }, { idempotencyKey: 'mine', wait: 'ready' });
    assert.equal((await client.vms.create({ mem_mib: 128 }, { idempotencyKey: 'mine' })).id, made.id);
    const saved = await client.vms.snapshot(made.id, {}, { idempotencyKey: 'save' });
    assert.equal((await client.vms.snapshot(made.id, {}, { idempotencyKey: 'save' })).id, saved.id);
    const copies = await client.vms.fork(made.id, { count: 2 }, { idempotencyKey: 'fork' });
    assert.deepEqual(await client.vms.fork(made.id, { count: 2 }, { idempotencyKey: 'fork' }), copies);
  } finally {
    await client.close();
  }
});
