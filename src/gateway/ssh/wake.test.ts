import assert from 'node:assert/strict';
import { randomInt } from 'node:crypto';
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { test } from 'node:test';
import { makeHostFolder, openFakeWorld, over, type FakeWorld } from '../../../test/support/fake-world.ts';
import { gone, hear, oneChunk, playGuest, turnsUntil, type PlayedGuest } from '../../../test/support/tcp.ts';
import { FakeClock } from '../../base/clock.ts';
import { silent } from '../../base/logger.ts';
import type { Activity } from '../../model/activity.ts';
import type { HatchEvent } from '../../model/records.ts';
import type { Vm } from '../../model/vm.ts';
import { ownerOf } from '../../ops/owner.ts';
import { Refusals } from '../../ops/refusals.ts';
import { SshVisits } from '../../ops/ssh-visits.ts';
import { carryOutStop } from '../../ops/stop-vm.ts';
import { Waker } from '../../ops/waker.ts';
import { VmmError, type Driver } from '../../vmm/driver.ts';
import { openSshPorts, type OpenSshPorts } from './ports.ts';

const READY = { until: 'ready', timeoutMs: 10_000 } as const;
const BANNER = 'SSH-2.0-OpenSSH_9.9\r\n';

interface Bench extends FakeWorld {
  /** It sleeps. */
  readonly vm: Vm;
  /** Where the VM's sshd is. */
  readonly guest: PlayedGuest;
  readonly ports: OpenSshPorts;
  readonly clock: FakeClock;
  /** Connects to the VM's SSH port; a source of 127.0.0.1 alone may. */
  readonly dial: (from?: string) => Promise<Socket>;
  readonly state: () => Promise<Vm['state']>;
  readonly events: (kind: string) => Promise<readonly HatchEvent[]>;
  readonly use: () => Activity;
  /** How often a machine was loaded. */
  readonly loads: () => number;
  /** What happens at each load from now on. */
  readonly atLoad: (work: () => Promise<void>) => void;
}

/** A sleeping VM, real sockets before it and behind it, and a gateway with a clock of its own. */
function bench(name: string, body: (bench: Bench) => Promise<void>): void {
  test(name, async () => {
    const host = await makeHostFolder();
    const net = `127.${randomInt(1, 255)}.${randomInt(1, 255)}`;
    const guest = await playGuest(`${net}.2`);
    const clock = new FakeClock();
    const late: { visits?: SshVisits } = {};
    const ports = openSshPorts(
      {
        log: silent,
        clock,
        visits: () => late.visits,
        connectTimeoutMs: 5000,
        guestPort: guest.port,
        silentConnections: 3,
      },
      { addr: `${net}.1`, allowedCidrs: ['127.0.0.1/32'] },
    );
    let loads = 0;
    let work = async (): Promise<void> => undefined;
    const wrapDriver = (driver: Driver): Driver =>
      over(driver, {
        load: async (...how) => {
          loads++;
          await work();
          return driver.load(...how);
        },
      });
    const fake = await openFakeWorld(host, { ports, wrapDriver, cidr: `${net}.1/24` });
    const { world, hatch, caller } = fake;
    const sockets: Socket[] = [];
    try {
      const timed = { ...world, clock };
      late.visits = new SshVisits(world, new Waker(timed), new Refusals(timed));
      const vm = await hatch.vms.create(caller, { guestIp: guest.ip }, READY);
      await hatch.vms.snapshot(caller, vm.id, { keepRunning: false });
      loads = 0;
      await body({
        ...fake,
        ...{ vm, guest, ports, clock },
        dial: async (from = '127.0.0.1') => {
          const port = vm.network?.sshPort ?? 0;
          const socket = connect({ host: `${net}.1`, port, localAddress: from });
          sockets.push(socket);
          await once(socket, 'connect');
          socket.on('error', () => undefined);
          return socket;
        },
        state: async () => (await hatch.vms.get(caller, vm.id)).state,
        events: (kind) => world.store.events.list({ vmId: vm.id, kind }, { limit: 100 }),
        use: () => world.activity.of(vm.id),
        loads: () => loads,
        atLoad: (next) => (work = next),
      });
    } finally {
      for (const socket of sockets) socket.destroy();
      await ports.closeAll();
      await guest.close();
      await fake.close();
      await host.remove();
    }
  });
}

