import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { suite, test, type TestContext } from 'node:test';
import { text } from 'node:stream/consumers';
import { FakeClock, systemClock, type Clock } from '../base/clock.ts';
import { until } from '../base/until.ts';
import { REQUEST_MS } from './bodies.ts';
import { ApiDescription } from './described-answers.ts';
import type { ApiOptions } from './server.ts';
import { field, testApi, type TestApi } from './test-client.ts';

/** What no HTTP library sends, byte by byte, over connections of its own. */

const patience = (): { clock: Clock; signal: AbortSignal } => ({
  clock: systemClock,
  signal: AbortSignal.timeout(20_000),
});
const JSON_BODY = 'Content-Type: application/json\r\n';

interface Listening extends TestApi {
  /** Sends bytes, and no more after them; gives all that is answered until the connection ends. */
  say(bytes: string | Buffer): Promise<string>;
  /** Opens a connection and sends bytes, with more to come. */
  begin(bytes: string): Promise<Socket>;
  /** Lines of a head with the key, after which the connection is to end. */
  readonly head: string;
}

async function listening(
  t: TestContext,
  clock: Clock = systemClock,
  options: ApiOptions = {},
): Promise<Listening> {
  const api = await testApi(clock, options);
  await api.app.listen({ host: '127.0.0.1', port: 0 });
  const address = api.app.server.address();
  assert.ok(typeof address === 'object' && address !== null);
  const sockets: Socket[] = [];
  t.after(async () => {
    for (const socket of sockets) socket.destroy();
    api.app.server.closeAllConnections();
    await api.app.close();
  });
  const open = (): Socket => {
    const socket = connect(address.port, '127.0.0.1').on('error', () => undefined);
    sockets.push(socket);
    return socket;
  };
  return {
    ...api,
    head: `Host: x\r\nAuthorization: Bearer ${api.key}\r\nConnection: close\r\n`,
    say: async (bytes) => {
      const socket = open().end(bytes);
      let heard = '';
      // Whoever sends much more than is read may be reset after the answer.
      socket.setEncoding('utf8').on('data', (more: string) => (heard += more));
      await new Promise((resolve) => socket.once('close', resolve));
      return heard;
    },
    begin: async (bytes) => {
      const socket = open();
      await once(socket, 'connect');
      socket.write(bytes);
      return socket;
    },
  };
}

/** The answers in what came over a connection, each with its status and its code; every error is in the shape of all. */
function answersIn(api: TestApi, said: string): (readonly [status: number, code: unknown])[] {
  const description = new ApiDescription(api.app.swagger());
  return said
    .split(/(?=HTTP\/1\.1 [2-5])/)
    .filter((one) => one.startsWith('HTTP/1.1 '))
    .map((one) => {
      const [head = '', body = ''] = one.split('\r\n\r\n');
      const status = Number(head.split(' ')[1]);
      if (status < 400) return [status, undefined];
      const contentType = /content-type: ([^\r]*)/i.exec(head)?.[1];
      assert.equal(contentType, 'application/json; charset=utf-8', one);
      const wrong = description.wrongWith({ method: 'GET', url: '/none', status, contentType, text: body });
      assert.deepEqual(wrong, [], one);
      return [status, field(JSON.parse(body), 'code')];
    });
}

async function stillServes(api: Listening): Promise<void> {
  assert.match(
    await api.say('GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n'),
    /^HTTP\/1\.1 200 /,
  );
}

