import assert from 'node:assert/strict';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { test } from 'node:test';
import { Talk } from './tried-talk.ts';
import { TriedVmms, type TriedVmm } from './tried-vmm.ts';

/** What has been said on the console so far. */
function consoleOf(vmms: TriedVmms): string {
  return readFileSync(vmms.path('console'), 'utf8');
}

async function turns(count = 5): Promise<void> {
  for (let i = 0; i < count; i++) await new Promise((resolve) => setImmediate(resolve));
}

/** Resolves when the machine has ended, with the exit code. */
async function end(vmms: TriedVmms): Promise<number | undefined> {
  while (vmms.ends.length === 0) await turns(1);
  return vmms.ends[0];
}

async function state(vm: TriedVmm): Promise<string> {
  return ((await vm.get('/')).json as { state: string }).state;
}

test('the agent is reached through CONNECT and OK, and keeps what it is told', async () => {
  using vmms = new TriedVmms();
  const vm = vmms.open();
  await vm.boot();
  using talk = new Talk(vm.uds);
  assert.equal(await talk.dial(), 2 ** 30);
  assert.deepEqual(await talk.ask('guest-ping'), {});
  assert.equal(await talk.shell('echo kept > /run/word'), '');
  assert.equal(await talk.shell('cat /run/word'), 'kept');
  assert.match(
    await talk.shell('cat /proc/cmdline'),
    /^console=ttyS0 reboot=k panic=-1 pci=off root=\/dev\/vda rw$/,
  );
  await talk.shell('echo seen > /dev/ttyS0');
  assert.match(consoleOf(vmms), /seen\r\n$/);
});

test('a port nobody listens on, and an asking that is none, are answered by the end of the connection', async () => {
  using vmms = new TriedVmms();
  const vm = vmms.open();
  await vm.boot();
  for (const asking of [
    'CONNECT 7\n',
    'CONNECT x\n',
    'HELLO 1024\n',
    'CONNECT\n',
    'CON',
    `CONNECT ${' '.repeat(40)}1024\n`,
  ]) {
    using talk = new Talk(vm.uds);
    talk.say(asking);
    assert.equal(await talk.rest(), '', asking);
  }
  using talk = new Talk(vm.uds);
  assert.equal(await talk.dial(), 2 ** 30 + 1, 'small letters and more are well');
});

test('before the guest is up nobody listens; a guest without an agent never does', async () => {
  using vmms = new TriedVmms();
  for (const knobs of [{ FC_DOUBLE_BOOT_MS: '1000000' }, { FC_DOUBLE_GUEST: 'silent' }]) {
    const vm = vmms.open(knobs);
    await vm.boot();
    await turns();
    using talk = new Talk(vm.uds);
    talk.say('CONNECT 1024\n');
    assert.equal(await talk.rest(), '');
  }
});

test('before the machine is started a connection waits', async () => {
  using vmms = new TriedVmms();
  const vm = vmms.open();
  const uds = vmms.socket();
  await vm.put('/vsock', { guest_cid: 3, uds_path: uds });
  using talk = new Talk(uds);
  talk.say('CONNECT 1024\n');
  await once(talk.socket, 'connect');
  await vm.all(
    ['PUT', '/serial', { serial_out_path: vmms.path('console') }],
    ['PUT', '/boot-source', { kernel_image_path: vmms.path('kernel') }],
  );
  assert.equal(talk.pending, '');
  // Its guest is up at the next turn; asked before, it would refuse.
  await vm.put('/actions', { action_type: 'InstanceStart' });
  assert.match(await talk.line().catch(() => 'refused'), /^OK \d+$|^refused$/);
});

test('the agent serves one connection at a time; the next waits for its end', async () => {
  using vmms = new TriedVmms();
  const vm = vmms.open();
  await vm.boot();
  using first = new Talk(vm.uds);
  using second = new Talk(vm.uds);
  await first.dial();
  await second.dial();
  second.say('{"execute":"guest-ping"}\n');
  assert.deepEqual(await first.ask('guest-ping'), {});
  assert.equal(second.pending, '');
  first.socket.destroy();
  assert.deepEqual(JSON.parse(await second.line()), { return: {} });
});

test('a guest that powers off says so, and Firecracker stays and answers', async () => {
  using vmms = new TriedVmms();
  const vm = vmms.open();
  await vm.boot();
  using talk = new Talk(vm.uds);
  await talk.dial();
  talk.say('{"execute":"guest-shutdown","arguments":{"mode":"powerdown"}}\n');
  await talk.rest();
  assert.match(consoleOf(vmms), /\r\nhatch-shutdown: poweroff\r\n/);
  await turns();
  assert.deepEqual(vmms.ends, []);
  assert.equal(await state(vm), 'Running');
  // Nobody is there to refuse a connection either.
  using late = new Talk(vm.uds);
  late.say('CONNECT 1024\n');
  await once(late.socket, 'connect');
  await turns();
  assert.equal(late.pending, '');
  assert.equal(late.socket.destroyed, false);
});