bench(
  'a banner wakes a sleeping VM: it reaches the guest, and the connection is a use until it ends',
  async ({ dial, guest, state, events, use }) => {
    const before = use().version;
    const arrival = guest.next();
    const client = await dial();
    // However it comes.
    client.setNoDelay(true);
    client.write(BANNER.slice(0, 2));
    await turnsUntil(() => client.bytesWritten === 2);
    client.write(BANNER.slice(2));
    const sshd = await arrival;
    assert.equal(await oneChunk(sshd), BANNER);
    sshd.write('SSH-2.0-guest\r\n');
    assert.equal(await oneChunk(client), 'SSH-2.0-guest\r\n');
    assert.equal(await state(), 'running');
    const [woken, ...more] = await events('vm.woken');
    assert.deepEqual([woken?.message, more], ['Woken by ssh from 127.0.0.1.', []]);
    assert.ok(use().version > before);
    assert.deepEqual(
      use().open.map(({ by }) => by),
      ['ssh'],
    );
    client.end();
    sshd.end();
    await turnsUntil(() => use().open.length === 0);
  },
);

bench(
  'who shows no banner wakes nothing and is no use: a scan, another protocol, silence for half a minute',
  async ({ dial, guest, state, use, loads, clock, ports, vm }) => {
    const { version } = use();
    (await dial()).destroy();
    const other = await dial();
    other.write('GET / HTTP/1.1\r\n\r\n');
    assert.equal((await hear(other)).length, 0);
    const half = await dial();
    half.end('SSH');
    assert.equal((await hear(half)).length, 0);
    const silence = await dial();
    await turnsUntil(() => clock.sleepers === 1);
    await clock.advance(29_000);
    assert.equal(ports.connections(vm.id), 1);
    await clock.advance(1000);
    assert.equal((await hear(silence)).length, 0);
    await turnsUntil(() => ports.connections(vm.id) === 0);
    assert.deepEqual([await state(), loads(), guest.seen.length], ['snapshotted', 0, 0]);
    assert.equal(use().version, version);
  },
);

bench(
  'a source outside the allowed networks wakes nothing, whatever it shows',
  async ({ dial, loads, state, ports, vm }) => {
    const stranger = await dial('127.0.0.2');
    stranger.write(BANNER);
    await gone(stranger);
    assert.equal(ports.connections(vm.id), 0);
    assert.deepEqual([await state(), loads()], ['snapshotted', 0]);
  },
);

bench(
  'so many may wait without a banner on all ports and no more; who shows one then comes in',
  async ({ dial, clock, ports, vm, guest }) => {
    const held = [await dial(), await dial(), await dial()];
    await turnsUntil(() => clock.sleepers === 3);
    assert.equal((await hear(await dial())).length, 0, 'closed at once');
    held[0]?.destroy();
    await turnsUntil(() => clock.sleepers === 2);
    await dial();
    await turnsUntil(() => clock.sleepers === 3);
    const arrival = guest.next();
    held[1]?.write(BANNER);
    await arrival;
    assert.equal(ports.connections(vm.id), 3);
  },
);

bench(
  'of those who wait without a banner the one that came first makes room, once it has been silent for a moment',
  async ({ dial, clock, ports, vm }) => {
    const held = [await dial(), await dial(), await dial()];
    await turnsUntil(() => clock.sleepers === 3);
    await clock.advance(1999);
    assert.equal((await hear(await dial())).length, 0, 'closed at once');
    await clock.advance(1);
    const late = await dial();
    await gone(held[0] ?? assert.fail());
    await turnsUntil(() => clock.sleepers === 3);
    assert.equal(ports.connections(vm.id), 3);
    assert.deepEqual(
      [held[1], held[2], late].map((socket) => socket?.destroyed),
      [false, false, false],
    );
  },
);

