import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Type } from 'typebox';
import { cannedApi, refusal, type Asked, type Canned } from '../../test/support/canned-api.ts';
import { Deleted } from '../contract/common.ts';
import { ExecResult } from '../contract/exec.ts';
import { VmMetrics } from '../contract/metrics.ts';
import { Route } from '../contract/route.ts';
import { Vm } from '../contract/vm.ts';
import { ApiError, HatchClient, NoName, Unreachable } from './http.ts';
import { nextAfter } from './transport.ts';

const vm: Vm = {
  id: 'vm-abc123def456',
  image_id: 'img-default',
  state: 'running',
  vcpu_count: 1,
  mem_mib: 512,
  enable_network: false,
  created_at: '2026-03-06T10:30:00Z',
  updated_at: '2026-03-06T10:30:00Z',
  ready: true,
};

const used: VmMetrics = {
  vm_id: 'vm-abc123def456',
  at: '2026-03-06T10:30:00Z',
  uptime_seconds: 61.5,
  cpu_seconds: 14.2,
  memory: { mem_mib: 512, resident_bytes: 200 * 2 ** 20 },
  block: { read_bytes: 4096, written_bytes: 512 },
};

/** Lets a client talk to a server that answers as told; gives back what was asked of it. */
async function talk(
  answer: (asked: Asked) => Canned,
  work: (client: HatchClient) => Promise<void>,
): Promise<readonly Asked[]> {
  await using server = await cannedApi(answer);
  const client = new HatchClient({ url: server.url, apiKey: 'hatch_secret' });
  try {
    await work(client);
  } finally {
    await client.close();
  }
  return server.asked;
}

test('a create sends its fields as JSON with the key, and its wait as a query', async () => {
  const asked = await talk(
    () => ({ status: 201, json: vm, schema: Vm }),
    async (client) =>
      assert.deepEqual(await client.vms.create({ name: 'web' }, { wait: 'ready', timeout: 90 }), vm),
  );
  assert.equal(asked.length, 1);
  assert.equal(asked[0]?.method, 'POST');
  assert.equal(asked[0].path, '/vms?wait=ready&timeout=90');
  assert.deepEqual(asked[0].body, { name: 'web' });
  assert.equal(asked[0].headers.authorization, 'Bearer hatch_secret');
});

test('every call about routes goes to its own path', async () => {
  const route: Route = {
    id: 'rt-abc123def456',
    vm_id: 'vm-abc123def456',
    subdomain: 'web',
    url: 'http://web.hatch.localhost:9090',
    target_port: 80,
    auto_wake: true,
    created_at: '2026-03-06T10:30:00Z',
    updated_at: '2026-03-06T10:30:00Z',
  };
  const asked = await talk(
    ({ method, path }) =>
      method === 'DELETE'
        ? { json: { status: 'deleted' }, schema: Deleted }
        : method === 'GET' && !path.includes('rt-')
          ? { json: [route], schema: Type.Array(Route) }
          : { json: route, schema: Route },
    async ({ routes }) => {
      assert.deepEqual(await routes.create('web', { target_port: 80 }), route);
      assert.deepEqual(await routes.ofVm('a/b', { limit: 1 }), [route]);
      assert.deepEqual(await routes.list({ all: true, limit: 1 }), [route]);
      assert.deepEqual(await routes.get(route.id), route);
      assert.deepEqual(await routes.update(route.id, { wake: null }), route);
      assert.deepEqual(await routes.delete(route.id), { status: 'deleted' });
      assert.throws(() => void routes.get('..'), NoName);
    },
  );
  assert.deepEqual(
    asked.map(({ method, path }) => `${method} ${path}`),
    [
      'POST /vms/web/routes',
      'GET /vms/a%2Fb/routes?limit=1',
      'GET /routes?all=true&limit=1',
      'GET /routes/rt-abc123def456',
      'PATCH /routes/rt-abc123def456',
      'DELETE /routes/rt-abc123def456',
    ],
  );
});

test('every call of a VM goes to its own path, and a name is escaped', async () => {
  const asked = await talk(
    ({ method, path }) => {
      if (method === 'DELETE') return { json: { status: 'deleted' }, schema: Deleted };
      if (path.endsWith('/exec'))
        return {
          json: { exit_code: 0, stdout: '', stderr: '', truncated: false, timed_out: false },
          schema: ExecResult,
        };
      if (path.endsWith('/metrics')) return { json: used, schema: VmMetrics };
      return { json: vm, schema: Vm };
    },
    async ({ vms }) => {
      await vms.get('a/b');
      await vms.start('web', { wait: 'running' });
      await vms.stop('web', { grace_seconds: 5 });
      await vms.reboot('web');
      await vms.update('web', { name: null });
      await vms.exec('web', { command: ['true'] });
      assert.deepEqual(await vms.metrics('web'), used);
      await vms.delete('web');
    },
  );
  assert.deepEqual(
    asked.map(({ method, path, body }) => [method, path, body]),
    [
      ['GET', '/vms/a%2Fb', undefined],
      ['POST', '/vms/web/start?wait=running', {}],
      ['POST', '/vms/web/stop', { grace_seconds: 5 }],
      ['POST', '/vms/web/reboot', {}],
      ['PATCH', '/vms/web', { name: null }],
      ['POST', '/vms/web/exec', { command: ['true'] }],
      ['GET', '/vms/web/metrics', undefined],
      ['DELETE', '/vms/web', undefined],
    ],
  );
});

