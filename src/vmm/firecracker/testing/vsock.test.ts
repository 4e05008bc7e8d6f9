import assert from 'node:assert/strict';
import { once } from 'node:events';
import { test } from 'node:test';
import { Talk } from './tried-talk.ts';
import { TriedVmms, type TriedVmm } from './tried-vmm.ts';

async function turns(): Promise<void> {
  for (let i = 0; i < 5; i++) await new Promise((resolve) => setImmediate(resolve));
}

async function say(vm: TriedVmm, state: 'Paused' | 'Resumed'): Promise<void> {
  await vm.all(['PATCH', '/vm', { state }]);
}

/** Asks for the agent and gives the connection when the asking is in the socket. */
async function asking(vm: TriedVmm): Promise<Talk> {
  const talk = new Talk(vm.uds);
  await once(talk.socket, 'connect');
  talk.say('CONNECT 1024\n');
  return talk;
}

/** Releases that were not yet, or are no longer, in need of a reset. */
const KEEPS = { FC_DOUBLE_VERSION: 'v1.15.1' };

test('while the machine is paused neither new connections nor old ones get anywhere', async () => {
  using vmms = new TriedVmms();
  const vm = vmms.open(KEEPS);
  await vm.boot();
  using old = new Talk(vm.uds);
  await old.dial();
  await say(vm, 'Paused');
  old.say('{"execute":"guest-ping"}\n');
  using fresh = await asking(vm);
  await turns();
  assert.deepEqual([old.pending, fresh.pending], ['', '']);
  await say(vm, 'Resumed');
  assert.deepEqual(JSON.parse(await old.line()), { return: {} });
  assert.match(await fresh.line(), /^OK /);
});

test('on 1.16 a resume that no snapshot came before loses the way into the guest', async () => {
  using vmms = new TriedVmms();
  const vm = vmms.open();
  await vm.boot();
  using old = new Talk(vm.uds);
  await old.dial();
  await say(vm, 'Paused');
  await say(vm, 'Resumed');
  old.say('{"execute":"guest-ping"}\n');
  using fresh = await asking(vm);
  await turns();
  assert.deepEqual([old.pending, fresh.pending], ['', '']);
  // Not even closed: nobody is there to do it.
  assert.deepEqual([old.socket.destroyed, fresh.socket.destroyed], [false, false]);
});

test('a machine that runs is kicked by a resume like any other, and loses it too', async () => {
  using vmms = new TriedVmms();
  const vm = vmms.open();
  await vm.boot();
  await say(vm, 'Resumed');
  using fresh = await asking(vm);
  await turns();
  assert.equal(fresh.pending, '');
});

test('a resume after a snapshot resets what was open, and lets new connections in', async () => {
  using vmms = new TriedVmms();
  for (const knobs of [{}, KEEPS]) {
    const vm = vmms.open(knobs);
    await vm.boot();
    using old = new Talk(vm.uds);
    await old.dial();
    await say(vm, 'Paused');
    await vm.all([
      'PUT',
      '/snapshot/create',
      { snapshot_path: vmms.path('state'), mem_file_path: vmms.path('memory') },
    ]);
    await say(vm, 'Resumed');
    assert.equal(await old.rest(), '');
    using fresh = new Talk(vm.uds);
    await fresh.dial();
    assert.deepEqual(await fresh.ask('guest-ping'), {});
  }
});

test('a snapshot brings a lost way back', async () => {
  using vmms = new TriedVmms();
  const vm = vmms.open();
  await vm.boot();
  await say(vm, 'Paused');
  await say(vm, 'Resumed');
  using waiting = await asking(vm);
  await turns();
  assert.equal(waiting.pending, '');
  await say(vm, 'Paused');
  await vm.all([
    'PUT',
    '/snapshot/create',
    { snapshot_path: vmms.path('state'), mem_file_path: vmms.path('memory') },
  ]);
  await say(vm, 'Resumed');
  assert.match(await waiting.line(), /^OK /);
});

test('a snapshot that is refused to a running machine resets its connections all the same', async () => {
  using vmms = new TriedVmms();
  const vm = vmms.open();
  await vm.boot();
  using old = new Talk(vm.uds);
  await old.dial();
  await vm.put('/snapshot/create', { snapshot_path: vmms.path('s'), mem_file_path: vmms.path('m') });
  assert.equal(await old.rest(), '');
});

test('whether the way is lost can be said otherwise than by the release', async () => {
  using vmms = new TriedVmms();
  const vm = vmms.open({ FC_DOUBLE_LOSES_VSOCK: '0' });
  await vm.boot();
  await say(vm, 'Paused');
  await say(vm, 'Resumed');
  using talk = new Talk(vm.uds);
  await talk.dial();
});
