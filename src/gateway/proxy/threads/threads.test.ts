import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import { test } from 'node:test';
import { connect } from 'node:tls';
import { CERTIFICATES } from '../../../../test/support/certificates.ts';
import { listening, portOf } from '../../../../test/support/proxied-guest.ts';
import { systemClock } from '../../../base/clock.ts';
import { silent } from '../../../base/logger.ts';
import { ActivityTracker } from '../../../ops/activity.ts';
import { RouteBook } from '../../../ops/route-book.ts';
import type { Visits } from '../../../ops/visits.ts';
import { ProxyThreads } from './threads.ts';

const byName = async (): Promise<null> => null;
const deps = {
  // Nobody asks for a guest here.
  visits: {} as Visits,
  activity: new ActivityTracker({ clock: systemClock }),
  routeBook: new RouteBook({ store: { routes: { byName } }, clock: systemClock }),
  log: silent,
  clock: systemClock,
};
const options = { threads: 2, baseDomain: 'hatch.localhost', wakeTimeoutMs: 1000, trustedProxies: [] };

async function freePort(): Promise<number> {
  const server = createServer();
  await listening(server);
  const port = portOf(server);
  server.close();
  return port;
}

/** The names of the certificates that so many connections are shown. */
async function shown(port: number, count: number): Promise<ReadonlySet<string>> {
  const prints = await Promise.all(
    Array.from({ length: count }, async () => {
      const socket = connect({ port, host: '127.0.0.1', rejectUnauthorized: false });
      await once(socket, 'secureConnect');
      const { fingerprint256 } = socket.getPeerCertificate();
      socket.destroy();
      return fingerprint256;
    }),
  );
  return new Set(prints);
}

test('all threads show a new certificate, and go on with the old one where the new will not do', async () => {
  const place = { host: '127.0.0.1', port: await freePort() };
  const threads = new ProxyThreads(deps, { ...options, place, certificate: CERTIFICATES.one });
  await threads.open();
  try {
    const first = await shown(place.port, 20);
    assert.equal(first.size, 1);
    await threads.renew(CERTIFICATES.other);
    const second = await shown(place.port, 20);
    assert.equal(second.size, 1);
    assert.notDeepEqual(second, first);
    await assert.rejects(threads.renew({ cert: CERTIFICATES.one.cert, key: 'nonsense' }));
    assert.deepEqual(await shown(place.port, 20), second);
  } finally {
    await threads.close();
  }
  const late = connect({ port: place.port, host: '127.0.0.1' });
  const [error] = (await once(late, 'error')) as [NodeJS.ErrnoException];
  assert.equal(error.code, 'ECONNREFUSED', 'nobody listens any more');
});

test('where one cannot listen none does, and the reason is told', async () => {
  const taken: Server = createServer();
  await listening(taken);
  const place = { host: '127.0.0.1', port: portOf(taken) };
  try {
    const threads = new ProxyThreads(deps, { ...options, place });
    await assert.rejects(threads.open(), { code: 'EADDRINUSE' });
    assert.equal(threads.size, 0);
  } finally {
    taken.close();
  }
});