test('a name that would ask for the list, or for what is above it, is asked of no server', async () => {
  const asked = await talk(
    () => ({ json: [vm], schema: Type.Array(Vm) }),
    async ({ vms, images, keys }) => {
      for (const name of ['', '.', '..'])
        for (const call of [
          () => vms.get(name),
          () => vms.delete(name),
          () => images.get(name),
          () => keys.revoke(name),
        ])
          assert.throws(call, NoName);
    },
  );
  assert.deepEqual(asked, []);
});

test('a list is followed to its last page, unless a limit is asked for', async () => {
  const schema = Type.Array(Vm);
  const answer = ({ path }: Asked): Canned =>
    path.includes('after=')
      ? { json: [], schema }
      : { json: [vm], schema, headers: { link: `</vms?label=a%3Db&after=${vm.id}>; rel="next"` } };
  const all = await talk(answer, async (client) =>
    assert.deepEqual(await client.vms.list({ label: ['a=b'] }), [vm]),
  );
  assert.deepEqual(
    all.map(({ path }) => path),
    ['/vms?label=a%3Db', `/vms?label=a%3Db&after=${vm.id}`],
  );
  const one = await talk(answer, async (client) => void (await client.vms.list({ limit: 1 })));
  assert.deepEqual(
    one.map(({ path }) => path),
    ['/vms?limit=1'],
  );
});

test('a list whose last one is removed between two pages is begun anew, but not for ever', async () => {
  const schema = Type.Array(Vm);
  const page = { json: [vm], schema, headers: { link: `</vms?after=${vm.id}>; rel="next"` } };
  const lost = refusal(400, 'invalid_request', 'It is gone.', { field: 'after' });
  let removed = 0;
  const answer = ({ path }: Asked): Canned =>
    !path.includes('after=') ? page : removed-- > 0 ? lost : { json: [vm, vm], schema };
  removed = 2;
  await talk(answer, async (client) => assert.deepEqual(await client.vms.list(), [vm, vm, vm]));
  removed = 3;
  const gone = (error: unknown): boolean => error instanceof ApiError && error.details['field'] === 'after';
  await talk(answer, (client) => assert.rejects(client.vms.list(), gone));
  // Whoever begins with a name that is none is told at once.
  removed = 1;
  const asked = await talk(answer, (client) => assert.rejects(client.vms.list({ after: vm.id }), gone));
  assert.equal(asked.length, 1);
});

test('the next page is read from the Link header alone', () => {
  assert.equal(nextAfter('</vms?after=vm-a>; rel="next"'), 'vm-a');
  assert.equal(nextAfter('</vms?after=vm-a>; rel="prev"'), undefined);
  assert.equal(nextAfter(undefined), undefined);
});

test('a refusal becomes an ApiError with all that the server said', async () => {
  await talk(
    () => ({
      ...refusal(409, 'busy', 'VM web is stopping.', { operation: 'stopping' }),
      headers: { 'retry-after': '3' },
    }),
    async (client) =>
      assert.rejects(client.vms.get('web'), (error: unknown) => {
        assert(error instanceof ApiError);
        assert.equal(error.message, 'VM web is stopping.');
        assert.equal(error.status, 409);
        assert.equal(error.code, 'busy');
        assert.deepEqual(error.details, { operation: 'stopping' });
        assert.equal(error.requestId, 'req-test');
        assert.equal(error.retryAfter, 3);
        return true;
      }),
  );
});

test('an answer that is not of Hatch is said to be none', async () => {
  const page = { text: ['<html>502 Bad Gateway</html>'] };
  for (const answer of [page, { ...page, status: 502 }])
    await talk(
      () => answer,
      async (client) =>
        assert.rejects(
          client.vms.get('web'),
          (error: unknown) =>
            error instanceof ApiError &&
            error.code === 'unknown' &&
            /is it a Hatch server/.test(error.message),
        ),
    );
});

test('a server that is not there, or hangs up, is Unreachable with its address and the reason', async () => {
  await using server = await cannedApi(() => ({ cut: true }));
  const client = new HatchClient({ url: server.url });
  await assert.rejects(
    client.health(),
    (error: unknown) => error instanceof Unreachable && /cut/.test(error.message),
  );
  await server[Symbol.asyncDispose]();
  await assert.rejects(client.health(), (error: unknown) => {
    assert(error instanceof Unreachable);
    assert.match(
      error.message,
      /No Hatch server answers at http:\/\/127\.0\.0\.1:\d+ \(connection refused\)/,
    );
    return true;
  });
  await client.close();
});

test('a console is read whole or followed as it comes; a base path of the server is kept', async () => {
  await using server = await cannedApi(() => ({ text: ['boot', 'ing ünicode'] }));
  const client = new HatchClient({ url: `${server.url}/hatch` });
  assert.equal(await client.vms.console('web', { tail: 10 }), 'booting ünicode');
  let text = '';
  for await (const piece of client.vms.followConsole('web')) text += piece;
  assert.equal(text, 'booting ünicode');
  assert.deepEqual(
    server.asked.map(({ path, headers }) => [path, headers.authorization]),
    [
      ['/hatch/vms/web/console?tail=10', undefined],
      ['/hatch/vms/web/console?follow=true', undefined],
    ],
  );
  await client.close();
});
