import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { Agent, request as ask, type IncomingMessage, type RequestOptions } from 'node:http';
import { connect, type Socket } from 'node:net';
import { after, afterEach, before, beforeEach, test } from 'node:test';
import { Worker } from 'node:worker_threads';
import { openProxiedGuest, type Got, type ProxiedGuest } from '../../../test/support/proxied-guest.ts';
import { systemClock } from '../../base/clock.ts';
import { raceAbort } from '../../base/deadline.ts';
import { Failure } from '../../model/failure.ts';

let one: ProxiedGuest;

before(async () => {
  one = await openProxiedGuest();
});
after(() => one.close());
/** Whatever became of a test's requests, none of them uses its VM any more. */
afterEach(() => one.unused());
beforeEach(() => {
  one.arrive = async (_route, { by }) => one.arrived(by);
});

function errorOf({ body }: Got): { code: string; error: string } {
  return JSON.parse(body) as { code: string; error: string };
}

test('a guest sees the request as it was made, and who made it; what is between two ends stays there', async () => {
  one.handle = (_request, response) => {
    response.setHeader('Set-Cookie', ['a=1', 'b=2']);
    response.setHeader('Connection', 'keep-alive, x-mine');
    response.setHeader('X-Mine', 'of this connection');
    response.writeHead(201, 'Made').end('hello');
  };
  const got = await one.get('/a/b?c=d%20e', {
    headers: {
      host: 'Web.Hatch.LOCALHOST:9090',
      cookie: 'x=y',
      'x-forwarded-for': '6.6.6.6',
      connection: 'close, x-secret',
      'x-secret': '1',
      te: 'trailers',
    },
  });
  assert.deepEqual([got.status, got.body, got.headers['set-cookie']], [201, 'hello', ['a=1', 'b=2']]);
  assert.equal(got.headers['x-mine'], undefined);
  const { url, headers } = one.seen.at(-1) ?? assert.fail();
  assert.equal(url, '/a/b?c=d%20e');
  assert.deepEqual(
    [headers.host, headers.cookie, headers['x-forwarded-for'], headers['x-forwarded-proto']],
    ['Web.Hatch.LOCALHOST:9090', 'x=y', '127.0.0.1', 'http'],
  );
  assert.equal(headers['x-forwarded-host'], 'Web.Hatch.LOCALHOST:9090');
  assert.deepEqual([headers['x-secret'], headers.te], [undefined, undefined]);
  const trusted = await one.get('/', {
    localAddress: '127.0.0.2',
    headers: { 'x-forwarded-for': '6.6.6.6', 'x-forwarded-proto': 'https' },
  });
  assert.equal(trusted.status, 201);
  const last = one.seen.at(-1)?.headers;
  assert.deepEqual([last?.['x-forwarded-for'], last?.['x-forwarded-proto']], ['6.6.6.6, 127.0.0.2', 'https']);
});

test('bodies of any length go both ways whole, with trailers, and a connection serves many requests', async () => {
  one.handle = (request, response) => {
    response.writeHead(200, { trailer: 'x-end' });
    request.pipe(response, { end: false });
    request.on('end', () => {
      response.addTrailers({ 'x-end': request.trailers['x-sum'] ?? 'none' });
      response.end();
    });
  };
  const body = randomBytes(8 * 2 ** 20);
  const sum = createHash('sha256').update(body).digest('hex');
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  for (let i = 0; i < 2; i++) {
    const sent = ask({
      ...one.sending({ agent, method: 'POST' }),
      headers: { host: 'shop.example.com', trailer: 'x-sum', 'transfer-encoding': 'chunked' },
    });
    sent.write(body);
    sent.addTrailers({ 'x-sum': sum });
    sent.end();
    const [answer] = (await once(sent, 'response')) as [IncomingMessage];
    const hash = createHash('sha256');
    for await (const piece of answer) hash.update(piece as Buffer);
    assert.equal(hash.digest('hex'), sum);
    assert.equal(answer.trailers['x-end'], sum);
  }
  agent.destroy();
  const sized = await one.get('/', { method: 'POST', body: 'sized' });
  assert.equal(sized.body, 'sized');
  assert.equal(one.seen.at(-1)?.headers['content-length'], '5');
});