suite('what is not HTTP, or too much of it', () => {
  test('is refused in the shape of every other error, and the server goes on', async (t) => {
    const api = await listening(t);
    const post = (more: string): string => `POST /vms HTTP/1.1\r\n${api.head}${JSON_BODY}${more}`;
    const many = (count: number): string => 'a: 1\r\n'.repeat(count);
    const cases: readonly [string | Buffer, number, string][] = [
      // Two lengths, of which who stands between may have believed the other (RFC 9112, 6.3 and 11.2).
      [post('Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n'), 400, 'invalid_request'],
      [post('Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n'), 400, 'invalid_request'],
      [post('Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}'), 400, 'invalid_request'],
      [post('Transfer-Encoding: xchunked\r\n\r\n{}'), 400, 'invalid_request'],
      [post('Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n'), 400, 'invalid_request'],
      [post('Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n'), 400, 'invalid_request'],
      [post('Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n'), 400, 'invalid_request'],
      [post('Transfer-Encoding: chunked\r\n\r\n-1\r\n{}\r\n0\r\n\r\n'), 400, 'invalid_request'],
      [
        post(`Transfer-Encoding: chunked\r\n\r\n2;${'x'.repeat(20_000)}\r\n{}\r\n0\r\n\r\n`),
        400,
        'invalid_request',
      ],
      [post('Content-Length: -2\r\n\r\n{}'), 400, 'invalid_request'],
      [post('Content-Length: 99999999999999999999999\r\n\r\n{}'), 400, 'invalid_request'],
      [post('Content-Length: 20\r\n\r\n{}'), 400, 'invalid_request'],
      [post('X: a\u0000b\r\n\r\n'), 400, 'invalid_request'],
      [post('X: a\r\n b\r\n\r\n'), 400, 'invalid_request'],
      [post(`Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n${many(5000)}\r\n`), 431, 'headers_too_large'],
      [`GET /vms HTTP/1.1\r\n${api.head}${many(5000)}\r\n`, 431, 'headers_too_large'],
      [`GET /vms HTTP/1.1\r\n${api.head}x: ${'y'.repeat(40_000)}\r\n\r\n`, 431, 'headers_too_large'],
      [`GET /vms?${'a'.repeat(40_000)} HTTP/1.1\r\n${api.head}\r\n`, 431, 'headers_too_large'],
      [`GET /vms/${'a'.repeat(15_000)} HTTP/1.1\r\n${api.head}\r\n`, 400, 'invalid_request'],
      ['GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n', 400, 'invalid_request'],
      ['GET /healthz HTTP/1.1\r\nHost: x\r\nHost: y\r\nConnection: close\r\n\r\n', 400, 'invalid_request'],
      [`CONNECT x:80 HTTP/1.1\r\n${api.head}\r\n`, 400, 'invalid_request'],
      [`OPTIONS * HTTP/1.1\r\n${api.head}\r\n`, 404, 'not_found'],
      ['PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', 400, 'invalid_request'],
      [`${'A'.repeat(1000)} / HTTP/1.1\r\n\r\n`, 400, 'invalid_request'],
      [Buffer.from(`GET /vms/\u00ff\u00fe HTTP/1.1\r\n${api.head}\r\n`, 'latin1'), 400, 'invalid_request'],
      [Buffer.from('1603010200010001fc0303', 'hex'), 400, 'invalid_request'],
    ];
    for (const [bytes, status, code] of cases) {
      const said = await api.say(bytes);
      assert.deepEqual(answersIn(api, said), [[status, code]], `${String(bytes).slice(0, 300)}\n-> ${said}`);
    }
    // With so much to come, the answer may be lost in the reset.
    for (const much of [`x: ${'y'.repeat(10_000_000)}`, 'a: 1\r\n'.repeat(1_000_000)])
      for (const [, code] of answersIn(api, await api.say(`GET /vms HTTP/1.1\r\n${api.head}${much}\r\n\r\n`)))
        assert.equal(code, 'headers_too_large');
    assert.equal(api.hatch.vmRows.size, 0, 'nothing was made');
    await stillServes(api);
    assert.ok(!api.logged.some(({ level }) => level === 'error'), 'none of it is a defect');
  });

  test('what follows a body is the next request, or none', async (t) => {
    const api = await listening(t);
    const post = `POST /vms HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${api.key}\r\n${JSON_BODY}Content-Length: 2\r\n\r\n{}`;
    const next = await api.say(`${post}GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`);
    assert.deepEqual(answersIn(api, next), [
      [201, undefined],
      [200, undefined],
    ]);
    const said = await api.say(`${post}{}{}`);
    assert.deepEqual(answersIn(api, said).at(-1), [400, 'invalid_request']);
  });

  test('an expectation nobody knows is left alone', async (t) => {
    const api = await listening(t);
    const said = await api.say(
      `POST /vms HTTP/1.1\r\n${api.head}${JSON_BODY}Expect: the-unexpected\r\nContent-Length: 2\r\n\r\n{}`,
    );
    assert.deepEqual(answersIn(api, said), [[201, undefined]]);
  });
});

