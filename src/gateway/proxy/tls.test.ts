import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import type { IncomingMessage } from 'node:http';
import { connect as connectHttp2, constants, type ClientHttp2Session } from 'node:http2';
import { request as askHttps } from 'node:https';
import { connect, type Socket } from 'node:net';
import { after, afterEach, before, test } from 'node:test';
import { connect as connectTls } from 'node:tls';
import { CERTIFICATES } from '../../../test/support/certificates.ts';
import { allOf, openProxiedGuest, type ProxiedGuest } from '../../../test/support/proxied-guest.ts';

let one: ProxiedGuest;
const HOST = 'web.hatch.localhost';
const trust = { ca: [CERTIFICATES.one.cert, CERTIFICATES.other.cert], servername: HOST };

before(async () => {
  one = await openProxiedGuest({ certificate: CERTIFICATES.one });
});
after(() => one.close());
afterEach(() => one.unused());

/** A connection of HTTP/2 for the work, ended after it. */
async function overHttp2(work: (session: ClientHttp2Session) => Promise<void>): Promise<void> {
  const session = connectHttp2(`https://127.0.0.1:${one.port}`, { ...trust, maxSessionMemory: 100 });
  try {
    await work(session);
  } finally {
    session.destroy();
  }
}

interface Got {
  readonly head: Record<string, unknown>;
  readonly trailers: Record<string, unknown>;
  readonly body: Buffer;
}

async function ask(
  session: ClientHttp2Session,
  headers: Record<string, string | string[]>,
  body?: Buffer,
  trailers?: Record<string, string>,
): Promise<Got> {
  const stream = session.request(
    { ':authority': HOST, ...headers },
    { endStream: !body, waitForTrailers: trailers !== undefined },
  );
  stream.on('wantTrailers', () => stream.sendTrailers(trailers ?? {}));
  let said: Record<string, unknown> = {};
  stream.on('trailers', (got: Record<string, unknown>) => (said = got));
  if (body) stream.end(body);
  const [head] = (await once(stream, 'response')) as [Record<string, unknown>];
  const pieces = (await stream.toArray()) as Buffer[];
  return { head, trailers: said, body: Buffer.concat(pieces) };
}

test('HTTP/2 is led to a guest that speaks HTTP/1.1: host, cookies, headers that come twice, and that it was https', async () => {
  one.handle = (_request, response) => {
    response.setHeader('Set-Cookie', ['a=1', 'b=2']);
    response.writeHead(201, 'Made', { connection: 'keep-alive', 'x-one': '1' }).end('hello');
  };
  await overHttp2(async (session) => {
    const { head, body } = await ask(session, { ':path': '/a?b=c', cookie: ['x=1', 'y=2'], te: 'trailers' });
    assert.deepEqual([head[':status'], head['set-cookie'], head['x-one']], [201, ['a=1', 'b=2'], '1']);
    assert.deepEqual([String(body), head['connection']], ['hello', undefined]);
    const { url, headers } = one.seen.at(-1) ?? assert.fail();
    assert.deepEqual([url, headers.host, headers.cookie], ['/a?b=c', HOST, 'x=1; y=2']);
    assert.deepEqual(
      [headers['x-forwarded-proto'], headers['x-forwarded-host'], headers['x-forwarded-for']],
      ['https', HOST, '127.0.0.1'],
    );
    assert.equal(Object.keys(headers).filter((name) => name.startsWith(':')).length, 0);
    const unknown = await ask(session, { ':authority': 'other.hatch.localhost' });
    assert.equal(unknown.head[':status'], 404);
    const two = await ask(session, { host: 'shop.example.com' });
    assert.equal(two.head[':status'], 404, 'two hosts that differ are none');
  });
});

test('bodies and trailers go both ways over HTTP/2, many at once on one connection', async () => {
  one.handle = (request, response) => {
    response.writeHead(200, { trailer: 'x-end' });
    request.pipe(response, { end: false });
    request.on('end', () => {
      response.addTrailers({ 'x-end': request.trailers['x-sum'] ?? 'none' });
      response.end();
    });
  };
  await overHttp2(async (session) => {
    const all = Array.from({ length: 20 }, async () => {
      const body = randomBytes(2 ** 20);
      const sum = createHash('sha256').update(body).digest('hex');
      const got = await ask(session, { ':method': 'POST', trailer: 'x-sum' }, body, { 'x-sum': sum });
      assert.equal(createHash('sha256').update(got.body).digest('hex'), sum);
      assert.equal(got.trailers['x-end'], sum);
    });
    await Promise.all(all);
    one.handle = (request, response) => request.pipe(response);
    const sized = await ask(session, { ':method': 'PUT', 'content-length': '5' }, Buffer.from('sized'));
    assert.equal(String(sized.body), 'sized');
    assert.equal(one.seen.at(-1)?.headers['content-length'], '5');
    one.handle = (_request, response) => response.writeHead(200, { 'content-length': '7' }).end();
    const none = await ask(session, { ':method': 'HEAD' });
    assert.deepEqual([none.head['content-length'], none.body.length], ['7', 0]);
  });
});

