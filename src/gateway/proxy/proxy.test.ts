import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import {
  Agent,
  createServer,
  request as ask,
  type IncomingMessage,
  type RequestOptions,
  type Server,
  type ServerResponse,
} from 'node:http';
import { connect, type AddressInfo, type Socket } from 'node:net';
import { after, afterEach, before, test } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import { raceAbort } from '../../base/deadline.ts';
import { systemClock } from '../../base/clock.ts';
import { newId } from '../../base/ids.ts';
import { silent } from '../../base/logger.ts';
import { Failure } from '../../model/failure.ts';
import type { Route } from '../../model/route.ts';
import { ActivityTracker } from '../../ops/activity.ts';
import type { Arrival, Visit, Visits } from '../../ops/visits.ts';
import { openProxy } from './proxy.ts';

type Handler = (request: IncomingMessage, response: ServerResponse) => void;
type Arrive = Visits['arrive'];

/** What the guest answers, and how its VM is found: each test sets what it needs. */
let handle: Handler;
let arrive: Arrive;
let guest: Server;
let proxy: Server;
let port: number;
let guestPort: number;
const seen: IncomingMessage[] = [];
const route = (targetPort: number): Route => ({
  id: newId('rt'),
  accountId: newId('acct'),
  vmId: VM,
  subdomain: 'web',
  domain: null,
  targetPort,
  autoWake: true,
  wake: { methods: ['GET', 'POST'] },
  createdAt: 0,
  updatedAt: 0,
});
/** The guest's VM, and who uses it. */
const VM = newId('vm');
const activity = new ActivityTracker({ clock: systemClock });
const arrived = (by: Visit['by'], wokenMs?: number): Arrival => ({
  ip: '127.0.0.1',
  wokenMs,
  use: activity.begin(VM, by),
});
const awake: Arrive = async (_route, { by }) => arrived(by);

before(async () => {
  guest = createServer((request, response) => {
    seen.push(request);
    handle(request, response);
  });
  await listening(guest);
  guestPort = portOf(guest);
  const deaf = createServer();
  await listening(deaf);
  const closed = portOf(deaf);
  deaf.close();
  const visits = {
    find: async ({ subdomain, domain }: { subdomain: string | null; domain: string | null }) =>
      subdomain === 'web' || domain === 'shop.example.com'
        ? route(guestPort)
        : subdomain === 'closed'
          ? route(closed)
          : null,
    arrive: (...how: Parameters<Arrive>) => arrive(...how),
  } as unknown as Visits;
  proxy = openProxy(
    { visits, log: silent, clock: systemClock },
    { baseDomain: 'hatch.localhost', wakeTimeoutMs: 3000, trustedProxies: ['127.0.0.2/32'] },
  );
  await listening(proxy);
  port = portOf(proxy);
});
after(() => {
  for (const server of [guest, proxy]) {
    server.close();
    server.closeAllConnections();
  }
});

/** Whatever became of a test's requests, none of them uses its VM any more. */
afterEach(async () => {
  const within = AbortSignal.timeout(5000);
  while (activity.of(VM).open.length > 0) {
    within.throwIfAborted();
    await setImmediate();
  }
});

function listening(server: Server): Promise<unknown> {
  server.listen(0, '127.0.0.1');
  return once(server, 'listening');
}

function portOf(server: Server): number {
  return (server.address() as AddressInfo).port;
}

interface Got {
  readonly status: number;
  readonly headers: IncomingMessage['headers'];
  readonly trailers: IncomingMessage['trailers'];
  readonly body: string;
}

async function get(path: string, options: RequestOptions & { body?: string | Buffer } = {}): Promise<Got> {
  const { body, headers, ...more } = options;
  const sent = ask({
    host: '127.0.0.1',
    port,
    path,
    agent: false,
    headers: { host: 'web.hatch.localhost', ...(headers as Record<string, string>) },
    ...more,
  });
  sent.end(body);
  const [answer] = (await once(sent, 'response')) as [IncomingMessage];
  answer.setEncoding('latin1');
  let text = '';
  for await (const piece of answer) text += piece as string;
  return { status: answer.statusCode ?? 0, headers: answer.headers, trailers: answer.trailers, body: text };
}

/** Sends these bytes and gives all that comes back until the connection ends. */
async function raw(bytes: string): Promise<string> {
  const socket = connect(port, '127.0.0.1');
  socket.write(bytes, 'latin1');
  let said = '';
  socket.setEncoding('latin1').on('data', (piece: string) => (said += piece));
  socket.on('error', () => undefined);
  await once(socket, 'close', { signal: AbortSignal.timeout(10_000) });
  return said;
}

function errorOf({ body }: Got): { code: string; error: string } {
  return JSON.parse(body) as { code: string; error: string };
}

