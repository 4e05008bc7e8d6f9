import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { test } from 'node:test';
import { Worker } from 'node:worker_threads';
import { FakeClock, systemClock, type Clock } from '../../base/clock.ts';
import { newId } from '../../base/ids.ts';
import { silent } from '../../base/logger.ts';
import { Failure } from '../../model/failure.ts';
import {
  freePort,
  gone,
  hear,
  oneChunk,
  playGuest,
  turnsUntil,
  type PlayedGuest,
} from '../../../test/support/tcp.ts';
import { openSshPorts, type OpenSshPorts } from './ports.ts';

interface Bench {
  readonly guest: (ip: string, port?: number) => Promise<PlayedGuest>;
  readonly ports: (options?: {
    allowed?: string[];
    clock?: Clock;
    connectTimeoutMs?: number;
    guestPort?: number;
    most?: number;
  }) => OpenSshPorts;
  /** Connects to a port of the host from a loopback address. */
  readonly dial: (port: number, from?: string) => Promise<Socket>;
  readonly onEnd: (act: () => unknown) => void;
}

/** Where all guests are in these tests, and run. */
const GUEST = '127.0.0.3';
const awake = {
  begin: () => ({ payload: () => undefined, end: () => undefined }),
  arrive: async () => ({ ip: GUEST }),
};

function bench(name: string, body: (bench: Bench) => Promise<void>): void {
  test(name, async () => {
    const ends: (() => unknown)[] = [];
    try {
      await body({
        guest: async (ip, port = 0) => {
          const inside = await playGuest(ip, port);
          ends.push(() => inside.close());
          return inside;
        },
        ports: ({
          allowed = ['127.0.0.0/8'],
          clock = systemClock,
          connectTimeoutMs = 5000,
          guestPort = 22,
          most = 100,
        } = {}) => {
          const ports = openSshPorts(
            {
              log: silent,
              clock,
              visits: () => awake,
              ...{ connectTimeoutMs, guestPort, connectionsPerVm: most },
            },
            { addr: '127.0.0.1', allowedCidrs: allowed },
          );
          ends.push(() => ports.closeAll());
          return ports;
        },
        dial: async (port, from = '127.0.0.1') => {
          const socket = connect({ host: '127.0.0.1', port, localAddress: from });
          ends.push(() => socket.destroy());
          await once(socket, 'connect');
          socket.on('error', () => undefined);
          return socket;
        },
        onEnd: (act) => void ends.push(act),
      });
    } finally {
      for (const end of ends.reverse()) await end();
    }
  });
}

bench('a guest that still boots is waited for', async ({ guest, ports, dial }) => {
  const clock = new FakeClock();
  const guestPort = await freePort();
  const gateway = ports({ guestPort, clock });
  const [vmId, port] = [newId('vm'), await freePort()];
  await gateway.open({ vmId, port });
  const client = await dial(port);
  client.write('early');
  // It has been refused once it sleeps until the next try.
  await turnsUntil(() => clock.sleepers > 0);
  const inside = await guest(GUEST, guestPort);
  const [server] = await Promise.all([inside.next(), clock.advance(1000)]);
  assert.equal(await oneChunk(server), 'early');
});

bench(
  'bytes go both ways, and each side may end what it says and still listen',
  async ({ guest, ports, dial }) => {
    const inside = await guest(GUEST);
    const gateway = ports({ guestPort: inside.port });
    const vmId = newId('vm');
    const port = await freePort();
    await gateway.open({ vmId, port });
    const arrival = inside.next();
    const client = await dial(port);
    const sshd = await arrival;
    client.write('SSH-2.0-client\r\n');
    assert.equal(await oneChunk(sshd), 'SSH-2.0-client\r\n');
    assert.equal(gateway.connections(vmId), 1);
    client.end('bye');
    assert.equal((await hear(sshd)).toString(), 'bye');
    sshd.end('still here');
    assert.equal((await hear(client)).toString(), 'still here');
    client.destroy();
  },
);

bench('sixty megabytes arrive whole in both directions at once', async ({ guest, ports, dial }) => {
  const inside = await guest(GUEST);
  const gateway = ports({ guestPort: inside.port });
  const port = await freePort();
  await gateway.open({ vmId: newId('vm'), port });
  const arrival = inside.next();
  const client = await dial(port);
  const sshd = await arrival;
  const payload = Buffer.concat(Array.from({ length: 30 }, () => randomBytes(1024 * 1024)));
  const hash = (data: Buffer): string => createHash('sha256').update(data).digest('hex');
  client.end(payload);
  sshd.end(payload);
  const [there, here] = await Promise.all([hear(sshd), hear(client)]);
  assert.equal(hash(there), hash(payload));
  assert.equal(hash(here), hash(payload));
});

