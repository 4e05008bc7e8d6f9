import assert from 'node:assert/strict';
import { once } from 'node:events';
import { Agent, request, type IncomingMessage } from 'node:http';
import { connect, type Socket } from 'node:net';
import { test } from 'node:test';
import { text } from 'node:stream/consumers';
import { systemClock } from '../base/clock.ts';
import { until } from '../base/until.ts';
import type { ApiOptions } from './server.ts';
import { field, testApi, type TestApi } from './test-client.ts';

const patience = { clock: systemClock, signal: AbortSignal.timeout(10_000) };

/** The server gives itself 0.7 s to close; the rest is for a machine that is busy with other tests. */
const CLOSE_MS = 3000;

/** The API on a port of loopback. */
async function listening(options: ApiOptions = {}): Promise<TestApi & { readonly port: number }> {
  const api = await testApi(systemClock, options);
  await api.app.listen({ host: '127.0.0.1', port: 0 });
  const address = api.app.server.address();
  assert.ok(typeof address === 'object' && address !== null);
  return { ...api, port: address.port };
}

function ask(
  api: { readonly port: number; readonly key: string },
  method: string,
  path: string,
  agent?: Agent,
  headers: Readonly<Record<string, string>> = {},
): { readonly sent: ReturnType<typeof request>; readonly answer: Promise<IncomingMessage> } {
  const sent = request({
    host: '127.0.0.1',
    port: api.port,
    method,
    path,
    ...(agent ? { agent } : {}),
    headers: { authorization: `Bearer ${api.key}`, host: 'any.name.example:1234', ...headers },
  });
  const answer = once(sent, 'response').then(([message]: unknown[]) => message as IncomingMessage);
  answer.catch(() => undefined);
  sent.on('error', () => undefined);
  sent.end();
  return { sent, answer };
}

test('the console is followed as it is written, and close ends it', async () => {
  const api = await listening();
  await api.call('POST', '/vms', { name: 'web' });
  api.hatch.writeConsole('booting\n');
  const answer = await ask(api, 'GET', '/vms/web/console?follow=true').answer;
  assert.equal(answer.statusCode, 200);
  assert.equal(answer.headers['content-type'], 'text/plain; charset=utf-8');
  assert.equal(answer.headers['transfer-encoding'], 'chunked');
  let seen = '';
  answer.setEncoding('utf8').on('data', (more: string) => (seen += more));
  await until(patience, () => (seen === 'booting\n' ? true : undefined));
  api.hatch.writeConsole('login: ');
  await until(patience, () => (seen === 'booting\nlogin: ' ? true : undefined));

  const from = performance.now();
  const ended = once(answer, 'end');
  await api.app.close();
  await ended;
  assert.ok(performance.now() - from < CLOSE_MS);
});

test('a silent console answers its head at once, and hanging up ends the following', async () => {
  const api = await listening();
  await api.call('POST', '/vms', { name: 'web' });
  const signals: AbortSignal[] = [];
  const { vms } = api.hatch;
  const follow: typeof vms.followConsole = vms.followConsole.bind(vms);
  Object.assign(api.hatch.vms, {
    followConsole: (...given: Parameters<typeof follow>) => {
      signals.push(given[3]);
      return follow(...given);
    },
  });
  const { sent, answer } = ask(api, 'GET', '/vms/web/console?follow=true&tail=0');
  assert.equal((await answer).statusCode, 200);
  const signal = await until(patience, () => signals[0]);
  sent.destroy();
  await until(patience, () => signal.aborted || undefined);
  await api.app.close();
});

test('a stream whose caller hung up before it began ends at once', async () => {
  const api = await listening();
  const [asked, gone] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
  const { accounts, events } = api.hatch;
  const authenticate = accounts.authenticate.bind(accounts);
  const follow = events.follow.bind(events);
  const signals: AbortSignal[] = [];
  Object.assign(accounts, {
    authenticate: async (secret: string) => {
      asked.resolve();
      await gone.promise;
      return authenticate(secret);
    },
  });
  Object.assign(events, {
    follow: async (...given: Parameters<typeof follow>) => {
      signals.push(given[3]);
      return follow(...given);
    },
  });
  api.app.server.once('connection', (socket: Socket) => socket.once('close', () => gone.resolve()));
  const { sent } = ask(api, 'GET', '/events', undefined, { accept: 'text/event-stream' });
  await asked.promise;
  sent.destroy();
  assert.ok((await until(patience, () => signals[0])).aborted);
  await api.app.close();
});