test('a guest sees the request as it was made, and who made it; what is between two ends stays there', async () => {
  arrive = awake;
  handle = (_request, response) => {
    response.setHeader('Set-Cookie', ['a=1', 'b=2']);
    response.setHeader('Connection', 'keep-alive, x-mine');
    response.setHeader('X-Mine', 'of this connection');
    response.writeHead(201, 'Made').end('hello');
  };
  const got = await get('/a/b?c=d%20e', {
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
  const { url, headers } = seen.at(-1) ?? assert.fail();
  assert.equal(url, '/a/b?c=d%20e');
  assert.deepEqual(
    [headers.host, headers.cookie, headers['x-forwarded-for'], headers['x-forwarded-proto']],
    ['Web.Hatch.LOCALHOST:9090', 'x=y', '127.0.0.1', 'http'],
  );
  assert.equal(headers['x-forwarded-host'], 'Web.Hatch.LOCALHOST:9090');
  assert.deepEqual([headers['x-secret'], headers.te], [undefined, undefined]);
  const trusted = await get('/', {
    localAddress: '127.0.0.2',
    headers: { 'x-forwarded-for': '6.6.6.6', 'x-forwarded-proto': 'https' },
  });
  assert.equal(trusted.status, 201);
  const last = seen.at(-1)?.headers;
  assert.deepEqual([last?.['x-forwarded-for'], last?.['x-forwarded-proto']], ['6.6.6.6, 127.0.0.2', 'https']);
});

test('bodies of any length go both ways whole, with trailers, and a connection serves many requests', async () => {
  arrive = awake;
  handle = (request, response) => {
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
      host: '127.0.0.1',
      port,
      agent,
      method: 'POST',
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
  const sized = await get('/', { method: 'POST', body: 'sized' });
  assert.equal(sized.body, 'sized');
  assert.equal(seen.at(-1)?.headers['content-length'], '5');
});

test('HEAD, 204 and 304 have no body, and 100 Continue comes from the guest', async () => {
  arrive = awake;
  handle = (request, response) => {
    if (request.method === 'HEAD') response.writeHead(200, { 'content-length': '1234' }).end();
    else response.writeHead(request.url === '/none' ? 204 : 304, { etag: '"x"' }).end();
  };
  const head = await get('/', { method: 'HEAD' });
  assert.deepEqual([head.status, head.headers['content-length'], head.body], [200, '1234', '']);
  assert.equal((await get('/none')).status, 204);
  const same = await get('/same');
  assert.deepEqual([same.status, same.headers.etag], [304, '"x"']);
  handle = (request, response) => request.pipe(response);
  const sent = ask({
    host: '127.0.0.1',
    port,
    method: 'PUT',
    agent: false,
    headers: { host: 'web.hatch.localhost', expect: '100-continue', 'content-length': '4' },
  });
  sent.flushHeaders();
  await once(sent, 'continue');
  sent.end('body');
  const [answer] = (await once(sent, 'response')) as [IncomingMessage];
  answer.setEncoding('utf8');
  assert.equal((await answer.toArray()).join(''), 'body');
});

test('events come as they are sent, and a client that hangs up is seen by the guest', async () => {
  arrive = awake;
  const { promise: ended, resolve } = Promise.withResolvers<void>();
  handle = (_request, response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream' });
    response.write('data: one\n\n');
    response.on('close', resolve);
  };
  const sent = ask({ host: '127.0.0.1', port, agent: false, headers: { host: 'web.hatch.localhost' } });
  sent.end();
  const [answer] = (await once(sent, 'response')) as [IncomingMessage];
  const [first] = (await once(answer, 'data')) as [Buffer];
  assert.equal(String(first), 'data: one\n\n');
  answer.on('error', () => undefined);
  sent.destroy();
  await ended;
});

test('a guest that ends half-way has its answer cut off, one without an answer is a 502', async () => {
  arrive = awake;
  handle = (_request, response) => {
    response.writeHead(200, { 'content-length': '100' });
    response.write('some', () => response.destroy());
  };
  await assert.rejects(get('/'), /aborted|terminated|ECONNRESET/);
  handle = (request) => request.socket.destroy();
  const none = await get('/');
  assert.deepEqual([none.status, errorOf(none).code], [502, 'guest_unreachable']);
  const closed = await get('/', { headers: { host: 'closed.hatch.localhost' } });
  assert.equal(closed.status, 502);
  assert.match(errorOf(closed).error, /refuses connections: does a server listen/);
});

test('hosts that are not ours, whole URLs, CONNECT and ambiguous lengths are refused, and nobody else is kept from it', async () => {
  arrive = awake;
  handle = (_request, response) => response.end('fine');
  for (const host of [
    'other.hatch.localhost',
    'hatch.localhost',
    'a.web.hatch.localhost',
    '127.0.0.1',
    '[::1]:80',
    'x'.repeat(300),
    'bücher.example',
  ])
    assert.equal((await get('/', { headers: { host: encodeURI(host) } })).status, 404, host);
  assert.equal((await get('/', { headers: { host: 'web.hatch.localhost.' } })).status, 200);
  const bad = [
    'GET http://web.hatch.localhost/ HTTP/1.1\r\nHost: web.hatch.localhost\r\n\r\n',
    'GET / HTTP/1.1\r\n\r\n',
    'GET / HTTP/1.1\r\nHost: web.hatch.localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n',
    'GET / HTTP/1.1\r\nHost: web.hatch.localhost\r\nContent-Length: 5, 6\r\n\r\nhello',
    'GET / HTTP/1.1\r\nHost: web.hatch.localhost\r\nContent-Length: -1\r\n\r\n',
    'GET / HTTP/1.1\r\nHost : web.hatch.localhost\r\n\r\n',
    'nonsense\r\n\r\n',
  ];
  const before = seen.length;
  for (const bytes of bad) assert.match(await raw(bytes), /^HTTP\/1.1 400 /, bytes);
  assert.match(
    await raw('CONNECT web.hatch.localhost:80 HTTP/1.1\r\nHost: web.hatch.localhost\r\n\r\n'),
    /^HTTP\/1.1 405 /,
  );
  assert.equal(seen.length, before, 'none of it reached a guest');
  assert.equal((await get('/')).body, 'fine');
});

test('another protocol is led both ways until one side ends; a guest that does not want it answers as ever', async () => {
  arrive = awake;
  guest.on('upgrade', (request: IncomingMessage, socket: Socket, head: Buffer) => {
    if (request.url === '/no')
      return void socket.end('HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno');
    socket.write('HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n');
    if (head.length > 0) socket.write(head);
    socket.pipe(socket);
  });
  const wanted = (path: string): RequestOptions => ({
    host: '127.0.0.1',
    port,
    path,
    agent: false,
    headers: { host: 'web.hatch.localhost', connection: 'Upgrade', upgrade: 'echo' },
  });
  const sent = ask(wanted('/'));
  sent.end();
  const [answer, socket] = (await once(sent, 'upgrade')) as [IncomingMessage, Socket];
  assert.equal(answer.headers.upgrade, 'echo');
  socket.write('ping');
  const [before] = activity.of(VM).open;
  assert.equal(String(((await once(socket, 'data')) as [Buffer])[0]), 'ping');
  const [use] = activity.of(VM).open;
  assert.deepEqual([before?.by, use?.by, activity.of(VM).open.length], ['upgrade', 'upgrade', 1]);
  assert.ok(use && before && use.lastPayloadAt > before.lastPayloadAt, 'what goes through it is noted');
  socket.end();
  await once(socket, 'close');
  const refused = ask(wanted('/no'));
  refused.end();
  const [no] = (await once(refused, 'response')) as [IncomingMessage];
  assert.equal(no.statusCode, 403);
  const missing = await get('/', {
    headers: { host: 'none.hatch.localhost', connection: 'Upgrade', upgrade: 'echo' },
  });
  assert.equal(missing.status, 404);
});

test('a woken guest is waited for until it listens, and the answer says how long that took', async () => {
  handle = (_request, response) => response.end('awake');
  arrive = async (_route, { by }) => arrived(by, 123.4);
  assert.equal((await get('/')).headers['hatch-wake-ms'], '123');
  const late = await get('/', { headers: { host: 'closed.hatch.localhost' } });
  assert.deepEqual([late.status, errorOf(late).code], [504, 'timeout']);
  assert.match(errorOf(late).error, /not reachable within 3 s/);
});

test('what may not wake is told so, a browser is shown a page, and who goes away is not waited for', async () => {
  const asked: (string | undefined)[] = [];
  arrive = async (_route, { unwanted }) => {
    asked.push(unwanted);
    throw new Failure('unavailable', 'not now', { details: { retry_after_seconds: 7.2 } });
  };
  const refused = await get('/', { headers: { 'user-agent': 'Googlebot/2.1' } });
  assert.deepEqual(
    [refused.status, refused.headers['retry-after'], errorOf(refused).code],
    [503, '8', 'unavailable'],
  );
  await get('/', { method: 'DELETE' });
  await get('/');
  assert.deepEqual(asked, [
    'crawlers, scanners and health checks wake nothing',
    'only GET, POST wakes it',
    undefined,
  ]);

  arrive = async (_route, _visit, signal) => {
    return raceAbort(new Promise<never>(() => undefined), signal);
  };
  const page = await get('/', { headers: { accept: 'text/html,*/*' } });
  assert.equal(page.status, 503);
  assert.match(page.headers['content-type'] ?? '', /text\/html/);
  assert.match(page.body, /http-equiv="refresh"/);
  const late = await get('/');
  assert.deepEqual([late.status, errorOf(late).code], [504, 'timeout']);

  const { promise: gone, resolve } = Promise.withResolvers<unknown>();
  const { promise: came, resolve: hasCome } = Promise.withResolvers<void>();
  arrive = async (_route, _visit, signal) => {
    signal.addEventListener('abort', () => resolve(signal.reason));
    hasCome();
    return new Promise(() => undefined);
  };
  const sent = ask({ host: '127.0.0.1', port, agent: false, headers: { host: 'web.hatch.localhost' } });
  sent.on('error', () => undefined);
  sent.end();
  await came;
  sent.destroy();
  assert.match(String(await gone), /went away/);
});