test('JSON that is nested as deeply as fits into a body is refused, whatever it is made of', async () => {
  const api = await testApi();
  await api.call('POST', '/vms', { name: 'web' });
  const depth = 100_000;
  const bodies = [
    '['.repeat(depth),
    `${'['.repeat(depth)}${']'.repeat(depth)}`,
    `${'{"a":'.repeat(depth)}1${'}'.repeat(depth)}`,
    `{"labels":${'{"a":'.repeat(depth)}1${'}'.repeat(depth)}}`,
    `{"name":"\\ud800","labels":${'['.repeat(depth)}${']'.repeat(depth)}}`,
    `{"idle":{"keep_awake":${'['.repeat(depth)}${']'.repeat(depth)}}}`,
    `{"user_data":"#cloud-config\\n${'['.repeat(depth)}${']'.repeat(depth)}"}`,
    `{"user_data":"#cloud-config\\n${'- '.repeat(depth)}a"}`,
  ];
  for (const body of bodies) await api.refused('invalid_request', 'POST', '/vms', body);
  for (const body of bodies.slice(0, 6)) await api.refused('invalid_request', 'PATCH', '/vms/web', body);
  await api.refused('invalid_request', 'POST', '/vms/web/exec', `{"command":${bodies[1]}}`);
  assert.equal(api.hatch.vmRows.size, 1);
});

suite('bodies that do not come', () => {
  test('byte by byte, a body has a minute, and others are served meanwhile', async (t) => {
    const time = new FakeClock();
    const api = await listening(t, time);
    const slow = await api.begin(
      `POST /vms HTTP/1.1\r\n${api.head}${JSON_BODY}Content-Length: 1000000\r\n\r\n`,
    );
    const heard = text(slow);
    await until(patience(), () => (time.sleepers > 0 ? true : undefined));
    for (let second = 0; second < REQUEST_MS / 1000; second++) {
      slow.write(' ');
      await time.advance(1000);
      if (second % 10 === 0) await stillServes(api);
    }
    await time.advance(1000);
    assert.deepEqual(answersIn(api, await heard), [[408, 'request_timeout']]);
    assert.equal(api.hatch.vmRows.size, 0);
    assert.ok(!api.logged.some(({ level }) => level === 'error'));
  });

  test('who hangs up in the middle of a body is no defect', async (t) => {
    const time = new FakeClock();
    const api = await listening(t, time);
    const slow = await api.begin(`POST /vms HTTP/1.1\r\n${api.head}${JSON_BODY}Content-Length: 100\r\n\r\n{`);
    await until(patience(), () => (time.sleepers > 0 ? true : undefined));
    slow.destroy();
    await until(patience(), () => (time.sleepers === 0 ? true : undefined));
    await stillServes(api);
    assert.ok(!api.logged.some(({ level }) => level === 'error'), JSON.stringify(api.logged));
  });

  test('however many there are, they make room for others', async (t) => {
    const api = await listening(t, systemClock, { mostConnections: 32 });
    const begun = `POST /vms HTTP/1.1\r\n${api.head}${JSON_BODY}Content-Length: 1000\r\n\r\n{`;
    let ended = 0;
    for (let at = 0; at < 100; at++) (await api.begin(begun)).resume().on('close', () => ended++);
    await stillServes(api);
    await until(patience(), () => (ended >= 100 - 32 ? true : undefined));
    assert.equal(api.hatch.vmRows.size, 0);
  });

  test('together they hold so much and no more: the one that has taken longest is refused', async (t) => {
    const api = await listening(t, systemClock, { mostBodyBytes: 1024 * 1024 });
    const large = `${' '.repeat(500_000)}`;
    const begin = async (): Promise<{ readonly socket: Socket; readonly heard: Promise<string> }> => {
      const socket = await api.begin(
        `POST /vms HTTP/1.1\r\n${api.head}${JSON_BODY}Content-Length: ${large.length + 2}\r\n\r\n${large}`,
      );
      return { socket, heard: text(socket) };
    };
    const first = await begin();
    const second = await begin();
    const third = await begin();
    const refused = await first.heard;
    assert.deepEqual(answersIn(api, refused), [[503, 'unavailable']]);
    assert.match(refused, /retry-after: 1\r\n/);
    for (const { socket, heard } of [second, third]) {
      socket.write('{}');
      assert.deepEqual(answersIn(api, await heard), [[201, undefined]]);
    }
  });
});
