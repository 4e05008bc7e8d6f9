import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer, type AddressInfo, type Server } from 'node:net';
import { join } from 'node:path';
import { test } from 'node:test';
import { field } from '../api/test-client.ts';
import { exists } from '../host/files.ts';
import { changeFakeHost } from '../net/fake.ts';
import { Failure } from '../model/failure.ts';
import { reconcile } from '../ops/reconcile.ts';
import type { Store } from '../store/store.ts';
import { makeFakeHost, type FakeHost } from '../../test/support/fake-daemon.ts';
import { over } from '../../test/support/fake-world.ts';

/** What is in the way on the host, or missing, and what the daemon says of it. */
async function onHost(body: (host: FakeHost) => Promise<void>): Promise<void> {
  const host = await makeFakeHost();
  try {
    await body(host);
  } finally {
    await host.end();
  }
}

async function occupy(addr: string, port: number): Promise<Server> {
  const server = createServer().listen(port, addr);
  await once(server, 'listening');
  return server;
}

async function letGo(server: Server): Promise<void> {
  server.close();
  await once(server, 'close');
}

/** That the daemon does not start, says this, and holds nothing of its folder afterwards. */
async function startFails(host: FakeHost, env: Record<string, string>, says: RegExp): Promise<string> {
  const error = await host.start(env).then(
    () => assert.fail('it started'),
    (reason: unknown) => reason,
  );
  assert.ok(error instanceof Error);
  assert.match(error.message, says);
  assert.equal(await exists(join(host.data, 'hatchd.pid')), false);
  return `${error.message} ${String(error.cause)}`;
}

test('an occupied address of the API is told when hatchd starts, and the next start finds all in order', () =>
  onHost(async (host) => {
    const other = await occupy('127.0.0.1', 0);
    const { port } = other.address() as AddressInfo;
    const taken = { HATCH_HTTP_ADDR: `127.0.0.1:${port}` };
    await startFails(
      host,
      taken,
      new RegExp(`^HATCH_HTTP_ADDR 127.0.0.1:${port} is used by another program;`),
    );
    await startFails(host, { HATCH_HTTP_ADDR: '203.0.113.9:0' }, /is no address of this host/);
    await letGo(other);
    const hatch = await host.start(taken);
    assert.equal((await hatch.call('GET', '/vms')).status, 200, 'the key of the first start opens it');
  }));

test('without its hypervisor or its database hatchd does not start, and says what to do without a secret', () =>
  onHost(async (host) => {
    const qemu = { HATCH_VMM: 'qemu', HATCH_NET: 'fake', HATCH_QEMU_BIN: '/nonexistent/qemu' };
    await startFails(
      host,
      qemu,
      /QEMU \(\/nonexistent\/qemu\) is not installed; install the package qemu-sys/,
    );
    const firecracker = {
      HATCH_VMM: 'firecracker',
      HATCH_NET: 'fake',
      HATCH_FIRECRACKER_BIN: '/nonexistent/fc',
    };
    await startFails(host, firecracker, /^Firecracker \(\/nonexistent\/fc\) is not installed/);
    const postgres = { DATABASE_URL: 'postgres://hatch:hunter2@127.0.0.1:1/hatch' };
    const said = await startFails(
      host,
      postgres,
      /^The database server named in DATABASE_URL does not answer/,
    );
    assert.doesNotMatch(said, /hunter2/);
    const sqlite = { DATABASE_URL: `sqlite:${join(host.folder, 'nowhere/hatch.db')}` };
    await startFails(
      host,
      sqlite,
      /^The folder .*\/nowhere of the database does not exist; make it first\.$/,
    );
    const tls = { HATCH_HTTP_TLS_CERT: '/nonexistent.pem', HATCH_HTTP_TLS_KEY: '/nonexistent.pem' };
    await startFails(host, tls, /^HATCH_HTTP_TLS_CERT \/nonexistent\.pem is not there\.$/);
  }));

test('SSH ports of other programs are passed over; when none is left nothing is made', () =>
  onHost(async (host) => {
    const other = await occupy(host.sshAddr, 2200);
    const hatch = await host.start({ HATCH_SSH_PORT_MAX: '2201' });
    assert.equal((await hatch.makeVm({ name: 'web' }))['ssh_port'], 2201);
    const { error } = await hatch.refused('no_capacity', 'POST', '/vms', {});
    assert.equal(
      error,
      'No SSH port is free between 2200 and 2201; widen HATCH_SSH_PORT_MIN and HATCH_SSH_PORT_MAX.',
    );
    assert.equal(field((await hatch.call('GET', '/vms')).body, 'length'), 1);
    assert.equal((await hatch.call('POST', '/vms', { enable_network: false })).status, 201);
    await letGo(other);
    assert.equal((await hatch.makeVm({}))['ssh_port'], 2200);
  }));

