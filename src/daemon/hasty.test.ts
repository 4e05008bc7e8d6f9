import assert from 'node:assert/strict';
import { once } from 'node:events';
import { request } from 'node:http';
import { connect } from 'node:net';
import { after, before, test } from 'node:test';
import { field } from '../api/test-client.ts';
import { systemClock } from '../base/clock.ts';
import { until } from '../base/until.ts';
import type { Store } from '../store/store.ts';
import { makeFakeHost, type FakeDaemon, type FakeHost } from '../../test/support/fake-daemon.ts';
import { over } from '../../test/support/fake-world.ts';

/** Callers who come at once, and callers who do not wait, through the whole daemon. */
let host: FakeHost;
let hatch: FakeDaemon;
/** Set: the next journal row of an operation waits for it. */
let gate: { readonly reached: () => void; readonly open: Promise<void> } | undefined;

before(async () => {
  host = await makeFakeHost();
  const wrapStore = (store: Store): Store =>
    over(store, {
      operations: over(store.operations, {
        record: async (...row) => {
          const here = gate;
          gate = undefined;
          here?.reached();
          await here?.open;
          return store.operations.record(...row);
        },
      }),
    });
  hatch = await host.start({}, { wrapStore });
});
after(() => host.end());

/** Holds the next operation at the first row of its journal; `reached` resolves when it is there. */
function hold(): { readonly reached: Promise<void>; readonly letGo: () => void } {
  const { promise: reached, resolve } = Promise.withResolvers<void>();
  const { promise: open, resolve: letGo } = Promise.withResolvers<void>();
  gate = { reached: resolve, open };
  return { reached, letGo };
}

async function vms(): Promise<readonly Record<string, unknown>[]> {
  return (await hatch.call('GET', '/vms')).body as Record<string, unknown>[];
}

async function deleteAll(): Promise<void> {
  for (const vm of await vms()) await hatch.call('DELETE', `/vms/${String(vm['id'])}`);
  await hatch.assertNothingLeft();
}

test('of creates that race for one address, MAC or name one wins, and the others are told which field', async () => {
  const races = { guest_ip: '192.168.241.77', guest_mac: '02:fc:00:00:00:77', name: 'raced' };
  for (const [named, value] of Object.entries(races)) {
    const answers = await Promise.all(
      Array.from({ length: 5 }, () => hatch.call('POST', '/vms', { [named]: value })),
    );
    const [winner, ...more] = answers.filter(({ status }) => status === 201);
    assert.ok(winner && more.length === 0, `${named}: ${answers.map(({ status }) => status).join()}`);
    for (const { status, body } of answers) {
      if (status === 201) continue;
      assert.equal(field(body, 'code'), 'already_exists');
      assert.deepEqual(field(body, 'details'), { field: named, value });
    }
    assert.deepEqual(
      (await vms()).map((vm) => [vm['id'], vm[named], vm['state']]),
      [[field(winner.body, 'id'), value, 'running']],
    );
    await deleteAll();
  }
});

test('creates at once that leave their addresses to us all get their own', async () => {
  const answers = await Promise.all(Array.from({ length: 10 }, () => hatch.call('POST', '/vms', {})));
  for (const key of ['guest_ip', 'guest_mac', 'ssh_port'] as const)
    assert.equal(new Set(answers.map(({ body }) => field(body, key))).size, 10, key);
  const { error } = await hatch.refused('no_capacity', 'POST', '/vms', {});
  assert.match(error, /^No SSH port is free between 2200 and 2209; widen HATCH_SSH_PORT_MIN/);
  assert.equal((await vms()).length, 10);
  await deleteAll();
});