bench('twenty clients at once are one wake, and all come through', async ({ dial, guest, loads, events }) => {
  const clients = await Promise.all(Array.from({ length: 20 }, () => dial()));
  for (const client of clients) client.write(BANNER);
  await turnsUntil(() => guest.seen.length === 20);
  const heard = guest.seen.map((sshd) => oneChunk(sshd));
  assert.deepEqual(
    await Promise.all(heard),
    Array.from({ length: 20 }, () => BANNER),
  );
  assert.equal(loads(), 1);
  assert.equal((await events('vm.woken')).length, 1);
});

bench(
  'a client that goes away while its VM wakes is let go at once, and the wake comes to its end',
  async ({ dial, guest, ports, vm, atLoad, loads, use, hatch, caller }) => {
    const { promise: held, resolve: letGo } = Promise.withResolvers<void>();
    atLoad(() => held);
    const [aborting, ending] = [await dial(), await dial()];
    for (const client of [aborting, ending]) client.write(BANNER);
    await turnsUntil(() => loads() === 1 && use().open.length === 2);
    aborting.resetAndDestroy();
    ending.end();
    await turnsUntil(() => ports.connections(vm.id) === 0);
    assert.deepEqual(use().open, []);
    letGo();
    await hatch.vms.get(caller, vm.id, { until: 'running', timeoutMs: 10_000 });
    assert.deepEqual([loads(), guest.seen.length], [1, 0]);
  },
);

bench(
  'a wake that fails closes the connection; who is turned away from then on is told of once a minute',
  async ({ dial, atLoad, loads, events, clock, state, use }) => {
    atLoad(() => Promise.reject(new VmmError('no memory left')));
    const knock = async (): Promise<void> => {
      const client = await dial();
      client.write(BANNER);
      assert.equal((await hear(client)).length, 0);
      await turnsUntil(() => use().open.length === 0);
    };
    for (let times = 0; times < 4; times++) await knock();
    assert.deepEqual([await state(), loads()], ['snapshotted', 1]);
    const told = async (): Promise<unknown> =>
      (await events('vm.wake_refused')).map(({ message, data }) => [message, data['code'], data['times']]);
    const first = ['Not woken by ssh from 127.0.0.1: The hypervisor failed: no memory left', 'vmm_failed', 1];
    assert.deepEqual(await told(), [first]);
    await clock.advance(60_000);
    await knock();
    assert.deepEqual(await told(), [
      [
        'Not woken by ssh from 127.0.0.1: The hypervisor failed: no memory left It is the latest of 4.',
        'vmm_failed',
        4,
      ],
      first,
    ]);
    atLoad(async () => undefined);
    await clock.advance(60_000);
    const client = await dial();
    client.write(BANNER);
    await turnsUntil(async () => (await state()) === 'running');
  },
);

bench(
  'a VM that falls asleep ends what led to it and goes on listening; a client that comes meanwhile is woken for',
  async ({ dial, guest, hatch, caller, vm, loads }) => {
    await hatch.vms.start(caller, vm.id);
    let arrival = guest.next();
    const before = await dial();
    before.write(BANNER);
    await arrival;
    const asleep = hatch.vms.snapshot(caller, vm.id, { keepRunning: false });
    await turnsUntil(async () => (await hatch.vms.get(caller, vm.id)).operation !== null);
    arrival = guest.next();
    const meanwhile = await dial();
    meanwhile.write(BANNER);
    await Promise.all([gone(before), asleep]);
    assert.equal(await oneChunk(await arrival), BANNER);
    assert.equal(loads(), 2);
    assert.equal(meanwhile.destroyed, false);
  },
);

