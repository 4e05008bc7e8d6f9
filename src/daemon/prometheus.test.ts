import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { makeFakeHost, type FakeDaemon, type FakeHost } from '../../test/support/fake-daemon.ts';
import { field } from '../api/test-client.ts';
import { newId } from '../base/ids.ts';
import type { Operation } from '../model/records.ts';
import type { Operations, Store } from '../store/store.ts';
import { Prometheus } from './prometheus.ts';

let host: FakeHost;
let hatch: FakeDaemon;
let addr = '';

before(async () => {
  host = await makeFakeHost();
  addr = `${host.sshAddr}:9400`;
  hatch = await host.start({ HATCH_METRICS_ADDR: addr, HATCH_MEMORY_BUDGET_MIB: '2048' });
});
after(() => host.end());

/** The figures by their names and labels, as `hatch_vms{state="running"}`. */
async function figures(): Promise<ReadonlyMap<string, number>> {
  const answer = await fetch(`http://${addr}/metrics`);
  assert.equal(answer.status, 200);
  assert.match(answer.headers.get('content-type') ?? '', /^text\/plain; version=0\.0\.4/);
  const lines = (await answer.text()).split('\n').filter((line) => line !== '' && !line.startsWith('#'));
  return new Map(
    lines.map((line) => {
      const at = line.lastIndexOf(' ');
      return [line.slice(0, at), Number(line.slice(at + 1))];
    }),
  );
}

test('requests, operations, wakes and sleeps are counted, VMs and the host told of as they are', async () => {
  const before = await figures();
  assert.equal(before.get('hatch_vms{state="running"}'), 0);
  await hatch.makeVm({ name: 'web' });
  await hatch.makeVm({ name: 'other' });
  await hatch.refused('already_exists', 'POST', '/vms', { name: 'web' });
  await hatch.refused('not_found', 'GET', '/vms/nobody');
  await hatch.call('POST', '/vms/web/snapshot', {});
  await hatch.call('POST', '/vms/web/start');
  await hatch.call('POST', '/vms/other/stop', {});
  await hatch.refused('no_capacity', 'POST', '/vms', { mem_mib: 4096 });
  await hatch.refused('not_found', 'GET', '/no/such/path');
  const now = await figures();
  const expected: Record<string, number> = {
    'hatch_http_requests_total{method="POST",route="/vms",status="201"}': 2,
    'hatch_http_requests_total{method="POST",route="/vms",status="409"}': 1,
    'hatch_http_requests_total{method="GET",route="/vms/:id",status="404"}': 1,
    'hatch_http_requests_total{method="GET",route="none",status="404"}': 1,
    'hatch_operations_total{operation="create",outcome="done"}': 2,
    'hatch_operations_total{operation="snapshot",outcome="done"}': 1,
    'hatch_operations_total{operation="restore",outcome="done"}': 1,
    'hatch_operations_total{operation="stop",outcome="done"}': 1,
    'hatch_operation_seconds_count{operation="create",outcome="done"}': 2,
    'hatch_wakes_total{by="api"}': 1,
    'hatch_wake_seconds_count{by="api"}': 1,
    'hatch_sleeps_total{action="snapshot",reason="asked"}': 1,
    'hatch_no_room_total{operation="create"}': 1,
    'hatch_vms{state="running"}': 1,
    'hatch_vms{state="stopped"}': 1,
    'hatch_vms{state="error"}': 0,
    hatch_memory_budget_bytes: 2048 * 2 ** 20,
  };
  assert.deepEqual(Object.fromEntries(Object.keys(expected).map((name) => [name, now.get(name)])), expected);
  for (const name of [
    'hatch_host_memory_bytes{kind="available"}',
    'hatch_data_disk_bytes{kind="available"}',
    'process_resident_memory_bytes',
  ])
    assert.ok((now.get(name) ?? 0) > 0, name);
});

test('the API tells the same, to a key of an operator alone', async () => {
  const url = `${hatch.daemon.url}/metrics`;
  const answer = await fetch(url, { headers: { authorization: `Bearer ${hatch.key}` } });
  assert.equal(answer.status, 200);
  assert.match(await answer.text(), /^hatch_vms\{state="running"\} 1$/m);
  const { body } = await hatch.call('POST', '/keys', { name: 'reader', scopes: ['read'] });
  const refused = await fetch(url, { headers: { 'x-api-key': String(field(body, 'secret')) } });
  assert.equal(refused.status, 403);
});

test('nothing else is at the address for Prometheus, and one that is taken keeps hatchd from starting', async () => {
  assert.equal((await fetch(`http://${addr}/vms`)).status, 404);
  assert.equal((await fetch(`http://${addr}/metrics`, { method: 'POST' })).status, 405);
  const other = await makeFakeHost();
  try {
    await assert.rejects(
      other.start({ HATCH_METRICS_ADDR: addr }),
      new RegExp(`^Error: HATCH_METRICS_ADDR ${addr} is used by another program`),
    );
    await other.start();
  } finally {
    await other.end();
  }
});

test('an operation that ends while those under way are read is counted once, and not kept', async () => {
  const figuresOf = new Prometheus({ version: '1.2.3', now: () => 1000 });
  const operation = { id: newId('op'), verb: 'stop', createdAt: 0 } as Operation;
  const read = Promise.withResolvers<readonly Operation[]>();
  const reads = [Promise.resolve([operation]), read.promise];
  const operations: Pick<Operations, 'unfinished' | 'finish'> = {
    unfinished: () => reads.shift() ?? assert.fail(),
    finish: async () => undefined,
  };
  // Nothing else of it is used.
  const store = figuresOf.counting({ operations } as Store);
  await store.operations.unfinished('here');
  const reading = store.operations.unfinished('here');
  await store.operations.finish(operation.id, 'done');
  read.resolve([operation]);
  await reading;
  await store.operations.finish(operation.id, 'done');
  assert.match(await figuresOf.text(), /^hatch_operations_total\{operation="stop",outcome="done"\} 1$/m);
});