test('a caller who hangs up in the middle of a create cancels nothing: the VM is made and runs', async () => {
  for (const path of ['/vms', '/vms?wait=ready']) {
    const { reached, letGo } = hold();
    const caller = new AbortController();
    const answer = hatch.call('POST', path, { name: 'left-alone' }, { signal: caller.signal });
    await reached;
    assert.deepEqual(
      (await vms()).map((vm) => [vm['state'], vm['operation']]),
      [['starting', 'creating']],
    );
    caller.abort();
    await assert.rejects(answer, { name: 'AbortError' });
    letGo();
    const made = await hatch.call('GET', '/vms/left-alone?wait=ready&timeout=20');
    assert.deepEqual([made.status, field(made.body, 'state')], [200, 'running'], JSON.stringify(made.body));
    await deleteAll();
  }
});

test('a caller who hangs up before the request is whole makes nothing', async () => {
  const { port, hostname } = new URL(hatch.daemon.url);
  const sent = request({
    host: hostname,
    port,
    method: 'POST',
    path: '/vms',
    headers: {
      authorization: `Bearer ${hatch.key}`,
      'content-type': 'application/json',
      'content-length': '1000',
    },
  });
  sent.on('error', () => undefined);
  sent.write('{"name": "half"');
  await once(sent, 'socket');
  // Half a request on a connection of its own, ended by its caller in order.
  const socket = connect(Number(port), hostname);
  socket.end(
    `POST /vms HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ${hatch.key}\r\ncontent-type: application/json\r\ncontent-length: 50\r\n\r\n{"name": "half"`,
  );
  socket.resume();
  await once(socket, 'close');
  sent.destroy();
  assert.deepEqual(await vms(), []);
});

test('a VM under way is told what it is doing: another operation is busy, the same one joins, a delete cuts in', async () => {
  const { reached, letGo } = hold();
  const made = hatch.call('POST', '/vms', { name: 'slow' });
  await reached;
  for (const verb of ['start', 'stop', 'reboot']) {
    const refusal = await hatch.call('POST', `/vms/slow/${verb}`, {});
    assert.equal(refusal.status, 409, verb);
    assert.ok(
      ['busy', 'wrong_state'].includes(String(field(refusal.body, 'code'))),
      JSON.stringify(refusal.body),
    );
  }
  const gone = hatch.call('DELETE', '/vms/slow');
  letGo();
  assert.deepEqual([(await gone).status, (await gone).body], [200, { status: 'deleted' }]);
  assert.ok((await made).status >= 400);
  assert.deepEqual(await vms(), []);
  await hatch.assertNothingLeft();

  await hatch.makeVm({ name: 'web' });
  const stop = hold();
  const both = [hatch.call('POST', '/vms/web/stop', {}), hatch.call('POST', '/vms/web/stop', {})];
  await stop.reached;
  const busy = await hatch.refused('busy', 'POST', '/vms/web/reboot', {});
  assert.deepEqual(busy.details, { operation: 'stopping' });
  stop.letGo();
  for (const answer of await Promise.all(both))
    assert.deepEqual([answer.status, field(answer.body, 'state')], [200, 'stopped']);
  await deleteAll();
});

test('a server that ends in the middle of a create answers 503, and the next one leaves nothing of it', async () => {
  const { reached, letGo } = hold();
  const asked = hatch.call('POST', '/vms', { name: 'cut-off' });
  await reached;
  const stopped = hatch.stop();
  letGo();
  const answer = await asked;
  assert.deepEqual([answer.status, field(answer.body, 'code')], [503, 'unavailable']);
  await stopped;
  hatch = await host.start();
  const signal = AbortSignal.timeout(10_000);
  const vm = await until({ clock: systemClock, signal }, async () => {
    const { body } = await hatch.call('GET', '/vms/cut-off');
    return field(body, 'operation') === undefined ? body : undefined;
  });
  assert.equal(field(vm, 'state'), 'error');
  assert.equal(field(vm, 'state_reason', 'code'), 'interrupted');
  await hatch.assertNothingLeft();
  const again = await hatch.call('POST', '/vms/cut-off/start', {});
  assert.equal(field(again.body, 'state'), 'running');
  await deleteAll();
});
