import assert from 'node:assert/strict';
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, test } from 'node:test';
import { qmpServer, type QmpServer } from '../../../test/support/qmp-server.ts';
import { identify } from '../../host/process.ts';
import type { VmmProcess } from '../../model/vm.ts';
import { VmmError } from '../driver.ts';
import { EVENTS_SOCKET, QMP_SOCKET } from './command-line.ts';
import { connectMonitors, type Monitors } from './monitors.ts';

// The process whose sockets they are: all that counts of it is its folder, and that it is there.
let folder: string;
let child: ChildProcess;
let process: VmmProcess;
let servers: QmpServer[];

beforeEach(async () => {
  // Longer than the 108 bytes of a socket's address.
  folder = await mkdtemp(join(tmpdir(), `hatch-monitors-${'x'.repeat(120)}-`));
  child = spawn('cat', { cwd: folder, stdio: ['pipe', 'ignore', 'ignore'] });
  await once(child, 'spawn');
  const found = await identify(child.pid ?? 0);
  assert(found);
  process = found;
  servers = [];
});
afterEach(async () => {
  for (const server of servers) server.close();
  if (child.exitCode === null && child.signalCode === null) {
    child.kill('SIGKILL');
    await once(child, 'exit');
  }
  await rm(folder, { recursive: true });
});

/** Listens in the process's folder, by a path that is short enough. */
async function listen(name: string): Promise<QmpServer> {
  const server = await qmpServer(`/proc/${process.pid}/cwd/${name}`);
  servers.push(server);
  return server;
}

const connect = (): Promise<Monitors> => connectMonitors(process, AbortSignal.timeout(10_000));
const shutdown = { event: 'SHUTDOWN', data: { guest: true, reason: 'guest-shutdown' } };

test('it is connected to when it comes to listen, however long its folder is called', async () => {
  const connecting = connect();
  const questions = await listen(QMP_SOCKET);
  await listen(EVENTS_SOCKET);
  const monitors = await connecting;
  questions.answer = () => ({ return: 'yes' });
  assert.equal(await monitors.execute('ask', { a: 1 }), 'yes');
  assert.deepEqual(questions.heard.at(-1)?.arguments, { a: 1 });
  monitors.close();
});

test('events are kept from the first moment until somebody listens', async () => {
  const questions = await listen(QMP_SOCKET);
  const events = await listen(EVENTS_SOCKET);
  events.answer = () => {
    setImmediate(() => events.say({ event: 'RESUME', data: {} }));
    return { return: {} };
  };
  const monitors = await connect();
  events.say(shutdown);
  await monitors.execute('ask');
  await new Promise((resolve) => setImmediate(resolve));
  const heard: string[] = [];
  monitors.listen(({ event }) => heard.push(event));
  events.hangUp();
  await monitors.closed;
  assert.deepEqual(heard, ['RESUME', 'SHUTDOWN']);
  assert.equal(questions.connected(), 1);
  monitors.close();
});

test('a question in the very moment of its end does not lose why it ended', async () => {
  const questions = await listen(QMP_SOCKET);
  const events = await listen(EVENTS_SOCKET);
  const monitors = await connect();
  const heard: unknown[] = [];
  monitors.listen(({ data }) => heard.push(data['reason']));
  // All in one turn: when the question is written the other end has gone, and nothing it said was read yet.
  for (const server of [questions, events]) {
    server.say(shutdown);
    server.hangUp();
  }
  await assert.rejects(monitors.execute('query-status'), VmmError);
  await monitors.closed;
  assert.deepEqual(heard, ['guest-shutdown']);
});

test('a process that has gone is not waited for', async () => {
  child.kill('SIGKILL');
  await once(child, 'exit');
  await assert.rejects(connect(), VmmError);
});

test('one that goes while it is waited for ends the waiting', async () => {
  await listen(QMP_SOCKET);
  const connecting = connect();
  setImmediate(() => child.kill('SIGKILL'));
  await assert.rejects(connecting, VmmError);
});

test('giving up leaves no connection behind', async () => {
  const questions = await listen(QMP_SOCKET);
  const reason = new Error('enough');
  const enough = new AbortController();
  const connecting = connectMonitors(process, enough.signal);
  while (questions.heard.length === 0) await new Promise((resolve) => setImmediate(resolve));
  enough.abort(reason);
  await assert.rejects(connecting, reason);
  await questions.alone();
});