test('HEAD, 204 and 304 have no body, and 100 Continue comes from the guest', async () => {
  one.handle = (request, response) => {
    if (request.method === 'HEAD') response.writeHead(200, { 'content-length': '1234' }).end();
    else response.writeHead(request.url === '/none' ? 204 : 304, { etag: '"x"' }).end();
  };
  const head = await one.get('/', { method: 'HEAD' });
  assert.deepEqual([head.status, head.headers['content-length'], head.body], [200, '1234', '']);
  assert.equal((await one.get('/none')).status, 204);
  const same = await one.get('/same');
  assert.deepEqual([same.status, same.headers.etag], [304, '"x"']);
  one.handle = (request, response) => request.pipe(response);
  const sent = ask(
    one.sending({ method: 'PUT', headers: { expect: '100-continue', 'content-length': '4' } }),
  );
  sent.flushHeaders();
  await once(sent, 'continue');
  sent.end('body');
  const [answer] = (await once(sent, 'response')) as [IncomingMessage];
  answer.setEncoding('utf8');
  assert.equal((await answer.toArray()).join(''), 'body');
});

test('events come as they are sent, and a client that hangs up is seen by the guest', async () => {
  const { promise: ended, resolve } = Promise.withResolvers<void>();
  one.handle = (_request, response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream' });
    response.write('data: one\n\n');
    response.on('close', resolve);
  };
  const sent = ask(one.sending());
  sent.end();
  const [answer] = (await once(sent, 'response')) as [IncomingMessage];
  const [first] = (await once(answer, 'data')) as [Buffer];
  assert.equal(String(first), 'data: one\n\n');
  answer.on('error', () => undefined);
  sent.destroy();
  await ended;
});

test('a guest that takes no connections yet is waited for, and a browser not told that it wakes; one that never does is a 502', async () => {
  // A listener whose thread sleeps and whose queue is full: the kernel leaves further connections unanswered.
  const worker = new Worker(
    `const { parentPort } = require('node:worker_threads');
     const { createServer } = require('node:http');
     const server = createServer((request, response) => response.end('late')).listen({ host: '127.0.0.1', port: 0, backlog: 1 }, () => {
       const until = new Int32Array(new SharedArrayBuffer(4));
       parentPort.postMessage({ port: server.address().port, until });
       setImmediate(() => Atomics.wait(until, 0, 0));
     });`,
    { eval: true },
  );
  const fillers: Socket[] = [];
  const own = await openProxiedGuest({ wakeTimeoutMs: 60_000 });
  try {
    const [{ port, until }] = (await once(worker, 'message')) as [{ port: number; until: Int32Array }];
    for (let i = 0; i < 4; i++) {
      const filler = connect({ host: '127.0.0.1', port }).on('error', () => undefined);
      fillers.push(filler);
      if (i < 2) await once(filler, 'connect');
    }
    own.targetPort = port;
    const never = await own.get('/');
    assert.deepEqual([never.status, errorOf(never).code], [502, 'guest_unreachable']);
    assert.match(errorOf(never).error, /does not answer: does a server listen/);
    const late = own.get('/', { headers: { accept: 'text/html' } });
    // Longer than a browser waits for a wake.
    await systemClock.sleep(2200);
    Atomics.store(until, 0, 1);
    Atomics.notify(until, 0);
    const { status, body } = await late;
    assert.deepEqual([status, body], [200, 'late']);
  } finally {
    own.close();
    for (const filler of fillers) filler.destroy();
    await worker.terminate();
  }
});

