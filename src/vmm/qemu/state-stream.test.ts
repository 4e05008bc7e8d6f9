import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { connect, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { buffer } from 'node:stream/consumers';
import { afterEach, beforeEach, test } from 'node:test';
import { exists } from '../../host/files.ts';
import { VmmError } from '../driver.ts';
import { receiveState, sendState, STATE_SOCKET } from './state-stream.ts';

const { pid } = process;
const state = randomBytes(1024 * 1024);
let folder: string;
let statePath: string;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'hatch-state-'));
  statePath = join(folder, 'state');
});
afterEach(() => rm(folder, { recursive: true }));

/** What QEMU does: it connects, writes, and closes. */
async function write(socketName: string, ...pieces: readonly Buffer[]): Promise<Socket> {
  const socket = connect(join(folder, socketName));
  await once(socket, 'connect');
  // The other end may close first.
  socket.on('error', () => undefined);
  for (const piece of pieces) socket.write(piece);
  return socket;
}

test('a state is received whole, into a file for us alone, and the socket goes', async () => {
  await writeFile(join(folder, STATE_SOCKET), 'left by an earlier try');
  await receiveState({ folder, pid, statePath }, async (socket) => {
    (await write(socket, state)).end();
  });
  assert.deepEqual(await readFile(statePath), state);
  assert.deepEqual(await readdir(folder), ['state']);
});

test('a longer state of before is replaced', async () => {
  await writeFile(statePath, Buffer.alloc(state.length * 2));
  await receiveState({ folder, pid, statePath }, async (socket) => {
    (await write(socket, state)).end();
  });
  assert.deepEqual(await readFile(statePath), state);
});

test('a folder may have a name longer than an address holds', async () => {
  const deep = await mkdtemp(join(folder, 'x'.repeat(150)));
  await symlink(deep, join(folder, 'short'));
  await receiveState({ folder: deep, pid, statePath }, async (socket) => {
    (await write(`short/${socket}`, state)).end();
  });
  assert.deepEqual(await readFile(statePath), state);
});

test('the connection is closed from our side too, whether or not it went well', async () => {
  const senders: Socket[] = [];
  await receiveState({ folder, pid, statePath }, async (socket) => {
    senders.push((await write(socket, state)).end());
  });
  await assert.rejects(
    receiveState({ folder, pid, statePath }, async (socket) => {
      const sender = await write(socket, state);
      senders.push(sender);
      throw new VmmError('no');
    }),
  );
  for (const sender of senders) if (!sender.closed) await once(sender, 'close');
});

test('when the sending fails there is no state, and the error is the one it failed with', async () => {
  const refused = new VmmError('QEMU refused: no');
  await assert.rejects(
    receiveState({ folder, pid, statePath }, async () => {
      throw refused;
    }),
    refused,
  );
  const half = new VmmError('QEMU ended the connection');
  await assert.rejects(
    receiveState({ folder, pid, statePath }, async (socket) => {
      (await write(socket, state.subarray(0, 1000))).end();
      throw half;
    }),
    half,
  );
  assert.deepEqual(await readdir(folder), []);
});

test('a full disk is told as such, though QEMU only sees its connection break', async () => {
  // A device that has never room for a byte (full(4)); the link to it is what is removed.
  await symlink('/dev/full', statePath);
  await assert.rejects(
    receiveState({ folder, pid, statePath }, async (socket) => {
      const sender = await write(socket, state);
      await once(sender, 'close');
      throw new VmmError('the machine could not be saved: Unable to write to socket: Broken pipe');
    }),
    (error) => error instanceof VmmError && error.kind === 'no_space',
  );
  assert.equal(await exists('/dev/full'), true);
  assert.deepEqual(await readdir(folder), []);
});

test('a path that cannot be written is told before QEMU is asked for anything', async () => {
  let asked = false;
  await assert.rejects(
    receiveState({ folder, pid, statePath: join(folder, 'nowhere/state') }, async () => {
      asked = true;
    }),
    (error) => error instanceof VmmError && error.kind === 'failed',
  );
  assert.equal(asked, false);
});

test('a state is sent whole, and its end is told', async () => {
  await writeFile(statePath, state);
  const server = createServer();
  const received = once(server, 'connection').then(([socket]: Socket[]) => socket && buffer(socket));
  const connectTo = (socket: string): string => join(folder, socket);
  await sendState({ statePath, connectTo, signal: AbortSignal.timeout(10_000) }, async (socket) => {
    server.listen(join(folder, socket));
    await once(server, 'listening');
  });
  assert.deepEqual(await received, state);
  server.close();
});

test('a QEMU that hangs up half-way fails the sending', async () => {
  await writeFile(statePath, Buffer.alloc(8 * 1024 * 1024));
  const server = createServer((socket) => socket.once('data', () => socket.destroy()));
  await assert.rejects(
    sendState(
      { statePath, connectTo: (socket) => join(folder, socket), signal: AbortSignal.timeout(10_000) },
      async (socket) => {
        server.listen(join(folder, socket));
        await once(server, 'listening');
      },
    ),
  );
  server.close();
});

test('a QEMU that hangs up once it has all of it has not failed', async () => {
  await writeFile(statePath, state.subarray(0, 1000));
  for (let i = 0; i < 20; i++) {
    const path = join(folder, STATE_SOCKET);
    const server = createServer((socket) => socket.once('data', () => socket.destroy()));
    await sendState({ statePath, connectTo: () => path, signal: AbortSignal.timeout(10_000) }, async () => {
      server.listen(path);
      await once(server, 'listening');
    });
    server.close();
    await once(server, 'close');
  }
});

test('sending can be called off', async () => {
  await writeFile(statePath, Buffer.alloc(8 * 1024 * 1024));
  const reason = new Error('called off');
  const during = new AbortController();
  const sockets: Socket[] = [];
  // It takes the connection and reads nothing.
  const server = createServer({ pauseOnConnect: true }, (socket) => {
    sockets.push(socket);
    during.abort(reason);
  });
  await assert.rejects(
    sendState(
      { statePath, connectTo: (socket) => join(folder, socket), signal: during.signal },
      async (socket) => {
        server.listen(join(folder, socket));
        await once(server, 'listening');
      },
    ),
  );
  for (const socket of sockets) socket.destroy();
  server.close();
});