test('a guest that reboots says so, and Firecracker ends with 0', async () => {
  using vmms = new TriedVmms();
  const vm = vmms.open();
  await vm.boot();
  using talk = new Talk(vm.uds);
  await talk.dial();
  talk.say('{"execute":"guest-shutdown","arguments":{"mode":"reboot"}}\n');
  assert.equal(await end(vmms), 0);
  assert.match(consoleOf(vmms), /\r\nhatch-shutdown: reboot\r\n/);
  assert.equal(existsSync(vm.uds), true, 'its socket is left behind');
});

test('a kernel that panics says so; it ends with 0 where it is to reboot then, and hangs where not', async () => {
  for (const [bootArgs, ends] of [
    ['console=ttyS0 reboot=k panic=-1', [0]],
    ['console=ttyS0 reboot=k', []],
  ] as const) {
    using vmms = new TriedVmms();
    const vm = vmms.open();
    await vm.boot(bootArgs);
    using talk = new Talk(vm.uds);
    await talk.dial();
    talk.say(
      '{"execute":"guest-exec","arguments":{"path":"/bin/sh","arg":["-c","echo c > /proc/sysrq-trigger"]}}\n',
    );
    if (ends.length > 0) await end(vmms);
    else await talk.rest();
    await turns();
    assert.deepEqual(vmms.ends, ends);
    assert.match(consoleOf(vmms), /Kernel panic - not syncing: sysrq triggered crash/);
  }
});

test('the other keys of SysRq reset and halt without a word', async () => {
  using vmms = new TriedVmms();
  const off = vmms.open();
  await off.boot();
  using talk = new Talk(off.uds);
  await talk.dial();
  await talk.shell('echo o > /proc/sysrq-trigger').catch(() => undefined);
  assert.deepEqual(vmms.ends, []);
  const reset = vmms.open();
  await reset.boot();
  using other = new Talk(reset.uds);
  await other.dial();
  void other.shell('echo b > /proc/sysrq-trigger').catch(() => undefined);
  assert.equal(await end(vmms), 0);
  assert.doesNotMatch(consoleOf(vmms), /hatch-shutdown/);
});

test('a kernel can panic instead of booting', async () => {
  using vmms = new TriedVmms();
  const vm = vmms.open({ FC_DOUBLE_GUEST: 'panics' });
  await vm.boot();
  assert.equal(await end(vmms), 0);
  assert.match(consoleOf(vmms), /Kernel panic - not syncing: VFS/);
});

test('without a serial console the kernel says nothing; without the port nobody does', async () => {
  for (const [bootArgs, said] of [
    ['panic=1', /^\r\npretended login: $/],
    ['console=ttyS0 8250.nr_uarts=0', /^$/],
  ] as const) {
    using vmms = new TriedVmms();
    await vmms.open().boot(bootArgs);
    await turns();
    assert.match(consoleOf(vmms), said);
  }
});

test('ctrl-alt-del reboots a guest as systemd does, or powers it off where that is what it is for', async () => {
  using vmms = new TriedVmms();
  const off = vmms.open({ FC_DOUBLE_CTRL_ALT_DEL: 'poweroff' });
  await off.boot();
  await turns();
  assert.equal((await off.put('/actions', { action_type: 'SendCtrlAltDel' })).status, 204);
  await turns();
  assert.match(consoleOf(vmms), /hatch-shutdown: poweroff/);
  assert.deepEqual(vmms.ends, []);
  const on = vmms.open();
  await on.boot();
  await turns();
  assert.equal((await on.put('/actions', { action_type: 'SendCtrlAltDel' })).status, 204);
  assert.equal(await end(vmms), 0);
  assert.match(consoleOf(vmms), /hatch-shutdown: reboot/);
});

test('a deaf guest does nothing, and the fifth press has no room', async () => {
  using vmms = new TriedVmms();
  const vm = vmms.open({ FC_DOUBLE_DEAF: '1' });
  await vm.boot();
  await turns();
  const press = async (): Promise<string | null> =>
    (await vm.put('/actions', { action_type: 'SendCtrlAltDel' })).fault;
  for (let i = 0; i < 4; i++) assert.equal(await press(), null);
  assert.equal(await press(), 'Internal VMM error: I8042 error: i8042 internal buffer full.');
  await turns();
  assert.deepEqual(vmms.ends, []);
  assert.equal(await state(vm), 'Running');
});

test('a press on a paused machine works when it goes on', async () => {
  using vmms = new TriedVmms();
  const vm = vmms.open();
  await vm.boot();
  await turns();
  await vm.patch('/vm', { state: 'Paused' });
  assert.equal((await vm.put('/actions', { action_type: 'SendCtrlAltDel' })).status, 204);
  await turns();
  assert.deepEqual(vmms.ends, []);
  await vm.patch('/vm', { state: 'Resumed' });
  assert.equal(await end(vmms), 0);
});
