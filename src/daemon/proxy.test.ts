import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import { once } from 'node:events';
import { request, type IncomingMessage } from 'node:http';
import { after, before, test } from 'node:test';
import { makeFakeHost, type FakeDaemon, type FakeHost } from '../../test/support/fake-daemon.ts';

let host: FakeHost;
let hatch: FakeDaemon;

before(async () => {
  host = await makeFakeHost();
  hatch = await host.start();
});
after(() => host.end());

/** Asks the proxy for a host name. */
async function visit(
  name: string,
  headers: Record<string, string> = {},
): Promise<{ status: number; code: unknown; retry: unknown }> {
  const sent = request({ host: host.sshAddr, port: 9090, agent: false, headers: { host: name, ...headers } });
  sent.end();
  const [answer] = (await once(sent, 'response')) as [IncomingMessage];
  answer.setEncoding('utf8');
  const { code } = JSON.parse((await answer.toArray()).join('')) as { code: unknown };
  return { status: answer.statusCode ?? 0, code, retry: answer.headers['retry-after'] };
}

test('the proxy knows the routes that are there, and wakes nothing that is not to be woken', async () => {
  const { id } = await hatch.makeVm({ name: 'web' });
  assert.deepEqual(await visit('web.hatch.localhost'), { status: 404, code: 'not_found', retry: undefined });
  const route = { subdomain: 'web', target_port: 8000, auto_wake: false };
  assert.equal((await hatch.call('POST', '/vms/web/routes', route)).status, 201);
  assert.equal(
    (await hatch.call('POST', '/vms/web/routes', { subdomain: 'other', target_port: 80 })).status,
    201,
  );
  await hatch.call('POST', '/vms/web/snapshot', {});
  assert.deepEqual(await visit('WEB.hatch.localhost:9090'), {
    status: 503,
    code: 'unavailable',
    retry: '60',
  });
  const crawler = { 'user-agent': 'Mozilla/5.0 (compatible; bingbot/2.0)' };
  assert.equal((await visit('other.hatch.localhost', crawler)).status, 503);
  const { body } = await hatch.call('GET', `/vms/${String(id)}`);
  assert.equal((body as { state: string }).state, 'snapshotted', 'it sleeps on');
  await hatch.call('DELETE', '/vms/web');
  assert.equal((await visit('web.hatch.localhost')).status, 404);
});

test('an occupied address of the proxy is told when hatchd starts', async () => {
  const other = await makeFakeHost();
  try {
    const taken = createServer().listen(9090, other.sshAddr);
    await once(taken, 'listening');
    await assert.rejects(
      other.start(),
      new RegExp(`^Error: HATCH_PROXY_ADDR ${other.sshAddr}:9090 is used by another program`),
    );
    taken.close();
    await other.start();
  } finally {
    await other.end();
  }
});