test('a guest that ends half-way has its answer cut off, one without an answer is a 502', async () => {
  one.handle = (_request, response) => {
    response.writeHead(200, { 'content-length': '100' });
    response.write('some', () => response.destroy());
  };
  await assert.rejects(one.get('/'), /aborted|terminated|ECONNRESET/);
  one.handle = (request) => request.socket.destroy();
  const none = await one.get('/');
  assert.deepEqual([none.status, errorOf(none).code], [502, 'guest_unreachable']);
  const closed = await one.get('/', { headers: { host: 'closed.hatch.localhost' } });
  assert.equal(closed.status, 502);
  assert.match(errorOf(closed).error, /refuses connections: does a server listen/);
});

test('hosts that are not ours, whole URLs, CONNECT and ambiguous lengths are refused, and nobody else is kept from it', async () => {
  one.handle = (_request, response) => response.end('fine');
  for (const host of [
    'other.hatch.localhost',
    'hatch.localhost',
    'a.web.hatch.localhost',
    '127.0.0.1',
    '[::1]:80',
    'x'.repeat(300),
    'bücher.example',
  ])
    assert.equal((await one.get('/', { headers: { host: encodeURI(host) } })).status, 404, host);
  assert.equal((await one.get('/', { headers: { host: 'web.hatch.localhost.' } })).status, 200);
  const bad = [
    'GET http://web.hatch.localhost/ HTTP/1.1\r\nHost: web.hatch.localhost\r\n\r\n',
    'GET / HTTP/1.1\r\n\r\n',
    'GET / HTTP/1.1\r\nHost: web.hatch.localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n',
    'GET / HTTP/1.1\r\nHost: web.hatch.localhost\r\nContent-Length: 5, 6\r\n\r\nhello',
    'GET / HTTP/1.1\r\nHost: web.hatch.localhost\r\nContent-Length: -1\r\n\r\n',
    'GET / HTTP/1.1\r\nHost : web.hatch.localhost\r\n\r\n',
    'nonsense\r\n\r\n',
  ];
  const before = one.seen.length;
  for (const bytes of bad) assert.match(await one.raw(bytes), /^HTTP\/1.1 400 /, bytes);
  assert.match(
    await one.raw('CONNECT web.hatch.localhost:80 HTTP/1.1\r\nHost: web.hatch.localhost\r\n\r\n'),
    /^HTTP\/1.1 405 /,
  );
  assert.equal(one.seen.length, before, 'none of it reached a guest');
  assert.equal((await one.get('/')).body, 'fine');
});

test('another protocol is led both ways until one side ends; a guest that does not want it answers as ever', async () => {
  one.guest.on('upgrade', (request: IncomingMessage, socket: Socket, head: Buffer) => {
    if (request.url === '/no')
      return void socket.end('HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno');
    socket.write('HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n');
    if (head.length > 0) socket.write(head);
    socket.pipe(socket);
  });
  const wanted = (path: string): RequestOptions =>
    one.sending({ path, headers: { connection: 'Upgrade', upgrade: 'echo' } });
  const sent = ask(wanted('/'));
  sent.end();
  const [answer, socket] = (await once(sent, 'upgrade')) as [IncomingMessage, Socket];
  assert.equal(answer.headers.upgrade, 'echo');
  socket.write('ping');
  const [before] = one.activity.of(one.vmId).open;
  assert.equal(String(((await once(socket, 'data')) as [Buffer])[0]), 'ping');
  const [use] = one.activity.of(one.vmId).open;
  assert.deepEqual([before?.by, use?.by, one.activity.of(one.vmId).open.length], ['upgrade', 'upgrade', 1]);
  assert.ok(use && before && use.lastPayloadAt > before.lastPayloadAt, 'what goes through it is noted');
  socket.end();
  await once(socket, 'close');
  const refused = ask(wanted('/no'));
  refused.end();
  const [no] = (await once(refused, 'response')) as [IncomingMessage];
  assert.equal(no.statusCode, 403);
  const missing = await one.get('/', {
    headers: { host: 'none.hatch.localhost', connection: 'Upgrade', upgrade: 'echo' },
  });
  assert.equal(missing.status, 404);
});

