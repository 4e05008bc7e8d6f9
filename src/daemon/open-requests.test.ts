import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer, request, type IncomingMessage, type Server } from 'node:http';
import { setImmediate } from 'node:timers/promises';
import { after, afterEach, before, test } from 'node:test';
import { makeFakeHost, type FakeDaemon, type FakeHost } from '../../test/support/fake-daemon.ts';
import { systemClock } from '../base/clock.ts';
import { parseId, type VmId } from '../base/ids.ts';
import { until } from '../base/until.ts';

let host: FakeHost;
let hatch: FakeDaemon;
/** Stands where the guest's network leads to: all of 127/8 is this machine's. */
let guest: Server;
let vmId: VmId;

before(async () => {
  host = await makeFakeHost();
  const net = host.sshAddr.split('.').slice(0, 3).join('.');
  hatch = await host.start({ HATCH_BRIDGE_CIDR: `${net}.1/24` });
  guest = createServer((asked, response) => {
    if (asked.url === '/silent') return;
    if (asked.url === '/half') return void response.writeHead(200).write('some');
    response.end('fine');
  });
  guest.on('upgrade', (_asked: IncomingMessage, socket) => {
    socket.resume().on('end', () => socket.end());
    socket.write('HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n');
  });
});
after(async () => {
  guest.close();
  guest.closeAllConnections();
  await host.end();
});
afterEach(() => unused());

async function makePublished(name: string): Promise<void> {
  const vm = await hatch.makeVm({ name });
  vmId = parseId('vm', String(vm['id'])) ?? assert.fail();
  if (guest.listening) {
    guest.closeAllConnections();
    await new Promise((resolve) => guest.close(resolve));
  }
  guest.listen(8000, String(vm['guest_ip']));
  await once(guest, 'listening');
  await hatch.call('POST', `/vms/${name}/routes`, { subdomain: name, target_port: 8000 });
}

/** Resolves when nobody uses the VM; rejects when that is not soon. */
async function unused(): Promise<void> {
  const within = AbortSignal.timeout(5000);
  while (hatch.daemon.world.activity.of(vmId).open.length > 0) {
    within.throwIfAborted();
    await setImmediate();
  }
}

const ask = (name: string, path: string, headers = {}): Promise<IncomingMessage> =>
  new Promise((resolve, reject) => {
    const at = { host: host.sshAddr, port: 9090, agent: false, path };
    const sent = request({ ...at, headers: { host: `${name}.hatch.localhost`, ...headers } }, resolve);
    sent.on('upgrade', resolve);
    sent.on('error', reject);
    sent.end();
  });

const connectionsOf = async (server: Server): Promise<number> =>
  new Promise((resolve, reject) =>
    server.getConnections((error, count) => (error ? reject(error) : resolve(count))),
  );

/** Opens requests of all kinds, does something to their VM, and asserts that all of them end with it. */
async function cutOff(name: string, work: () => Promise<unknown>): Promise<void> {
  assert.equal((await ask(name, '/')).statusCode, 200);
  const half = await ask(name, '/half');
  const other = await ask(name, '/', { connection: 'Upgrade', upgrade: 'echo' });
  const silent = ask(name, '/silent');
  const within = AbortSignal.timeout(5000);
  while (hatch.daemon.world.activity.of(vmId).open.length < 3) {
    within.throwIfAborted();
    await setImmediate();
  }
  const ended = Promise.all([assert.rejects(half.toArray(), /aborted/), once(other.socket, 'close')]);
  await work();
  const answer = await silent;
  assert.equal(answer.statusCode, 502);
  assert.match((await answer.setEncoding('utf8').toArray()).join(''), /stopped or put to sleep before it/);
  await ended;
  await unused();
  while ((await connectionsOf(guest)) > 0) {
    within.throwIfAborted();
    await setImmediate();
  }
}

test('requests that are open end when their VM is put to sleep, stopped, rebooted, ends by itself or is deleted', async () => {
  await makePublished('web');
  await cutOff('web', () => hatch.call('POST', '/vms/web/snapshot', {}));
  assert.equal((await hatch.call('GET', '/vms/web')).status, 200);
  assert.ok(Number((await ask('web', '/')).headers['hatch-wake-ms']) >= 0, 'the next one wakes it');
  await cutOff('web', () => hatch.call('POST', '/vms/web/reboot', {}));
  await cutOff('web', () => hatch.call('POST', '/vms/web/stop', { grace_seconds: 0 }));
  assert.equal((await ask('web', '/')).statusCode, 503);
  await hatch.call('POST', '/vms/web/start', {});
  await cutOff('web', async () => {
    await hatch.daemon.world.fleet.get(vmId)?.machine.kill();
  });
  await hatch.daemon.world.fleet.watch(
    vmId,
    async () => ((await hatch.daemon.world.store.vms.get(vmId))?.state === 'error' ? true : undefined),
    AbortSignal.timeout(5000),
  );
  await hatch.call('POST', '/vms/web/start', {});
  await cutOff('web', () => hatch.call('DELETE', '/vms/web'));
  assert.equal((await ask('web', '/')).statusCode, 404);
});

test('requests that are open go on while their VM is saved or copied and runs on', async () => {
  await makePublished('other');
  const half = await ask('other', '/half');
  await once(half, 'data');
  await hatch.call('POST', '/vms/other/snapshot', { keep_running: true });
  await hatch.call('POST', '/vms/other/fork', { name: 'copy' });
  assert.equal((await ask('other', '/')).statusCode, 200);
  assert.ok(!half.destroyed);
  await until(
    { clock: systemClock, signal: AbortSignal.timeout(10_000) },
    async () => hatch.daemon.world.activity.of(vmId).open.length === 1 || undefined,
  );
  half.destroy();
});
