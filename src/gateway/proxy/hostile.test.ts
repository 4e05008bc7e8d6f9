import assert from 'node:assert/strict';
import { once } from 'node:events';
import { Agent, request as ask, type IncomingMessage } from 'node:http';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { setImmediate } from 'node:timers/promises';
import { after, afterEach, before, test } from 'node:test';
import {
  allOf,
  listening,
  newLife,
  openProxiedGuest,
  portOf,
  type Got,
  type ProxiedGuest,
} from '../../../test/support/proxied-guest.ts';

const MIB = 2 ** 20;
const OK = 'HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine';

let one: ProxiedGuest;
/** A guest that does to each connection what a test says, and those that are open to it. */
let rough: Server;
let does: (socket: Socket) => void;
const open = new Set<Socket>();
let connections = 0;

before(async () => {
  one = await openProxiedGuest({ answerMs: 1000 });
  rough = createServer((socket) => {
    connections++;
    open.add(socket);
    socket.on('error', () => undefined).on('close', () => open.delete(socket));
    does(socket);
  });
  await listening(rough);
  one.targetPort = portOf(rough);
});
after(() => {
  one.close();
  rough.close();
  for (const socket of open) socket.destroy();
});
/** Whatever a guest did, nobody uses its VM afterwards, the proxy goes on, and no connection to it is left when its life is over. */
afterEach(async () => {
  await one.unused();
  does = (socket) => socket.once('data', () => socket.end(OK));
  assert.equal((await one.get('/')).body, 'fine');
  one.life.end();
  one.life = newLife();
  // Who does not read does not see an end either.
  for (const socket of open) socket.resume();
  await until(() => open.size === 0);
});

async function until(holds: () => boolean): Promise<void> {
  const within = AbortSignal.timeout(5000);
  while (!holds()) {
    within.throwIfAborted();
    await setImmediate();
  }
}

function errorOf({ body }: Got): string {
  return (JSON.parse(body) as { error: string }).error;
}

/** A guest that answers each request on a connection in turn, with the bytes that are given for it; '' hangs up. */
function inTurn(...answers: readonly string[]): (socket: Socket) => void {
  return (socket) => {
    let next = 0;
    socket.on('data', () => {
      const answer = answers[Math.min(next++, answers.length - 1)] ?? '';
      if (answer === '') socket.destroy();
      else socket.write(answer, 'latin1');
    });
  };
}

test('a guest that takes a request and says nothing is not waited for for ever', async () => {
  does = (socket) => socket.resume();
  const late = await one.get('/');
  assert.deepEqual([late.status, errorOf(late)], [504, 'The guest did not answer within 1 s.']);
  does = (socket) => socket.once('data', () => socket.write('HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 2'));
  assert.equal((await one.get('/')).status, 504);
});

test('what is no answer is a 502 that says why', async () => {
  for (const [answer, why] of [
    ['nonsense\r\n\r\n', /begin with a status line/],
    ['', /ended the connection without an answer/],
    ['SSH-2.0-OpenSSH_9.2\r\n', /half-way/],
    ['HTTP/1.1 200 OK\r\nX: a\nb: c\r\n\r\n', /control character/],
    ['HTTP/1.1 200 OK\r\nContent-Le', /half-way/],
    ['HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n', /both/],
    ['HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n', /nobody asked for/],
    ['\0'.repeat(100_000), /over 32768 bytes/],
  ] as const) {
    does = (socket) => socket.once('data', () => socket.end(answer, 'latin1'));
    const got = await one.get('/');
    assert.equal(got.status, 502, answer.slice(0, 60));
    assert.match(errorOf(got), why);
  }
});

test('a guest that goes on with headers, or with announcements, for ever is cut off', async (t) => {
  // By its measure alone: on a busy machine a second may be over before.
  const patient = await openProxiedGuest({ answerMs: 60_000 });
  t.after(() => patient.close());
  patient.targetPort = portOf(rough);
  for (const piece of [`X-More: ${'y'.repeat(1000)}\r\n`, 'HTTP/1.1 103 Early Hints\r\n\r\n']) {
    let [said, more] = [0, true];
    does = (socket) => {
      const talk = (): void => {
        while (more && socket.write(piece)) said += piece.length;
      };
      socket.once('data', () => {
        socket.write(piece.startsWith('X') ? 'HTTP/1.1 200 OK\r\n' : '');
        socket.on('drain', talk);
        talk();
      });
      socket.on('close', () => (more = false));
    };
    assert.equal((await patient.get('/')).status, 502);
    await until(() => !more);
    assert.ok(said < 16 * MIB, `${said} bytes were said`);
  }
});