test('a woken guest is waited for until it listens, and the answer says how long that took', async () => {
  one.handle = (_request, response) => response.end('awake');
  one.arrive = async (_route, { by }) => one.arrived(by, 123.4);
  assert.equal((await one.get('/')).headers['hatch-wake-ms'], '123');
  const late = await one.get('/', { headers: { host: 'closed.hatch.localhost' } });
  assert.deepEqual([late.status, errorOf(late).code], [504, 'timeout']);
  assert.match(errorOf(late).error, /not reachable within 3 s/);
});

test('what may not wake is told so, a browser is shown a page, and who goes away is not waited for', async () => {
  const asked: (string | undefined)[] = [];
  one.arrive = async (_route, { unwanted }) => {
    asked.push(unwanted);
    throw new Failure('unavailable', 'not now', { details: { retry_after_seconds: 7.2 } });
  };
  const refused = await one.get('/', { headers: { 'user-agent': 'Googlebot/2.1' } });
  assert.deepEqual(
    [refused.status, refused.headers['retry-after'], errorOf(refused).code],
    [503, '8', 'unavailable'],
  );
  await one.get('/', { method: 'DELETE' });
  await one.get('/');
  assert.deepEqual(asked, [
    'crawlers, scanners and health checks wake nothing',
    'only GET, POST wakes it',
    undefined,
  ]);

  one.arrive = async (_route, _visit, signal) => {
    return raceAbort(new Promise<never>(() => undefined), signal);
  };
  const page = await one.get('/', { headers: { accept: 'text/html,*/*' } });
  assert.equal(page.status, 503);
  assert.match(page.headers['content-type'] ?? '', /text\/html/);
  assert.match(page.body, /http-equiv="refresh"/);
  const late = await one.get('/');
  assert.deepEqual([late.status, errorOf(late).code], [504, 'timeout']);

  const { promise: gone, resolve } = Promise.withResolvers<unknown>();
  const { promise: came, resolve: hasCome } = Promise.withResolvers<void>();
  one.arrive = async (_route, _visit, signal) => {
    signal.addEventListener('abort', () => resolve(signal.reason));
    hasCome();
    return new Promise(() => undefined);
  };
  const sent = ask(one.sending());
  sent.on('error', () => undefined);
  sent.end();
  await came;
  sent.destroy();
  assert.match(String(await gone), /went away/);
});

test('a guest that has too many connections waiting is knocked at again', async () => {
  const program = `
    const server = require('node:net').createServer((socket) => socket.once('data', () =>
      socket.end('HTTP/1.1 200 OK\\r\\nContent-Length: 4\\r\\n\\r\\nlate')));
    // Who waits for a moment does not take connections in: two fit, and Linux drops what else comes.
    server.listen(0, '127.0.0.1', 1, () => require('node:fs').writeSync(1, server.address().port + '\\n'));
    process.stdin.once('data', () => {
      require('node:fs').writeSync(1, 'waits');
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 900);
    });
    process.stdin.once('end', () => process.exit());`;
  const child = spawn(process.execPath, ['-e', program], { stdio: ['pipe', 'pipe', 'inherit'] });
  const said = async (): Promise<string> => String(((await once(child.stdout, 'data')) as [Buffer])[0]);
  const { targetPort } = one;
  try {
    one.targetPort = Number(await said());
    child.stdin.write('wait');
    await said();
    const waiting = [connect(one.targetPort, '127.0.0.1'), connect(one.targetPort, '127.0.0.1')];
    await Promise.all(waiting.map((socket) => once(socket, 'connect')));
    const got = await one.get('/');
    assert.deepEqual([got.status, got.body], [200, 'late']);
    for (const socket of waiting) socket.destroy();
  } finally {
    one.targetPort = targetPort;
    child.stdin.end();
    await once(child, 'exit');
  }
});
