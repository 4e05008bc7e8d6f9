import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer, type Server, type Socket } from 'node:net';
import { test } from 'node:test';
import { abortReason, FakeClock, systemClock } from '../base/clock.ts';
import { AgentGone, type GuestAgent } from './agent.ts';
import { waitReady } from './readiness.ts';

const never = new AbortController().signal;

function agentThat(ping: (signal: AbortSignal) => Promise<void>): GuestAgent {
  const no = async (): Promise<never> => assert.fail('only ping is to be called');
  const rest = { read: no, write: no, open: no, setTime: no, time: no, shutdown: no, info: no };
  return { ping, exec: no, start: no, ...rest, close: () => undefined };
}

const silent = agentThat(
  (signal) => new Promise((_, reject) => signal.addEventListener('abort', () => reject(abortReason(signal)))),
);

/** A server on the loopback; `visits` is how many came. */
async function serve(
  onVisit: (socket: Socket, visit: number) => void,
): Promise<{ server: Server; port: number; visits: () => number } & AsyncDisposable> {
  let visits = 0;
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => undefined);
    socket.on('data', () => undefined);
    onVisit(socket, ++visits);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  assert(typeof address === 'object' && address !== null);
  return {
    server,
    port: address.port,
    visits: () => visits,
    [Symbol.asyncDispose]: async () => {
      for (const socket of sockets) socket.destroy();
      server.close();
      await once(server, 'close');
    },
  };
}

/** Moves a fake clock on whenever someone sleeps, until the work is done. */
async function hurry<T>(clock: FakeClock, work: Promise<T>): Promise<T> {
  let done = false;
  const finish = work.finally(() => (done = true));
  finish.catch(() => undefined);
  while (!done) {
    await clock.advance(20);
    await new Promise((resolve) => setImmediate(resolve));
  }
  return finish;
}

test('an agent that answers makes a guest ready, though its SSH port is silent', async () => {
  await using mute = await serve(() => undefined);
  const agent = agentThat(async () => undefined);
  const ssh = { ip: '127.0.0.1', port: mute.port };
  assert.equal(await waitReady({ agent, ssh, clock: systemClock }, never), 'agent');
});

test('an SSH banner makes a guest ready, though its agent is silent; lines before it are no matter', async () => {
  await using sshd = await serve((socket) => {
    socket.write('Welcome, not SSH-\r\nSS');
    setImmediate(() => socket.write('H-2.0-OpenSSH_9.2\r\n'));
  });
  const ssh = { ip: '127.0.0.1', port: sshd.port };
  assert.equal(await waitReady({ agent: silent, ssh, clock: systemClock }, never), 'ssh');
  assert.equal(sshd.visits(), 1);
});

test('a port that closes, or says something else, is tried again, one try at a time', async () => {
  let open = 0;
  await using flaky = await serve((socket, visit) => {
    assert.equal(++open, 1);
    socket.once('close', () => open--);
    if (visit === 1) socket.destroy();
    else if (visit === 2) socket.end('HTTP/1.1 400 Bad Request\r\n');
    else socket.end('SSH-2.0-dropbear\r\n');
  });
  const ssh = { ip: '127.0.0.1', port: flaky.port };
  assert.equal(await waitReady({ ssh, clock: systemClock }, never), 'ssh');
  assert.equal(flaky.visits(), 3);
});

test('a port that takes the connection and is silent is left after ten seconds and tried again', async () => {
  const clock = new FakeClock(0);
  const visitedAt: number[] = [];
  await using slow = await serve((socket, visit) => {
    visitedAt.push(clock.now());
    if (visit === 2) socket.write('SSH-2.0-OpenSSH_9.2\r\n');
  });
  const ssh = { ip: '127.0.0.1', port: slow.port };
  assert.equal(await hurry(clock, waitReady({ ssh, clock }, never)), 'ssh');
  assert((visitedAt[1] ?? 0) - (visitedAt[0] ?? 0) >= 10_000);
});

test('an agent whose channel breaks is asked again at a growing distance of at most a second', async () => {
  const clock = new FakeClock(0);
  const asked: number[] = [];
  const agent = agentThat(async () => {
    asked.push(clock.now());
    if (asked.length < 6) throw new AgentGone('the guest reboots');
  });
  assert.equal(await hurry(clock, waitReady({ agent, clock }, never)), 'agent');
  const distances = asked.slice(1).map((at, i) => at - (asked[i] ?? 0));
  assert(distances.every((ms, i) => ms >= (distances[i - 1] ?? 250) && ms <= 1000));
});

test('giving up ends both tries with the reason, and nobody knocks afterwards', async () => {
  await using mute = await serve(() => undefined);
  const clock = new FakeClock();
  const stop = new AbortController();
  const waiting = waitReady({ agent: silent, ssh: { ip: '127.0.0.1', port: mute.port }, clock }, stop.signal);
  stop.abort(new Error('the VM is deleted'));
  await assert.rejects(waiting, /the VM is deleted/);
  assert.equal(clock.sleepers, 0);
});

test('what an agent throws that is no lost channel is not hidden', async () => {
  const agent = agentThat(async () => {
    throw new TypeError('a defect');
  });
  await assert.rejects(waitReady({ agent, clock: systemClock }, never), TypeError);
});