test('an answer that ends half-way is cut off for the client too, however its length was told', async () => {
  for (const answer of [
    'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome',
    'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n',
    'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nnonsense\r\n',
  ]) {
    does = (socket) => socket.once('data', () => socket.end(answer));
    await assert.rejects(one.get('/'), /aborted|hang up/, answer);
  }
  does = (socket) => socket.once('data', () => socket.end('HTTP/1.0 200 OK\r\n\r\nwhole, by its end'));
  assert.equal((await one.get('/')).body, 'whole, by its end');
});

test('a connection serves request after request, until the guest says more than it was asked', async () => {
  does = inTurn(OK, OK, `${OK}HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison`, OK);
  connections = 0;
  for (let i = 0; i < 5; i++) assert.equal((await one.get('/')).body, 'fine');
  assert.equal(connections, 2);
  await until(() => open.size === 1);
});

test('a guest that hung up on a kept connection is asked anew, but never twice for what may do harm', async () => {
  connections = 0;
  does = inTurn(OK, '');
  for (let i = 0; i < 3; i++) assert.equal((await one.get('/')).body, 'fine');
  assert.equal(connections, 3, 'each was asked over a connection of its own in the end');
  for (let i = 0; i < 3; i++) assert.equal((await one.get('/', { method: 'POST', body: 'x' })).body, 'fine');
  assert.equal(connections, 6);
  does = inTurn('');
  assert.equal((await one.get('/')).status, 502, 'a fresh connection is tried once');
  assert.equal(connections, 7);
  does = inTurn(OK, 'HTTP/1.1 2');
  await one.get('/');
  assert.equal((await one.get('/')).status, 504, 'an answer had begun');
  assert.equal(connections, 8);
  does = inTurn(OK, 'HTTP/1.1 409 Again\r\nContent-Length: 0\r\n\r\n');
  for (const method of ['GET', 'DELETE', 'DELETE'])
    assert.equal((await one.get('/', { method })).status, 200);
  assert.equal(connections, 11, 'what changes something is sent over no connection that was kept');
  one.life.end();
  one.life = newLife();
});

test('when the guest ends, sleeps or is gone, what was open to it ends, and what comes is asked of the next', async () => {
  does = inTurn(OK);
  await one.get('/');
  assert.equal(open.size, 1);
  one.life.end();
  await until(() => open.size === 0);
  one.life = newLife();
  does = (socket) => socket.resume();
  const waiting = one.get('/');
  await until(() => open.size === 1);
  one.life.end();
  const got = await waiting;
  assert.equal(got.status, 502);
  assert.match(errorOf(got), /was stopped or put to sleep before it answered/);
  one.life = newLife();
  does = inTurn('HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome');
  const sent = ask(one.sending());
  sent.end();
  const [answer] = (await once(sent, 'response')) as [IncomingMessage];
  one.life.end();
  await assert.rejects(answer.toArray(), /aborted/);
  one.life = newLife();
  does = inTurn('HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n');
  const upgrade = ask(one.sending({ headers: { connection: 'Upgrade', upgrade: 'echo' } }));
  upgrade.end();
  const [, socket] = (await once(upgrade, 'upgrade')) as [IncomingMessage, Socket];
  one.life.end();
  await once(socket, 'close');
  one.life = newLife();
});

test('a guest that answers before it has heard all is answered by, and the rest is thrown away', async () => {
  does = (socket) =>
    socket.once('data', () => {
      socket.pause();
      socket.write('HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno');
    });
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  const sent = ask({ ...one.sending({ method: 'POST', agent }), headers: { host: 'shop.example.com' } });
  sent.on('error', () => undefined);
  sent.write(Buffer.alloc(MIB));
  const [answer] = (await once(sent, 'response')) as [IncomingMessage];
  assert.equal(answer.statusCode, 413);
  assert.equal((await answer.setEncoding('utf8').toArray()).join(''), 'no');
  sent.end(Buffer.alloc(MIB));
  does = inTurn(OK);
  assert.equal((await one.get('/', { agent })).body, 'fine');
  agent.destroy();
});

test('a client that goes away in the middle of its request is seen by the guest', async () => {
  let heard = 0;
  does = (socket) => socket.on('data', (piece) => (heard += piece.length));
  const sent = ask(one.sending({ method: 'PUT', headers: { 'content-length': String(MIB) } }));
  sent.on('error', () => undefined);
  sent.write(Buffer.alloc(1000));
  await until(() => heard > 1000);
  sent.destroy();
  await until(() => open.size === 0);
});

