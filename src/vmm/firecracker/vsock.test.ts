import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { VmmError } from '../driver.ts';
import { connectVsock } from './vsock.ts';

const never = new AbortController().signal;

/** The VMM's end of its vsock socket; `take` has each connection once its first line has come. */
class VsockServer {
  readonly path: string;
  readonly #folder: string;
  readonly #server: Server;
  readonly #sockets: Socket[] = [];

  static async open(take: (socket: Socket, line: string) => void): Promise<VsockServer> {
    const server = new VsockServer(await mkdtemp(join(tmpdir(), 'fc-vsock-')), take);
    await once(server.#server.listen(server.path), 'listening');
    return server;
  }

  private constructor(folder: string, take: (socket: Socket, line: string) => void) {
    this.#folder = folder;
    this.path = join(folder, 'v');
    this.#server = createServer((socket) => {
      this.#sockets.push(socket);
      socket.on('error', () => undefined);
      socket.once('data', (line: Buffer) => take(socket, line.toString('latin1')));
    });
  }

  /** Resolves when the driver's end of every connection so far is gone. */
  async left(): Promise<void> {
    for (const socket of this.#sockets) {
      socket.resume();
      if (!socket.closed) await new Promise((resolve) => socket.once('close', resolve));
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    this.#server.close();
    await rm(this.#folder, { recursive: true });
  }
}

async function refused(connecting: Promise<unknown>): Promise<VmmError> {
  const error: unknown = await connecting.then(
    () => assert.fail('it was connected'),
    (failed: unknown) => failed,
  );
  assert.ok(error instanceof VmmError, String(error));
  return error;
}

test('the agent’s port is asked for, and what comes after the answer belongs to the guest', async () => {
  const lines: string[] = [];
  await using server = await VsockServer.open((socket, line) => {
    lines.push(line);
    socket.write('OK 1073741824\nhello\n');
    socket.on('data', (piece) => socket.write(piece));
  });
  const socket = await connectVsock(server.path, never);
  assert.deepEqual(lines, ['CONNECT 1024\n']);
  assert.equal(String((await once(socket, 'data'))[0]), 'hello\n');
  socket.write('echo\n');
  assert.equal(String((await once(socket, 'data'))[0]), 'echo\n');
  socket.destroy();
});

test('an answer that comes in halves, byte by byte, is put together', async () => {
  await using server = await VsockServer.open((socket) => {
    socket.setNoDelay(true);
    const bytes = [...'OK 7\n', 'first', ' words'];
    const next = (): void => {
      const byte = bytes.shift();
      if (byte !== undefined) socket.write(byte, () => setImmediate(next));
    };
    next();
  });
  const socket = await connectVsock(server.path, never);
  let text = '';
  for await (const piece of socket) {
    text += String(piece);
    if (text.length >= 'first words'.length) break;
  }
  assert.equal(text, 'first words');
});

test('closed without an answer, or in the midst of one: nobody listens', async () => {
  for (const before of ['', 'OK 10']) {
    await using server = await VsockServer.open((socket) => socket.end(before));
    assert.match((await refused(connectVsock(server.path, never))).message, /nobody listens on vsock/);
    await server.left();
  }
});

test('an answer that is none is told, and the connection given up', async () => {
  for (const [answer, says] of [
    ['NO\n', /vsock answered "NO"/],
    ['OK\n', /vsock answered "OK"/],
    ['OK seven\n', /vsock answered/],
    ['ok 7\n', /vsock answered/],
    ['\n', /vsock answered ""/],
    ['\u0000\u00ff\n', /vsock answered/],
    ['O'.repeat(1000), /a line that has no end/],
  ] as const) {
    await using server = await VsockServer.open((socket) => socket.write(answer, 'latin1'));
    assert.match((await refused(connectVsock(server.path, never))).message, says);
    await server.left();
  }
});

test('a guest that stands still does not answer: after three seconds it is a timeout, half an answer or none', async (t) => {
  for (const before of ['', 'OK 1']) {
    t.mock.timers.enable({ apis: ['setTimeout'] });
    const { promise: asked, resolve } = Promise.withResolvers<undefined>();
    await using server = await VsockServer.open((socket) => {
      if (before !== '') socket.write(before);
      resolve(undefined);
    });
    const connecting = refused(connectVsock(server.path, never));
    await asked;
    t.mock.timers.tick(3000);
    const error = await connecting;
    assert.equal(error.kind, 'timeout');
    assert.match(error.message, /did not answer on vsock/);
    t.mock.timers.reset();
    await server.left();
  }
});

test('a caller that gives up gets its own reason, and no connection is left', async () => {
  const giveUp = new AbortController();
  const reason = new Error('called off');
  await using server = await VsockServer.open(() => giveUp.abort(reason));
  await assert.rejects(connectVsock(server.path, giveUp.signal), reason);
  await server.left();
});

test('where there is no socket, the system says so', async () => {
  await assert.rejects(connectVsock(join(tmpdir(), 'no-such-vsock'), never), { code: 'ENOENT' });
});
