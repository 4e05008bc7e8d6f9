import assert from 'node:assert/strict';
import { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { after, afterEach, before, test } from 'node:test';
import { refused } from '../guest/guest-file-suite.ts';
import { PIECE_BYTES, type GuestFileToWrite } from '../guest/guest-file.ts';
import type { FileFacts } from '../model/saved-files.ts';
import type { Vm } from '../model/vm.ts';
import {
  makeHostFolder,
  openFakeWorld,
  type FakeHostFolder,
  type FakeWorld,
} from '../../test/support/fake-world.ts';
import { MOST_FILES } from './guest-files.ts';

const EXEC = { cwd: null, env: {}, stdin: null, timeoutMs: 10_000 };

let host: FakeHostFolder;
let fake: FakeWorld;
before(async () => {
  host = await makeHostFolder();
  fake = await openFakeWorld(host);
});
afterEach(async () => {
  for (const { id } of await fake.hatch.vms.list(fake.caller, {}, { limit: 100 }))
    await fake.hatch.vms.delete(fake.caller, id);
});
after(async () => {
  await fake.close();
  await host.remove();
});

const running = (name: string): Promise<Vm> =>
  fake.hatch.vms.create(fake.caller, { name }, { until: 'ready', timeoutMs: 10_000 });

function put(
  vm: string,
  path: string,
  source: AsyncIterable<Uint8Array>,
  more: Partial<GuestFileToWrite> & { readonly signal?: AbortSignal; readonly wake?: true } = {},
): Promise<FileFacts> {
  const { signal = AbortSignal.timeout(10_000), wake, ...rest } = more;
  const file = { path, mode: null, owner: null, group: null, parents: false, ...rest };
  const visitor = wake && ({ by: 'file', from: '203.0.113.9' } as const);
  return fake.hatch.vms.writeFile(fake.caller, vm, file, source, signal, visitor);
}

const bytes = (text: string): Readable => Readable.from([Buffer.from(text)]);

async function get(vm: string, path: string, wake?: true): Promise<string> {
  const visitor = wake && ({ by: 'file', from: null } as const);
  const signal = AbortSignal.timeout(10_000);
  const { content } = await fake.hatch.vms.readFile(fake.caller, vm, path, signal, visitor);
  return (await buffer(content)).toString();
}

/** A file that goes on coming; `begun` resolves when some of it was asked for a second time. */
function endless(): { readonly source: AsyncIterable<Uint8Array>; readonly begun: Promise<void> } {
  const { promise: begun, resolve } = Promise.withResolvers<void>();
  const source = async function* (): AsyncGenerator<Uint8Array> {
    yield Buffer.alloc(PIECE_BYTES, 'x');
    resolve();
    await new Promise(() => undefined);
  };
  return { source: source(), begun };
}

test('a file and what a command sees are the same, and it goes with the guest into its sleep and to its copy', async () => {
  await running('web');
  await put('web', '/etc/motd', bytes('hello\n'), { mode: 0o640, owner: 'hatch' });
  const { stdout } = await fake.hatch.vms.exec(fake.caller, 'web', { ...EXEC, command: 'cat /etc/motd' });
  assert.equal(stdout, 'hello\n');
  await fake.hatch.vms.exec(fake.caller, 'web', { ...EXEC, command: 'echo bye > /etc/motd' });
  assert.equal(await get('web', '/etc/motd'), 'bye\n');
  const [copy] = await fake.hatch.vms.fork(fake.caller, 'web', { count: 1, keepRunning: false });
  assert.ok(copy);
  const signal = AbortSignal.timeout(10_000);
  const { facts, content } = await fake.hatch.vms.readFile(fake.caller, copy.id, '/etc/motd', signal);
  assert.equal((await buffer(content)).toString(), 'bye\n');
  assert.deepEqual([facts.mode, facts.uid, facts.gid], [0o640, 1000, 0]);
});

test('a sleeping VM is woken only when told, and the event says by what', async () => {
  const { id } = await running('sleeper');
  await put('sleeper', '/root/a', bytes('kept'));
  await fake.hatch.vms.snapshot(fake.caller, 'sleeper', { keepRunning: false });
  for (const work of [() => get('sleeper', '/root/a'), () => put('sleeper', '/root/a', bytes('x'))]) {
    const { message, details } = await refused('wrong_state', work());
    assert.match(message, /snapshotted.*"wake=true"/);
    assert.equal(details['state'], 'snapshotted');
  }
  assert.equal(await get('sleeper', '/root/a', true), 'kept');
  await fake.hatch.vms.snapshot(fake.caller, 'sleeper', { keepRunning: false });
  await put('sleeper', '/root/a', bytes('new'), { wake: true });
  assert.equal(await get('sleeper', '/root/a'), 'new');
  const woken = (await fake.hatch.events.list(fake.caller, { vm: id, kind: 'vm.woken' }, { limit: 10 })).map(
    ({ data }) => data['by'],
  );
  assert.deepEqual(woken, ['file', 'file']);
  await refused('not_found', get('nobody', '/root/a'));
});

test('a file on its way is a use of its VM until it has arrived, is let go, or has failed', async () => {
  const { id } = await running('used');
  const { activity } = fake.world;
  const open = (): readonly string[] => activity.of(id).open.map(({ by }) => by);
  const stop = new AbortController();
  const { source, begun } = endless();
  const upload = put('used', '/root/a', source, { signal: stop.signal });
  await begun;
  assert.deepEqual(open(), ['file']);
  stop.abort(new Error('enough'));
  await assert.rejects(upload, /enough/);
  assert.deepEqual(open(), []);
  await put('used', '/root/a', bytes('a'));
  const signal = AbortSignal.timeout(10_000);
  const { content } = await fake.hatch.vms.readFile(fake.caller, 'used', '/root/a', signal);
  assert.deepEqual(open(), ['file']);
  content.destroy();
  await new Promise((resolve) => content.once('close', resolve));
  assert.deepEqual(open(), []);
  await refused('not_found', get('used', '/root/none'));
  assert.deepEqual(open(), []);
});

test('what stops a VM, puts it to sleep or deletes it ends the files on their way, and says so', async () => {
  const enders = {
    stop: (name: string) => fake.hatch.vms.stop(fake.caller, name, { graceSeconds: 0 }),
    snapshot: (name: string) => fake.hatch.vms.snapshot(fake.caller, name, { keepRunning: false }),
    delete: (name: string) => fake.hatch.vms.delete(fake.caller, name),
  };
  for (const [how, end] of Object.entries(enders)) {
    const name = `ended-${how}`;
    await running(name);
    await put(name, '/root/old', Readable.from([Buffer.alloc(4 * PIECE_BYTES, 'x')]));
    const signal = AbortSignal.timeout(10_000);
    const { content } = await fake.hatch.vms.readFile(fake.caller, name, '/root/old', signal);
    const broken = new Promise<Error>((resolve) => content.once('error', resolve));
    const { source, begun } = endless();
    const upload = put(name, '/root/new', source);
    const ended = refused('wrong_state', upload);
    await begun;
    await end(name);
    assert.match((await ended).message, /stopped running while/, how);
    await broken;
  }
});

test('a VM that stays awake while it is saved goes on with its files', async () => {
  await running('busy');
  const whole = Buffer.alloc(3 * PIECE_BYTES + 5, 'x');
  const source = async function* (): AsyncGenerator<Uint8Array> {
    yield whole.subarray(0, PIECE_BYTES + 1);
    await fake.hatch.vms.snapshot(fake.caller, 'busy', { keepRunning: true });
    yield whole.subarray(PIECE_BYTES + 1);
  };
  const { sizeBytes } = await put('busy', '/root/a', source());
  assert.equal(sizeBytes, whole.length);
  assert.equal(await get('busy', '/root/a'), whole.toString());
});

test('a guest without room says so, and keeps what it had', async () => {
  await running('small');
  await put('small', '/root/a', bytes('old'));
  const large = async function* (): AsyncGenerator<Uint8Array> {
    for (let mib = 0; mib < 20; mib++) yield Buffer.alloc(1024 * 1024, 'x');
  };
  const { message } = await refused('no_space', put('small', '/root/a', large()));
  assert.match(message, /guest's disk is full/);
  assert.equal(await get('small', '/root/a'), 'old');
});

test('too many files of a VM at once are refused, until one has arrived; others are not', async () => {
  await running('full');
  await running('free');
  const stop = new AbortController();
  const all = Array.from({ length: MOST_FILES }, (_, i) => {
    const { source, begun } = endless();
    const upload = put('full', `/root/${i}`, source, { signal: stop.signal });
    upload.catch(() => undefined);
    return { upload, begun };
  });
  await Promise.all(all.map(({ begun }) => begun));
  const { details } = await refused('unavailable', put('full', '/root/a', bytes('a')));
  assert.equal(details['retry_after_seconds'], 1);
  await put('free', '/root/a', bytes('a'));
  stop.abort(new Error('enough'));
  await Promise.allSettled(all.map(({ upload }) => upload));
  await put('full', '/root/a', bytes('a'));
});
