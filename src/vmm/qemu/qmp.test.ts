import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, test } from 'node:test';
import { qmpServer, type QmpServer } from '../../../test/support/qmp-server.ts';
import { VmmError } from '../driver.ts';
import { Qmp, type QmpEvent } from './qmp.ts';

let folder: string;
let path: string;
let server: QmpServer;
let events: QmpEvent[];

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'hatch-qmp-'));
  path = join(folder, 'qmp.sock');
  server = await qmpServer(path);
  events = [];
});
afterEach(async () => {
  server.close();
  await rm(folder, { recursive: true });
});

const within = (): AbortSignal => AbortSignal.timeout(10_000);
const connect = (answerMs?: number): Promise<Qmp> =>
  Qmp.connect(path, (event) => void events.push(event), within(), answerMs);

test('after the greeting the client leaves the negotiation and asks what it is told to', async () => {
  const qmp = await connect();
  server.answer = () => ({ return: { status: 'running' } });
  assert.deepEqual(await qmp.execute('query-status'), { status: 'running' });
  await qmp.execute('stop', { now: true });
  assert.deepEqual(
    server.heard.map(({ execute, arguments: given }) => [execute, given]),
    [
      ['qmp_capabilities', {}],
      ['query-status', {}],
      ['stop', { now: true }],
    ],
  );
  qmp.close();
});

test('a server that does not greet is waited for until the signal aborts, and left', async () => {
  server.greets = false;
  const reason = new Error('enough');
  const enough = new AbortController();
  const connecting = Qmp.connect(path, () => undefined, enough.signal);
  setImmediate(() => enough.abort(reason));
  await assert.rejects(connecting, reason);
  await server.alone();
  assert.deepEqual(server.heard, []);
});

test('a greeting that comes late is heard', async () => {
  server.greets = false;
  const connecting = connect();
  while (server.connected() === 0) await new Promise((resolve) => setImmediate(resolve));
  server.say({ QMP: {} });
  (await connecting).close();
});

test('a server that ends before it has greeted is an error, and so is none', async () => {
  server.greets = false;
  const connecting = connect();
  while (server.connected() === 0) await new Promise((resolve) => setImmediate(resolve));
  server.hangUp();
  await assert.rejects(connecting, VmmError);
  server.close();
  await assert.rejects(connect(), /ENOENT|ECONNREFUSED/);
});

test("a refusal is a VmmError with QEMU's own words", async () => {
  const qmp = await connect();
  server.answer = () => ({
    error: { class: 'GenericError', desc: 'There is no migration process in progress' },
  });
  await assert.rejects(qmp.execute('migrate_cancel'), (error) => {
    assert(error instanceof VmmError);
    assert.equal(error.kind, 'failed');
    assert.match(error.message, /There is no migration process in progress/);
    return true;
  });
  server.answer = () => ({ return: {} });
  assert.deepEqual(await qmp.execute('query-status'), {});
  qmp.close();
});

test('answers find their questions by their ids; what nobody asked for, or asked for once, is passed over', async () => {
  const qmp = await connect();
  server.answer = () => undefined;
  const [first, second] = [qmp.execute('first'), qmp.execute('second')];
  while (server.heard.length < 3) await new Promise((resolve) => setImmediate(resolve));
  const [one, two] = server.heard.slice(1);
  server.say({ return: 'to nobody', id: 99 });
  server.say({ return: 'to nobody' });
  server.say({ return: 'second', id: two?.id });
  server.say({ return: 'second again', id: two?.id });
  server.say({ return: 'first', id: one?.id });
  assert.deepEqual(await Promise.all([first, second]), ['first', 'second']);
  server.answer = ({ execute }) => ({ return: execute });
  assert.equal(await qmp.execute('third'), 'third');
  qmp.close();
});

test('events are heard in their order, also between a question and its answer', async () => {
  const qmp = await connect();
  server.answer = ({ execute }) => {
    server.say({ event: 'STOP', data: {}, timestamp: { seconds: 1, microseconds: 2 } });
    server.say({ event: 'RESUME', data: { n: 1 }, timestamp: { seconds: 3, microseconds: 4 } });
    return { return: execute };
  };
  assert.equal(await qmp.execute('stop'), 'stop');
  assert.deepEqual(
    events.map(({ event }) => event),
    ['STOP', 'RESUME'],
  );
  assert.deepEqual(events[1]?.data, { n: 1 });
  qmp.close();
});

test('lines may come in pieces and several at once', async () => {
  const qmp = await connect();
  server.answer = () => undefined;
  const asked = qmp.execute('ask');
  while (server.heard.length < 2) await new Promise((resolve) => setImmediate(resolve));
  const answer = JSON.stringify({ return: 'whole', id: server.heard[1]?.id });
  server.say(`{"event":"STOP","data":{}}\r\n\r\n{"event":"RESUME","data":{}}\r\n${answer.slice(0, 5)}`);
  while (events.length < 2) await new Promise((resolve) => setImmediate(resolve));
  server.say(`${answer.slice(5)}\r\n`);
  assert.equal(await asked, 'whole');
  qmp.close();
});

test('the last event before the end is heard before the connection counts as closed', async () => {
  const qmp = await connect();
  server.say({ event: 'SHUTDOWN', data: { reason: 'guest-reset' } });
  server.hangUp();
  await qmp.closed;
  assert.deepEqual(
    events.map(({ data }) => data),
    [{ reason: 'guest-reset' }],
  );
});

test('a connection that is lost fails what was asked, and what is asked afterwards', async () => {
  const qmp = await connect();
  server.answer = () => undefined;
  const asked = qmp.execute('ask');
  while (server.heard.length < 2) await new Promise((resolve) => setImmediate(resolve));
  server.hangUp();
  await assert.rejects(asked, VmmError);
  await qmp.closed;
  await assert.rejects(qmp.execute('ask'), VmmError);
});

test('a server that says something else than JSON is left', async () => {
  const qmp = await connect();
  server.say('HTTP/1.1 200 OK\n');
  await qmp.closed;
  await server.alone();
  await assert.rejects(qmp.execute('ask'), VmmError);
});

test('no answer in time is a VmmError that says so, and the late one is not taken for the next', async () => {
  const qmp = await connect(50);
  server.answer = ({ execute }) => (execute === 'slow' ? undefined : { return: execute });
  await assert.rejects(
    qmp.execute('slow'),
    (error) => error instanceof VmmError && error.kind === 'timeout' && error.message.includes('slow'),
  );
  server.answer = ({ execute }) => {
    server.say({ return: 'late', id: server.heard[1]?.id });
    return { return: execute };
  };
  assert.equal(await qmp.execute('quick'), 'quick');
  qmp.close();
});

test('a question can be given up', async () => {
  const qmp = await connect();
  server.answer = () => undefined;
  const reason = new Error('given up');
  await assert.rejects(qmp.execute('ask', {}, AbortSignal.abort(reason)), reason);
  qmp.close();
  await server.alone();
});