test('an end of either side before its time is seen by the other over HTTP/2', async () => {
  const { promise: ended, resolve } = Promise.withResolvers<void>();
  one.handle = (_request, response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream' });
    response.write('data: one\n\n');
    response.on('close', resolve);
  };
  await overHttp2(async (session) => {
    const stream = session.request({ ':authority': HOST });
    await once(stream, 'data');
    stream.close(constants.NGHTTP2_CANCEL);
    await ended;
    one.handle = (_request, response) => {
      response.write('some', () => response.destroy());
    };
    const cutOff = session.request({ ':authority': HOST });
    cutOff.resume();
    const [error] = (await once(cutOff, 'error')) as [Error];
    assert.match(error.message, /NGHTTP2_INTERNAL_ERROR/);
    one.handle = (request) => request.socket.destroy();
    const { head } = await ask(session, {});
    assert.equal(head[':status'], 502);
  });
});

test('over HTTP/2 neither tunnels nor WebSockets are offered, and asking for one harms nobody', async () => {
  one.handle = (_request, response) => response.end('fine');
  await overHttp2(async (session) => {
    await once(session, 'remoteSettings');
    assert.notEqual(session.remoteSettings.enableConnectProtocol, true);
    const tunnel = session.request({ ':method': 'CONNECT', ':authority': `${HOST}:80` });
    const [head] = (await once(tunnel, 'response')) as [Record<string, unknown>];
    assert.equal(head[':status'], 405);
    tunnel.close();
    const { body } = await ask(session, {});
    assert.equal(String(body), 'fine');
  });
});

test('HTTP/1.1 and its upgrades go over TLS as without, and plain HTTP is told to come by https', async () => {
  one.handle = (_request, response) => response.end('fine');
  const sent = askHttps({ ...one.sending(), ...trust });
  sent.end();
  const [answer] = (await once(sent, 'response')) as [IncomingMessage];
  assert.equal((await answer.setEncoding('utf8').toArray()).join(''), 'fine');
  assert.equal(one.seen.at(-1)?.headers['x-forwarded-proto'], 'https');
  one.guest.on('upgrade', (_request: IncomingMessage, socket: Socket) => {
    socket.write('HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n');
    socket.pipe(socket);
  });
  const other = askHttps({
    ...one.sending({ headers: { connection: 'Upgrade', upgrade: 'echo' } }),
    ...trust,
  });
  other.end();
  const [, socket] = (await once(other, 'upgrade')) as [IncomingMessage, Socket];
  socket.write('ping');
  assert.equal(String(((await once(socket, 'data')) as [Buffer])[0]), 'ping');
  socket.end();
  await once(socket, 'close');
  assert.match(
    await one.raw('GET / HTTP/1.1\r\nHost: web.hatch.localhost\r\n\r\n'),
    /^HTTP\/1.1 400 [^]*\r\n\r\nPlain HTTP is not spoken at this port; ask for https:\/\/$/,
  );
});

test('what is no handshake, or half of one, is hung up on and disturbs nobody', async () => {
  one.handle = (_request, response) => response.end('fine');
  const half = connect(one.port, '127.0.0.1');
  half.write(Buffer.from([22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]));
  for (const bytes of ['\x16\x03\x01\x00\x05nonsense', '\x16', 'nonsense', '\0'.repeat(1000)]) {
    const socket = connect(one.port, '127.0.0.1');
    socket.end(bytes, 'latin1');
    await allOf(socket);
  }
  await overHttp2(async (session) => assert.equal(String((await ask(session, {})).body), 'fine'));
  half.destroy();
});

test('a new certificate is shown to those who come, and nobody is cut off for it', async () => {
  one.handle = (_request, response) => response.end('fine');
  const shown = async (): Promise<string> => {
    const socket = connectTls({ host: '127.0.0.1', port: one.port, ...trust });
    await once(socket, 'secureConnect');
    const { subject } = socket.getPeerCertificate();
    socket.destroy();
    return String(subject.CN);
  };
  assert.equal(await shown(), 'hatch one');
  await overHttp2(async (session) => {
    await ask(session, {});
    one.door.renew(CERTIFICATES.other);
    assert.equal(await shown(), 'hatch other');
    assert.equal((await ask(session, {})).head[':status'], 200, 'the old connection goes on');
    assert.throws(() => one.door.renew({ cert: 'nonsense', key: 'nonsense' }));
    assert.equal(await shown(), 'hatch other');
  });
});
