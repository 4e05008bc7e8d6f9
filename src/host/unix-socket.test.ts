import assert from 'node:assert/strict';
import { once } from 'node:events';
import { link, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { connectInPlace } from './unix-socket.ts';

let folder: string;
let server: Server;
const live = new AbortController().signal;

before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'hatch-sock-'));
  server = createServer((socket) => socket.end('hello')).listen(join(folder, 'sock'));
  await once(server, 'listening');
});
after(async () => {
  server.close();
  await rm(folder, { recursive: true });
});

test('a socket is connected to by its name', async () => {
  const socket = await connectInPlace(join(folder, 'sock'), live);
  assert.equal(String(await once(socket, 'data')), 'hello');
  socket.destroy();
});

test('a link in the place of a socket leads nowhere, nor does anything else that is none', async () => {
  await symlink(join(folder, 'sock'), join(folder, 'link'));
  await writeFile(join(folder, 'file'), '');
  for (const name of ['link', 'file'])
    await assert.rejects(connectInPlace(join(folder, name), live), /is none/);
});

test('a name that nothing bears, and a socket nobody listens on, are told by the system', async () => {
  await assert.rejects(connectInPlace(join(folder, 'nothing'), live), { code: 'ENOENT' });
  const left = createServer().listen(join(folder, 'gone'));
  await once(left, 'listening');
  // A server that ends in order removes its socket; one that is killed leaves it, as this hard link does.
  await link(join(folder, 'gone'), join(folder, 'stale'));
  left.close();
  await once(left, 'close');
  await assert.rejects(connectInPlace(join(folder, 'stale'), live), { code: 'ECONNREFUSED' });
});

test('who has given up connects to nobody', async () => {
  const reason = new Error('called off');
  await assert.rejects(connectInPlace(join(folder, 'sock'), AbortSignal.abort(reason)), reason);
});

test('a connection that breaks before anybody listens to it is closed, and nothing else happens', async () => {
  const socket = await connectInPlace(join(folder, 'sock'), live);
  socket.destroy(new Error('reset by peer'));
  await new Promise((resolve) => socket.once('close', resolve));
  assert.match(String(socket.errored), /reset by peer/);
});