bench(
  'a client that never reads holds the guest back instead of filling our memory',
  async ({ guest, ports, dial }) => {
    const inside = await guest(GUEST);
    const gateway = ports({ guestPort: inside.port });
    const port = await freePort();
    await gateway.open({ vmId: newId('vm'), port });
    const arrival = inside.next();
    const client = await dial(port);
    client.pause();
    const sshd = await arrival;
    const chunk = Buffer.alloc(1024 * 1024);
    let accepted = 0;
    const flood = (): boolean => {
      while (accepted < 256 && sshd.writableLength < 4 * chunk.length) {
        accepted++;
        sshd.write(chunk);
      }
      return accepted === 256;
    };
    flood();
    // As long as anything moves there is work in the event loop; 200 turns without a byte leaving mean it stands still.
    let still = 0;
    for (let before = -1; still < 200;) {
      await new Promise((resolve) => setImmediate(resolve));
      if (flood()) break;
      still = sshd.bytesWritten - sshd.writableLength === before ? still + 1 : 0;
      before = sshd.bytesWritten - sshd.writableLength;
    }
    assert.ok(accepted < 256, 'the guest could send 256 MiB to a client that reads nothing');
  },
);

bench(
  'a client that aborts is gone for the guest too, and the other way round',
  async ({ guest, ports, dial }) => {
    const inside = await guest(GUEST);
    const gateway = ports({ guestPort: inside.port });
    const vmId = newId('vm');
    const port = await freePort();
    await gateway.open({ vmId, port });
    for (const who of ['client', 'guest'] as const) {
      const arrival = inside.next();
      const client = await dial(port);
      const sshd = await arrival;
      client.write('x');
      await oneChunk(sshd);
      const [aborts, hears] = who === 'client' ? [client, sshd] : [sshd, client];
      const gone = new Promise((resolve) => hears.once('close', resolve));
      hears.resume();
      aborts.resetAndDestroy();
      await gone;
    }
  },
);

bench(
  'a source outside the allowed networks is closed without reaching the guest',
  async ({ guest, ports, dial }) => {
    const inside = await guest(GUEST);
    const gateway = ports({ guestPort: inside.port, allowed: ['127.0.0.1/32'] });
    const port = await freePort();
    await gateway.open({ vmId: newId('vm'), port });
    const stranger = await dial(port, '127.0.0.2');
    assert.equal((await hear(stranger)).length, 0);
    const arrival = inside.next();
    await dial(port, '127.0.0.1');
    await arrival;
    assert.equal(inside.seen.length, 1);
  },
);

bench(
  'connections above the limit of a VM are closed, and there is room again when one ends',
  async ({ guest, ports, dial }) => {
    const inside = await guest(GUEST);
    const gateway = ports({ guestPort: inside.port, most: 2 });
    const vmId = newId('vm');
    const port = await freePort();
    await gateway.open({ vmId, port });
    const held: Socket[] = [];
    for (let i = 0; i < 2; i++) {
      const arrival = inside.next();
      held.push(await dial(port));
      await arrival;
    }
    assert.equal(gateway.connections(vmId), 2);
    assert.equal((await hear(await dial(port))).length, 0);
    assert.equal(inside.seen.length, 2);
    for (const socket of inside.seen) socket.end();
    for (const socket of held) socket.resume().end();
    await Promise.all(held.map(gone));
    await turnsUntil(() => gateway.connections(vmId) === 0);
    const arrival = inside.next();
    await dial(port);
    await arrival;
  },
);

bench(
  'who has shown no banner makes room for others at a VM that is full, whoever speaks SSH does not',
  async ({ guest, ports, dial }) => {
    const inside = await guest(GUEST);
    const clock = new FakeClock();
    const gateway = ports({ guestPort: inside.port, clock, most: 2 });
    const vmId = newId('vm');
    const port = await freePort();
    await gateway.open({ vmId, port });
    const enter = async (): Promise<Socket> => {
      const arrival = inside.next();
      const client = await dial(port);
      await arrival;
      return client;
    };
    const speaks = await enter();
    speaks.write('SSH-2.0-client\r\n');
    await oneChunk(inside.seen[0] ?? assert.fail());
    const silence = await enter();
    await clock.advance(1999);
    assert.equal((await hear(await dial(port))).length, 0, 'it has only just come');
    await clock.advance(1);
    const late = await enter();
    await gone(silence);
    assert.deepEqual([gateway.connections(vmId), speaks.destroyed, late.destroyed], [2, false, false]);
    late.write('SSH-2.0-client\r\n');
    await oneChunk(inside.seen[2] ?? assert.fail());
    await clock.advance(60_000);
    assert.equal((await hear(await dial(port))).length, 0, 'both speak');
  },
);

