import assert from 'node:assert/strict';
import { get, type IncomingMessage } from 'node:http';
import { after, before, test } from 'node:test';
import { hatch as hatchCommand } from '../../test/support/cli.ts';
import { makeFakeHost, type FakeDaemon, type FakeHost } from '../../test/support/fake-daemon.ts';
import { HatchClient } from '../clients/http.ts';
import type { Event } from '../contract/event.ts';

let host: FakeHost;
let hatch: FakeDaemon;
let client: HatchClient;

before(async () => {
  host = await makeFakeHost();
  hatch = await host.start();
  client = new HatchClient({ url: hatch.daemon.url, apiKey: hatch.key });
});
after(async () => {
  await client.close();
  await host.end();
});

/** The next events of a stream, until there is one of this kind. */
async function until(stream: AsyncGenerator<Event>, kind: string): Promise<readonly Event[]> {
  const seen: Event[] = [];
  for (;;) {
    const next = await stream.next();
    if (next.done === true) assert.fail(`it ended before ${kind}`);
    seen.push(next.value);
    if (next.value.kind === kind) return seen;
  }
}

/** Opens a stream and gives its head and what it says. */
function open(path: string, headers: Record<string, string> = {}): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    const sent = { authorization: `Bearer ${hatch.key}`, accept: 'text/event-stream', ...headers };
    get(`${hatch.daemon.url}${path}`, { headers: sent, agent: false }, resolve).on('error', reject);
  });
}

test('events come as they happen, of all VMs or of one, in the order of the list, and end with the signal', async () => {
  const stop = new AbortController();
  const { signal } = stop;
  const [all, kinds] = [
    client.events.follow({ signal }),
    client.events.follow({ kind: 'vm.deleted', signal }),
  ];
  const [first, deleted] = [until(all, 'vm.ready'), until(kinds, 'vm.deleted')];
  // Both have begun when the server has their requests: what happens from then on is theirs.
  (await open('/events')).on('error', () => undefined).destroy();
  const { id } = await hatch.makeVm({ name: 'web' });
  const seen = await first;
  const listed = (await client.vms.events('web')).toReversed();
  assert.deepEqual(seen, listed);
  const one = until(client.events.follow({ vm: 'web', since: seen[0]?.id, signal }), 'vm.deleted');
  const { id: other } = await hatch.makeVm({ name: 'other' });
  await hatch.call('DELETE', '/vms/web');
  const rest = await one;
  assert.deepEqual(rest.slice(0, listed.length - 1), listed.slice(1), 'those after the one that was named');
  assert.ok(rest.every(({ vm_id: vm }) => vm === id));
  assert.deepEqual(
    (await deleted).map(({ vm_id: vm }) => vm),
    [id],
  );
  stop.abort(new Error('enough'));
  await assert.rejects(all.next(), /enough/);
  await hatch.call('DELETE', `/vms/${String(other)}`);
});

test('a stream is server-sent events, and a browser that comes again misses nothing', async () => {
  const { id } = await hatch.makeVm({ name: 'page' });
  const [last] = await client.vms.events('page', { limit: 1 });
  const stream = await open('/vms/page/events', { 'last-event-id': last?.id ?? '' });
  assert.equal(stream.headers['content-type'], 'text/event-stream; charset=utf-8');
  assert.equal(stream.headers['cache-control'], 'no-store');
  await hatch.call('POST', '/vms/page/stop', {});
  let text = '';
  for await (const piece of stream.setEncoding('utf8')) {
    text += String(piece);
    if (text.includes('event: vm.stopped\n')) break;
  }
  const events = text.split('\n\n');
  assert.equal(events[0], 'retry: 2000');
  assert.match(
    events[1] ?? '',
    new RegExp(`^id: evt-[a-z0-9]{12}\\nevent: vm\\.[a-z_]+\\ndata: \\{.*"vm_id":"${String(id)}".*\\}$`),
  );
  await hatch.call('DELETE', '/vms/page');
});

test('a stream that cannot be is refused in a sentence, and another account sees nothing of ours', async () => {
  const stream = { headers: { accept: 'text/event-stream' } };
  for (const [path, field, headers] of [
    ['/events?limit=5', 'limit', {}],
    ['/events', 'Last-Event-ID', { 'last-event-id': 'yesterday' }],
    ['/events', 'Last-Event-ID', { 'last-event-id': 'evt-aaaaaaaaaaaa' }],
  ] as const) {
    const sending = { headers: { ...stream.headers, ...headers } };
    const { details } = await hatch.refused('invalid_request', 'GET', path, undefined, sending);
    assert.equal(details['field'], field);
  }
  await hatch.refused('not_found', 'GET', '/vms/nobody/events', undefined, stream);
  await hatch.makeVm({ name: 'ours' });
  const [event] = await client.vms.events('ours', { limit: 1 });
  const { body } = await hatch.call('POST', '/accounts', { name: 'theirs' });
  const account = (body as { id: string }).id;
  const key = await hatch.call('POST', '/keys', { name: 'theirs', scopes: ['read'], account_id: account });
  const sending = {
    key: (key.body as { secret: string }).secret,
    headers: { ...stream.headers, 'last-event-id': event?.id ?? '' },
  };
  await hatch.refused('invalid_request', 'GET', '/events', undefined, sending);
  await hatch.call('DELETE', '/vms/ours');
});

test('a stream ends soon after its key is revoked', async () => {
  const { body } = await hatch.call('POST', '/keys', { name: 'lost', scopes: ['read'] });
  const { id, secret } = body as { id: string; secret: string };
  const stream = await open('/events', { authorization: `Bearer ${secret}` });
  await hatch.call('DELETE', `/keys/${id}`);
  assert.equal((await stream.setEncoding('utf8').toArray()).join(''), 'retry: 2000\n\n');
});

test('the command prints them as they come, and says when the server has ended', async () => {
  const own = await makeFakeHost();
  const server = await own.start();
  try {
    const lines: string[] = [];
    const heard = Promise.withResolvers<void>();
    const running = hatchCommand(['events', '--follow', '--json'], {
      env: { HATCH_URL: server.daemon.url, HATCH_API_KEY: server.key },
      listen: (text) => {
        lines.push(text);
        if (text.includes('vm.deleted')) heard.resolve();
      },
    });
    for (let i = 0; ; i++) {
      await server.makeVm({ name: `number-${i}` });
      await server.call('DELETE', `/vms/number-${i}`);
      if (
        await Promise.race([heard.promise.then(() => true), server.call('GET', '/healthz').then(() => false)])
      )
        break;
    }
    await server.stop();
    assert.equal((await running).code, 0);
    const kinds = lines.map((line) => (JSON.parse(line) as Event).kind);
    assert.ok(kinds.includes('vm.deleted'));
    await own.start();
  } finally {
    await own.end();
  }
});
