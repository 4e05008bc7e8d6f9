import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer, request, type IncomingMessage, type Server } from 'node:http';
import { after, before, test } from 'node:test';
import type { Worker } from 'node:worker_threads';
import { makeFakeHost, type FakeDaemon, type FakeHost } from '../../test/support/fake-daemon.ts';
import { systemClock } from '../base/clock.ts';
import { parseId, type VmId } from '../base/ids.ts';
import { silent, type Logger } from '../base/logger.ts';
import { until } from '../base/until.ts';

const soon = { clock: systemClock, signal: AbortSignal.timeout(60_000) };
const AGAIN = { firstMs: 5, mostMs: 100 };
const threads: Worker[] = [];
const warnings: string[] = [];
const log: Logger = { ...silent, error: (_fields, message) => void warnings.push(message), child: () => log };
let host: FakeHost;
let hatch: FakeDaemon;
let guest: Server;
let vmId: VmId;

before(async () => {
  process.on('worker', (worker: Worker) => threads.push(worker));
  host = await makeFakeHost();
  const net = host.sshAddr.split('.').slice(0, 3).join('.');
  hatch = await host.start({ HATCH_BRIDGE_CIDR: `${net}.1/24`, HATCH_PROXY_THREADS: '2' }, { log });
  const vm = await hatch.makeVm({ name: 'web' });
  vmId = parseId('vm', String(vm['id'])) ?? assert.fail();
  guest = createServer((asked, response) => {
    if (asked.url === '/half') response.writeHead(200).write('some');
    else response.end('fine');
  });
  guest.listen(8000, String(vm['guest_ip']));
  await once(guest, 'listening');
  await hatch.call('POST', '/vms/web/routes', { subdomain: 'web', target_port: 8000 });
});
after(async () => {
  guest.close();
  guest.closeAllConnections();
  await host.end();
});

const ask = (path: string): Promise<IncomingMessage> =>
  new Promise((resolve, reject) => {
    const at = { host: host.sshAddr, port: 9090, agent: false, path };
    request({ ...at, headers: { host: 'web.hatch.localhost' } }, resolve)
      .on('error', reject)
      .end();
  });
const openUses = (): number => hatch.daemon.world.activity.of(vmId).open.length;

test('as many threads as are set serve at the same port', () => {
  assert.equal(threads.length, 2);
});

test('a request that a thread has come with by itself keeps its VM from falling asleep, and one that comes as it does is served', async () => {
  const { activity, settings, store } = hatch.daemon.world;
  // Some that all threads have had, so that they come by themselves from now on.
  for (let i = 0; i < 40; i++) assert.equal((await ask('/')).resume().statusCode, 200);
  await until(soon, async () => openUses() === 0 || undefined, AGAIN);
  const { version } = activity.of(vmId);
  const half = await ask('/half');
  assert.equal(openUses(), 1);
  const falling = activity.fallAsleep(vmId, version);
  assert.ok(falling.signal.aborted);
  falling.end();
  half.destroy();
  await until(soon, async () => openUses() === 0 || undefined, AGAIN);

  const now = activity.fallAsleep(vmId, activity.of(vmId).version);
  assert.equal((await ask('/')).resume().statusCode, 200);
  assert.ok(now.signal.aborted, 'whoever came had to ask, and was faster');
  now.end();
  assert.equal((await store.vms.get(vmId))?.hostId, settings.hostId);
});

test('a route that was removed leads nowhere from that moment on', async () => {
  const { body } = await hatch.call('POST', '/vms/web/routes', { subdomain: 'other', target_port: 8000 });
  const { id } = body as { id: string };
  const status = async (): Promise<number | undefined> =>
    new Promise((resolve, reject) => {
      const at = { host: host.sshAddr, port: 9090, agent: false };
      request({ ...at, headers: { host: 'other.hatch.localhost' } }, (answer) =>
        resolve(answer.resume().statusCode),
      )
        .on('error', reject)
        .end();
    });
  for (let i = 0; i < 10; i++) assert.equal(await status(), 200);
  assert.equal((await hatch.call('DELETE', `/routes/${id}`)).status, 200);
  for (let i = 0; i < 10; i++) assert.equal(await status(), 404);
});

test('a thread that ends has its connections cut and nothing in use any more, and another takes its place', async () => {
  const open = await Promise.all(Array.from({ length: 20 }, () => ask('/half')));
  const cut = open.map((one) => assert.rejects(one.toArray()));
  assert.equal(openUses(), 20);
  await Promise.all(threads.slice(0, 2).map((thread) => thread.terminate()));
  await Promise.all(cut);
  assert.equal(openUses(), 0);
  await until(
    soon,
    () =>
      ask('/').then(
        (answer) => answer.resume().statusCode === 200 || undefined,
        () => undefined,
      ),
    AGAIN,
  );
  await until(soon, async () => threads.length === 4 || undefined, AGAIN);
  assert.deepEqual(warnings, Array(2).fill('a thread of the proxy ended; another takes its place'));
});