bench('a guest that goes on refusing ends the connection', async ({ ports, dial }) => {
  const gateway = ports({ guestPort: await freePort(), connectTimeoutMs: 150 });
  const vmId = newId('vm');
  const port = await freePort();
  await gateway.open({ vmId, port });
  const client = await dial(port);
  client.on('data', () => assert.fail('nobody can have said anything'));
  await gone(client);
  await turnsUntil(() => gateway.connections(vmId) === 0);
});

bench(
  'a guest that does not answer ends the connection within the time allowed',
  async ({ ports, dial, onEnd }) => {
    // A listener whose thread sleeps and whose queue is full: the kernel leaves further connections unanswered.
    const worker = new Worker(
      `const { parentPort } = require('node:worker_threads');
     const server = require('node:net').createServer().listen({ host: '${GUEST}', port: 0, backlog: 1 }, () => {
       parentPort.postMessage(server.address().port);
       setImmediate(() => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0));
     });`,
      { eval: true },
    );
    onEnd(() => worker.terminate());
    const [guestPort] = (await once(worker, 'message')) as [number];
    for (let i = 0; i < 4; i++) {
      const filler = connect({ host: GUEST, port: guestPort }).on('error', () => undefined);
      onEnd(() => filler.destroy());
      if (i < 2) await once(filler, 'connect');
    }
    const gateway = ports({ guestPort, connectTimeoutMs: 150 });
    const vmId = newId('vm');
    const port = await freePort();
    await gateway.open({ vmId, port });
    const began = Date.now();
    const client = await dial(port);
    client.resume();
    await gone(client);
    const took = Date.now() - began;
    assert.ok(took >= 140 && took < 3000, `took ${took} ms`);
  },
);

bench(
  'opened again at the same port nothing breaks, at another it is there instead',
  async ({ guest, ports, dial }) => {
    const inside = await guest(GUEST);
    const gateway = ports({ guestPort: inside.port });
    const vmId = newId('vm');
    const port = await freePort();
    await gateway.open({ vmId, port });
    let arrival = inside.next();
    const first = await dial(port);
    const sshd = await arrival;
    await gateway.open({ vmId, port });
    first.write('x');
    assert.equal(await oneChunk(sshd), 'x');
    const other = await freePort();
    await gateway.open({ vmId, port: other });
    assert.equal(await gateway.isFree(port), true);
    assert.deepEqual(gateway.vmIds(), [vmId]);
    arrival = inside.next();
    await dial(other);
    await arrival;
  },
);

bench(
  'close ends what is connected and frees the port, and does nothing where nothing is open',
  async ({ guest, ports, dial }) => {
    const inside = await guest(GUEST);
    const gateway = ports({ guestPort: inside.port });
    const vmId = newId('vm');
    const port = await freePort();
    assert.equal(await gateway.isFree(port), true);
    await gateway.open({ vmId, port });
    assert.equal(await gateway.isFree(port), false);
    const arrival = inside.next();
    const client = await dial(port);
    const sshd = await arrival;
    const ended = [gone(client), gone(sshd)];
    await gateway.close(vmId);
    await Promise.all(ended);
    assert.equal(gateway.connections(vmId), 0);
    assert.equal(await gateway.isFree(port), true);
    await gateway.close(vmId);
  },
);

bench('closeAll closes every port', async ({ guest, ports }) => {
  const inside = await guest(GUEST);
  const gateway = ports({ guestPort: inside.port });
  const numbers = [await freePort(), await freePort()];
  for (const port of numbers) await gateway.open({ vmId: newId('vm'), port });
  await gateway.closeAll();
  for (const port of numbers) assert.equal(await gateway.isFree(port), true);
});

bench('a port that another program has is refused by its number', async ({ guest, ports }) => {
  const other = await guest('127.0.0.1');
  const gateway = ports();
  assert.equal(await gateway.isFree(other.port), false);
  await assert.rejects(
    gateway.open({ vmId: newId('vm'), port: other.port }),
    (error: unknown) =>
      error instanceof Failure &&
      error.code === 'unavailable' &&
      error.message.includes(`Port ${other.port}`) &&
      error.details['port'] === other.port,
  );
});

bench('an address the host does not have is named', async () => {
  const gateway = openSshPorts(
    { log: silent, clock: systemClock, visits: () => awake, connectTimeoutMs: 100 },
    { addr: '192.0.2.77', allowedCidrs: ['127.0.0.1/32'] },
  );
  await assert.rejects(gateway.isFree(2200), /no address 192\.0\.2\.77/);
});