test('a start whose SSH port somebody took is told with the port; the VM can be started when it is free', () =>
  onHost(async (host) => {
    const hatch = await host.start();
    await hatch.makeVm({ name: 'web' });
    await hatch.call('POST', '/vms/web/stop', { grace_seconds: 0 });
    const other = await occupy(host.sshAddr, 2200);
    const { error, details } = await hatch.refused('unavailable', 'POST', '/vms/web/start', {});
    assert.match(error, /^Port 2200 on 127\.\S+ is used by another program on the host; stop it, or move/);
    assert.equal(details['port'], 2200);
    const after = (await hatch.call('GET', '/vms/web')).body;
    assert.deepEqual([field(after, 'state'), field(after, 'state_reason', 'message')], ['error', error]);
    await letGo(other);
    await hatch.assertNothingLeft();
    assert.equal(field((await hatch.call('POST', '/vms/web/start', {})).body, 'state'), 'running');
  }));

test('a guest that ran on while its SSH port was taken keeps running, and has it back when it is free', () =>
  onHost(async (host) => {
    const first = await host.start();
    await first.makeVm({ name: 'web' });
    await first.stop();
    const other = await occupy(host.sshAddr, 2200);
    const second = await host.start();
    const vm = (await second.call('GET', '/vms/web?wait=ready&timeout=10')).body;
    assert.deepEqual([field(vm, 'state'), field(vm, 'ssh_port')], ['running', 2200]);
    await letGo(other);
    const { world } = second.daemon;
    assert.equal(await world.ports.isFree(2200), true);
    await reconcile(world);
    assert.equal(await world.ports.isFree(2200), false);
  }));

test('an SSH address this host does not have is told by readyz, and by the create that needs it', () =>
  onHost(async (host) => {
    const hatch = await host.start({ HATCH_SSH_ADDR: '203.0.113.9' });
    const says = 'The host has no address 203.0.113.9; correct HATCH_SSH_ADDR.';
    const ready = await hatch.refused('unavailable', 'GET', '/readyz');
    assert.equal(ready.error, `Not ready: ${says}`);
    assert.deepEqual(ready.details['missing'], [{ part: 'network', problem: says }]);
    assert.equal((await hatch.refused('unavailable', 'POST', '/vms', {})).error, says);
    assert.deepEqual((await hatch.call('GET', '/vms')).body, []);
    await hatch.stop();
    await host.start();
  }));

test('when the addresses of the bridge are used up a create is told so, and one that is freed serves again', () =>
  onHost(async (host) => {
    const hatch = await host.start({ HATCH_BRIDGE_CIDR: '10.7.0.1/29' });
    for (let i = 0; i < 5; i++) await hatch.makeVm({ name: `vm${i}` });
    const { error } = await hatch.refused('no_capacity', 'POST', '/vms', {});
    assert.match(
      error,
      /^No address is left in 10\.7\.0\.1\/29; delete VMs or give HATCH_BRIDGE_CIDR a larger/,
    );
    const vm2 = (await hatch.call('GET', '/vms/vm2')).body;
    await hatch.call('DELETE', '/vms/vm2');
    assert.equal((await hatch.makeVm({}))['guest_ip'], field(vm2, 'guest_ip'));
  }));

test('readyz says what of the host is broken, healthz goes on, and what is mended is ready again', () =>
  onHost(async (host) => {
    const broken: { store: Error | undefined } = { store: undefined };
    const wrapStore = (store: Store): Store =>
      over(store, {
        ping: () => (broken.store ? Promise.reject(broken.store) : store.ping()),
      });
    const hatch = await host.start({}, { wrapStore });
    assert.equal((await hatch.call('GET', '/readyz', undefined, { key: null })).status, 200);
    broken.store = new Failure('unavailable', 'The database server is gone.');
    await changeFakeHost(join(host.data, 'net'), (net) => {
      net.bridge = false;
      net.dhcp = null;
    });
    const { error, details } = await hatch.refused('unavailable', 'GET', '/readyz', undefined, { key: null });
    assert.equal(
      error,
      'Not ready: The database does not answer: The database server is gone. The bridge is gone. The DHCP server does not run.',
    );
    assert.deepEqual(
      (details['missing'] as { part: string }[]).map(({ part }) => part),
      ['store', 'network', 'network'],
    );
    assert.equal((await hatch.call('GET', '/healthz', undefined, { key: null })).status, 200);
    broken.store = undefined;
    await reconcile(hatch.daemon.world);
    assert.equal((await hatch.call('GET', '/readyz')).status, 200);
  }));