test('a body goes no faster than it is taken, however long it is, both ways', async () => {
  const [piece, times] = [Buffer.alloc(MIB), 200];
  /** Writes all of it; gives how much was taken so far. */
  const pour = (to: NodeJS.WritableStream): { taken: number } => {
    const done = { taken: 0 };
    const next = (): void => {
      if (done.taken < piece.length * times) to.write(piece, () => ((done.taken += piece.length), next()));
      else to.end();
    };
    next();
    return done;
  };
  const stalled = async (done: { taken: number }): Promise<void> => {
    for (let [before, since] = [-1, 0]; performance.now() - since < 300; await setImmediate())
      if (done.taken !== before) [before, since] = [done.taken, performance.now()];
    assert.ok(done.taken < 64 * MIB, `${done.taken} bytes were taken that nobody reads`);
  };
  let down = { taken: 0 };
  does = (socket) =>
    socket.once('data', () => {
      socket.write(`HTTP/1.1 200 OK\r\nContent-Length: ${MIB * times}\r\n\r\n`);
      down = pour(socket);
    });
  const sent = ask(one.sending());
  sent.end();
  const [answer] = (await once(sent, 'response')) as [IncomingMessage];
  const before = process.memoryUsage().rss;
  await stalled(down);
  let length = 0;
  for await (const part of answer) length += (part as Buffer).length;
  assert.equal(length, MIB * times);

  const { promise: reached, resolve: reach } = Promise.withResolvers<Socket>();
  does = (socket) => {
    socket.pause();
    reach(socket);
  };
  const upload = ask(one.sending({ method: 'PUT', headers: { 'content-length': String(MIB * times) } }));
  const up = pour(upload);
  const guest = await reached;
  await stalled(up);
  assert.ok(process.memoryUsage().rss - before < 150 * MIB, 'memory is bounded');
  let taken = 0;
  guest.on('data', (part: Buffer) => {
    taken += part.length;
    if (taken > MIB * times) guest.write(OK);
  });
  guest.resume();
  const [done] = (await once(upload, 'response')) as [IncomingMessage];
  assert.equal((await done.setEncoding('utf8').toArray()).join(''), 'fine');
});

test('connections that say nothing, however many, keep nobody out and slow nobody down', async () => {
  const small = await openProxiedGuest({ mostConnections: 1000 });
  const busy = connect(small.port, '127.0.0.1');
  const silent: Socket[] = [];
  try {
    small.handle = (request, response) => void (request.url === '/' ? response.end('fine') : undefined);
    busy.write('GET /slow HTTP/1.1\r\nHost: web.hatch.localhost\r\n\r\n');
    await until(() => small.seen.length === 1);
    for (let i = 0; i < 2000; i++) {
      const socket = connect(small.port, '127.0.0.1');
      socket.on('error', () => undefined);
      silent.push(socket);
      await once(socket, 'connect');
    }
    const from = performance.now();
    for (let i = 0; i < 20; i++) assert.equal((await small.get('/')).body, 'fine');
    assert.ok(performance.now() - from < 2000);
    const left = silent.filter(({ destroyed }) => !destroyed).length;
    assert.ok(left <= 1000, `${left} of them are left`);
    assert.ok(!busy.destroyed, 'one that waits for its answer is not among those that make room');
  } finally {
    for (const socket of [busy, ...silent]) socket.destroy();
    small.close();
  }
});

test('requests that come before their turn are answered in turn, and what follows a bad one is not read', async () => {
  does = inTurn(OK, OK);
  const next = 'GET / HTTP/1.1\r\nHost: web.hatch.localhost\r\n\r\n';
  const last = 'GET / HTTP/1.1\r\nHost: web.hatch.localhost\r\nConnection: close\r\n\r\n';
  const socket = connect(one.port, '127.0.0.1');
  socket.write(`${next}${next}${last}`);
  assert.equal((await allOf(socket)).match(/200 OK/g)?.length, 3);
  const said = await one.raw(`${next}GET / HTTP/9.9\r\n\r\n${next}`);
  assert.match(said, /HTTP\/1.1 400 Bad Request/);
  assert.ok((said.match(/HTTP\/1.1 200/g)?.length ?? 0) <= 1);
  assert.match(
    await one.raw('GET / HTTP/1.0\r\nHost: web.hatch.localhost\r\n\r\n'),
    /^HTTP\/1.1 200 OK\r\n[^]*fine$/,
  );
});