bench(
  'a guest that runs is reached without a banner; only from the banner on that is a use of it',
  async ({ dial, guest, hatch, caller, vm, use }) => {
    await hatch.vms.start(caller, vm.id);
    const { version } = use();
    const arrival = guest.next();
    const client = await dial();
    const sshd = await arrival;
    sshd.write('SSH-2.0-guest\r\n');
    assert.equal(await oneChunk(client), 'SSH-2.0-guest\r\n');
    assert.equal(use().version, version, 'a scan does not keep it awake');
    client.write(BANNER);
    assert.equal(await oneChunk(sshd), BANNER);
    assert.equal(use().version, version + 1);
    const [{ lastPayloadAt = 0 } = {}] = use().open;
    sshd.write('more');
    await oneChunk(client);
    const payloadAt = (): number => use().open[0]?.lastPayloadAt ?? 0;
    assert.ok(payloadAt() > lastPayloadAt, 'what the guest says counts');
    const then = payloadAt();
    client.write('more');
    await oneChunk(sshd);
    assert.ok(payloadAt() > then, 'what the client says counts');
  },
);

bench(
  'one that was stopped by policy boots for a client, one that a person stopped has no port',
  async ({ dial, guest, hatch, caller, vm, world, state }) => {
    await hatch.vms.start(caller, vm.id);
    await world.flights.fly(
      vm.id,
      'stop',
      () => world.store.operations.begin({ id: vm.id, owner: ownerOf(vm) }, 'stop', { by: 'policy' }),
      (operation, signal) => carryOutStop(world, operation, signal),
    );
    assert.equal(await state(), 'stopped');
    const arrival = guest.next();
    const client = await dial();
    client.write(BANNER);
    assert.equal(await oneChunk(await arrival), BANNER);
    assert.equal(await state(), 'running');
    await hatch.vms.stop(caller, vm.id, { graceSeconds: 0 });
    await gone(client);
    await assert.rejects(dial(), /ECONNREFUSED/);
    await hatch.vms.start(caller, vm.id);
    await hatch.vms.delete(caller, vm.id);
    await assert.rejects(dial(), /ECONNREFUSED/);
  },
);

bench(
  'a client that is being led to a guest that falls asleep is led to it again once it is awake',
  async ({ dial, guest, vm, clock, ports, loads, hatch, caller }) => {
    await hatch.vms.start(caller, vm.id);
    await guest.close();
    const client = await dial();
    client.write(BANNER);
    // It was refused, and sleeps until the next try.
    await turnsUntil(() => clock.sleepers === 1);
    await hatch.vms.snapshot(caller, vm.id, { keepRunning: false });
    const again = await playGuest(guest.ip, guest.port);
    try {
      assert.equal(await oneChunk(await again.next()), BANNER);
      assert.equal(loads(), 2);
      assert.equal(ports.connections(vm.id), 1);
    } finally {
      await again.close();
    }
  },
);

test('where nobody is asked yet, and where a VM is another host’s, connections are closed', async () => {
  const addr = `127.${randomInt(1, 255)}.${randomInt(1, 255)}.1`;
  let visits: SshVisits | undefined;
  const ports = openSshPorts(
    { log: silent, clock: new FakeClock(), visits: () => visits, connectTimeoutMs: 5000 },
    { addr, allowedCidrs: ['127.0.0.1/32'] },
  );
  const host = await makeHostFolder();
  await using fake = await openFakeWorld(host, { ports });
  const { world, hatch, caller } = fake;
  try {
    const vm = await hatch.vms.create(caller, {}, READY);
    await hatch.vms.snapshot(caller, vm.id, { keepRunning: false });
    const knock = async (): Promise<number> => {
      const client = connect({ host: addr, port: vm.network?.sshPort ?? 0, localAddress: '127.0.0.1' });
      client.write(BANNER);
      // Reset where the banner came before it was closed.
      client.on('error', () => undefined);
      await gone(client);
      return client.bytesRead;
    };
    assert.equal(await knock(), 0);
    const settings = { ...world.settings, hostId: 'another' };
    visits = new SshVisits({ ...world, settings }, new Waker(world), new Refusals(world));
    assert.equal(await knock(), 0);
    assert.equal((await hatch.vms.get(caller, vm.id)).state, 'snapshotted');
    const [refused] = await world.store.events.list({ vmId: vm.id, kind: 'vm.wake_refused' }, { limit: 1 });
    assert.match(refused?.message ?? '', /is on host "test-host": ask there/);
  } finally {
    await ports.closeAll();
    await host.remove();
  }
});
