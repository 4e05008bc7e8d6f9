import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer, type Server, type Socket } from 'node:net';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { VmmError } from '../driver.ts';
import { ApiGone, ApiRefused, FirecrackerApi, type ApiRequest } from './api.ts';

/** Nothing is answered. */
const HANG = Symbol('hang');
/** The connection breaks. */
const RESET = Symbol('reset');
/** What is answered to a request: bytes as they go over the wire, or not even that. */
type Answer = string | typeof HANG | typeof RESET;

/** Firecracker's side of its socket, without a Firecracker: it keeps what it read, byte for byte. */
class WireServer {
  readonly path: string;
  readonly heard: string[] = [];
  connections = 0;
  readonly #folder: string;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  readonly #answers: Answer[];

  static async open(...answers: Answer[]): Promise<WireServer> {
    const folder = await mkdtemp(join(tmpdir(), 'fc-api-'));
    const server = new WireServer(folder, answers);
    await once(server.#server.listen(server.path), 'listening');
    return server;
  }

  private constructor(folder: string, answers: Answer[]) {
    this.#folder = folder;
    this.path = join(folder, 's');
    this.#answers = answers;
    this.#server = createServer((socket) => this.#serve(socket));
  }

  #serve(socket: Socket): void {
    this.connections++;
    this.#sockets.add(socket);
    let text = '';
    socket.on('error', () => undefined);
    socket.setEncoding('latin1').on('data', (piece: string) => {
      text += piece;
      const end = text.indexOf('\r\n\r\n');
      if (end === -1) return;
      const length = Number(/^content-length: (\d+)$/im.exec(text.slice(0, end))?.[1] ?? 0);
      if (text.length < end + 4 + length) return;
      this.heard.push(text);
      text = '';
      const answer = this.#answers.shift() ?? NOTHING_MORE;
      if (answer === RESET) socket.destroy();
      else if (answer !== HANG) socket.write(answer, 'latin1');
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    this.#server.close();
    await rm(this.#folder, { recursive: true });
  }
}

/** As its HTTP server writes it: no reason after the status, and nothing at all of a body that is not there. */
const NOTHING = 'HTTP/1.1 204 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n\r\n';
const withBody = (status: number, body: string, headers = 'Connection: keep-alive\r\n'): string =>
  `HTTP/1.1 ${status} \r\nServer: Firecracker API\r\n${headers}Content-Type: application/json\r\nContent-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`;
const NOTHING_MORE = withBody(500, '{"error":"the test has no further answer"}');

const PUT: ApiRequest = { method: 'PUT', path: '/boot-source', body: { boot_args: 'ä=1' } };
const GET: ApiRequest = { method: 'GET', path: '/' };

async function failure(call: Promise<unknown>): Promise<VmmError> {
  const error: unknown = await call.then(
    () => assert.fail('it was answered'),
    (failed: unknown) => failed,
  );
  assert.ok(error instanceof VmmError, String(error));
  return error;
}

test('a body goes whole with its length in bytes and never in chunks; what has none says nothing of one', async () => {
  await using server = await WireServer.open(NOTHING, withBody(200, '{"state":"Running"}'));
  const api = new FirecrackerApi(server.path);
  assert.equal(await api.call(PUT), undefined);
  assert.deepEqual(await api.call(GET), { state: 'Running' });
  const [put = '', get = ''] = server.heard;
  assert.match(put, /^PUT \/boot-source HTTP\/1\.1\r\n/);
  assert.match(put, /^content-length: 20\r$/im);
  assert.equal(Buffer.from(put.split('\r\n\r\n')[1] ?? '', 'latin1').toString(), '{"boot_args":"ä=1"}');
  assert.doesNotMatch(put + get, /transfer-encoding|expect:/i);
  assert.match(get, /^GET \/ HTTP\/1\.1\r\n/);
  assert.doesNotMatch(get, /content-length|content-type/i);
  assert.ok(get.endsWith('\r\n\r\n'), 'a GET has no body');
  for (const line of put.split('\r\n')) assert.ok(line.length < 1024);
  api.close();
});

test('all calls go over one connection, one after the other, also after a refusal', async () => {
  const answers = [NOTHING, withBody(400, '{"fault_message":"no"}'), NOTHING, withBody(200, '{}'), NOTHING];
  await using server = await WireServer.open(...answers);
  const api = new FirecrackerApi(server.path);
  const done = await Promise.allSettled([PUT, PUT, PUT, GET, PUT].map((request) => api.call(request)));
  assert.deepEqual(
    done.map(({ status }) => status),
    ['fulfilled', 'rejected', 'fulfilled', 'fulfilled', 'fulfilled'],
  );
  assert.equal(server.connections, 1);
  api.close();
});

test('a refusal is told in Firecracker’s words, whichever way it says them', async () => {
  const tooLarge =
    '{ "error": "Request payload with size 60000 is larger than the limit of 51200 allowed by server.\nAll previous unanswered requests will be dropped." }';
  for (const [status, body, says] of [
    [
      400,
      '{"fault_message":"The kernel file cannot be opened"}',
      /^Firecracker refused PUT \/boot-source: The kernel file cannot be opened$/,
    ],
    [503, '{ "error": "Too many open connections" }', /: Too many open connections$/],
    // A raw line end within a string: no JSON.
    [400, tooLarge, /: \{ "error": "Request payload with size 60000 .*\nAll previous/],
    [400, 'x'.repeat(9000), /: x{500}$/],
    [400, '{"other":1}', /: \{"other":1\}$/],
    [400, 'null', /: null$/],
    [400, '', /: it gave no reason$/],
    [413, '{"fault_message":"The MMDS patch request doesn\'t fit."}', /doesn't fit\.$/],
  ] as const) {
    await using server = await WireServer.open(withBody(status, body));
    const api = new FirecrackerApi(server.path);
    const error = await failure(api.call(PUT));
    assert.ok(error instanceof ApiRefused);
    assert.deepEqual([error.status, error.request, error.kind], [status, PUT, 'failed']);
    assert.match(error.message, says);
    api.close();
  }
});

test('a good answer that is no JSON, or breaks off, is no answer', async () => {
  const cut = withBody(200, '{"state":"Running"}').slice(0, -5);
  for (const answer of [withBody(200, 'not json'), 'rubbish\r\n\r\n', RESET] as const) {
    await using server = await WireServer.open(answer);
    const api = new FirecrackerApi(server.path);
    const error = await failure(api.call(GET));
    assert.ok(error instanceof ApiGone, error.message);
    assert.equal(error.message, 'Firecracker did not answer GET /');
    assert.equal(error.nobodyListens, false);
    api.close();
  }
  await using server = await WireServer.open(cut);
  const api = new FirecrackerApi(server.path, 50);
  assert.equal((await failure(api.call(GET))).kind, 'timeout');
  api.close();
});

test('a call that is not answered ends with its own deadline, and the next one is made on a connection of its own', async () => {
  await using server = await WireServer.open(HANG, HANG, NOTHING);
  const api = new FirecrackerApi(server.path, 50);
  const error = await failure(api.call(PUT));
  assert.equal(error.kind, 'timeout');
  assert.match(error.message, /^Firecracker's answer to PUT \/boot-source took longer than 50 ms$/);
  assert.match((await failure(api.call(GET, { timeoutMs: 20 }))).message, /longer than 20 ms/);
  assert.equal(await api.call(PUT, { timeoutMs: 10_000 }), undefined);
  assert.equal(server.connections, 3);
  api.close();
});

test('a caller that gives up gets its own reason back', async () => {
  await using server = await WireServer.open(HANG);
  const api = new FirecrackerApi(server.path);
  const reason = new Error('called off');
  const giveUp = new AbortController();
  const calling = api.call(PUT, { signal: giveUp.signal });
  giveUp.abort(reason);
  await assert.rejects(calling, reason);
  api.close();
});

test('where nobody listens that is told apart from an answer that broke off', async () => {
  const server = await WireServer.open();
  const absent = new FirecrackerApi(`${server.path}-none`);
  const error = await failure(absent.call(GET));
  assert.ok(error instanceof ApiGone && error.nobodyListens);
  absent.close();
  await server[Symbol.asyncDispose]();
});

test('after it was closed it answers nothing', async () => {
  await using server = await WireServer.open(NOTHING);
  const api = new FirecrackerApi(server.path);
  await api.call(PUT);
  api.close();
  assert.ok((await failure(api.call(PUT))) instanceof ApiGone);
  assert.equal(server.heard.length, 1);
});