test('a stream ends soon after its key is revoked, and one with another key goes on', async () => {
  const api = await listening();
  const id = String(field((await api.call('POST', '/vms', { name: 'web' })).body, 'id'));
  const { body } = await api.call('POST', '/keys', { name: 'other', scopes: ['read'] });
  const authorization = `Bearer ${String(field(body, 'secret'))}`;
  const path = `/vms/${id}/console?follow=true`;
  const [other, own] = await Promise.all([
    ask(api, 'GET', path, undefined, { authorization }).answer,
    ask(api, 'GET', path).answer,
  ]);
  const ended = text(other);
  assert.equal((await api.call('DELETE', `/keys/${String(field(body, 'id'))}`)).status, 200);
  const from = performance.now();
  api.hatch.writeConsole('one');
  await ended;
  assert.ok(performance.now() - from < CLOSE_MS);
  assert.ok(!own.readableEnded && !own.destroyed);
  const rest = text(own);
  api.hatch.writeConsole('two');
  await api.app.close();
  assert.equal(await rest, 'onetwo');
});

test('a caller who hangs up cancels nothing: its VM is made', async () => {
  const api = await listening();
  const { reached, letGo } = api.hatch.hold();
  const { sent } = ask(api, 'POST', '/vms');
  await reached;
  const gone = new Promise((resolve) => sent.once('close', resolve));
  sent.destroy();
  await gone;
  letGo();
  await until(patience, () => (api.hatch.vmRows.size === 1 ? true : undefined));
  await api.app.close();
  assert.doesNotMatch(JSON.stringify(api.logged), /"level":"error"/);
});

test('close answers what still waits with 503 and ends soon, while the work goes on', async () => {
  const api = await listening();
  const { reached, letGo } = api.hatch.hold();
  const agent = new Agent({ keepAlive: true });
  const idle = await ask(api, 'GET', '/healthz', agent).answer;
  await text(idle);
  const { answer } = ask(api, 'POST', '/vms');
  await reached;
  const from = performance.now();
  await api.app.close();
  assert.ok(performance.now() - from < CLOSE_MS);
  const refused = await answer;
  assert.equal(refused.statusCode, 503);
  assert.equal(refused.headers['retry-after'], '1');
  const body: unknown = JSON.parse(await text(refused));
  assert.equal(field(body, 'code'), 'unavailable');
  assert.match(String(field(body, 'error')), /What was under way is finished or taken back/);
  letGo();
  await until(patience, () => (api.hatch.vmRows.size === 1 ? true : undefined));
  agent.destroy();
});

test('a connection that could not be taken is warned of, and the next one is', async () => {
  const api = await listening();
  for (let i = 0; i < 2; i++) api.app.server.emit('error', new Error('accept EMFILE'));
  assert.equal((await ask(api, 'GET', '/healthz').answer).resume().statusCode, 200);
  const warned = api.logged.filter(({ message }) => message === 'could not take a connection');
  assert.deepEqual(
    warned.map(({ level }) => level),
    ['warn', 'warn'],
  );
  await api.app.close();
});

test('a connection is kept and used again', async () => {
  const api = await listening();
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  const ports = new Set<unknown>();
  for (let i = 0; i < 3; i++) {
    const { sent, answer } = ask(api, 'GET', '/vms', agent);
    await text(await answer);
    ports.add(sent.reusedSocket || i === 0);
  }
  assert.deepEqual([...ports], [true]);
  agent.destroy();
  await api.app.close();
});

test('what is not HTTP is refused in the shape of every other error', async () => {
  const api = await listening();
  const say = async (bytes: string): Promise<string> => {
    const socket = connect(api.port, '127.0.0.1');
    socket.end(bytes);
    return text(socket);
  };
  const nonsense = await say('HELLO\r\n\r\n');
  assert.match(nonsense, /^HTTP\/1\.1 400 /);
  assert.match(nonsense, /"code":"invalid_request".*"request_id":"req-/);
  const tooMuch = await say(`GET / HTTP/1.1\r\nhost: x\r\nx: ${'y'.repeat(40_000)}\r\n\r\n`);
  assert.match(tooMuch, /^HTTP\/1\.1 431 .*"code":"headers_too_large"/s);
  for (const said of [nonsense, tooMuch])
    assert.match(
      said,
      /\r\nx-request-id: (req-\w+)\r\n.*"request_id":"\1"/s,
      'the header and the body name it alike',
    );
  await api.app.close();
});

test('connections that say nothing make room, and those with something under way stay', async () => {
  const api = await listening({ mostConnections: 32 });
  await api.call('POST', '/vms', { name: 'web' });
  const followed = await ask(api, 'GET', '/vms/web/console?follow=true').answer;
  let seen = '';
  followed.setEncoding('utf8').on('data', (more: string) => (seen += more));
  let ended = 0;
  const silent: Socket[] = [];
  for (let i = 0; i < 100; i++) {
    const socket = connect(api.port, '127.0.0.1').on('error', () => undefined);
    socket.on('close', () => ended++);
    silent.push(socket);
    await once(socket, 'connect');
  }
  assert.equal((await ask(api, 'GET', '/vms').answer).resume().statusCode, 200);
  await until(patience, () => (ended >= 100 - 32 ? true : undefined));
  api.hatch.writeConsole('still here');
  await until(patience, () => (seen === 'still here' ? true : undefined));
  for (const socket of silent) socket.destroy();
  await api.app.close();
});
