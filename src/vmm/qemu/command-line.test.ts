import assert from 'node:assert/strict';
import { test } from 'node:test';
import { newId } from '../../base/ids.ts';
import type { MachineSpec } from '../driver.ts';
import { commandLine, nameOf, type QemuChoice } from './command-line.ts';

const choice: QemuChoice = {
  bin: '/usr/bin/qemu',
  version: '7.2.22',
  accel: 'tcg',
  cpu: 'max',
  machineType: 'pc-q35-7.2',
  user: null,
};
const spec: MachineSpec = {
  vmId: newId('vm'),
  folder: '/data/vms/x',
  vcpuCount: 3,
  memMib: 768,
  kernel: 'kernel',
  initrd: 'initrd',
  bootArgs: 'console=ttyS0 root=/dev/vda, "quoted"',
  disks: [
    { path: 'disk.qcow2', format: 'qcow2', readOnly: false },
    { path: 'seed.iso', format: 'raw', readOnly: true },
  ],
  network: { tap: 'vm-abcdefghijkl', mac: '02:fc:00:00:00:07' },
  machineType: null,
};

/** What is given to a flag, each time. */
function given(argv: readonly string[], flag: string): string[] {
  return argv.flatMap((word, i) => (word === flag ? [argv[i + 1] ?? ''] : []));
}

test('the machine is the one recorded, of the size asked for, under its name', () => {
  const argv = commandLine(choice, spec, { kind: 'own' });
  assert.equal(argv[0], '/usr/bin/qemu');
  assert.deepEqual(given(argv, '-name'), [nameOf(spec.vmId)]);
  assert.match(given(argv, '-machine').join(), /^pc-q35-7\.2,memory-backend=ram0,/);
  assert.deepEqual(given(argv, '-smp'), ['3']);
  assert.deepEqual(given(argv, '-m'), ['768M']);
  assert.deepEqual(given(argv, '-cpu'), ['max']);
  assert.match(given(argv, '-accel').join(), /^tcg,/);
  assert.deepEqual(given(commandLine({ ...choice, accel: 'kvm' }, spec, { kind: 'own' }), '-accel'), ['kvm']);
});

test('kernel, initrd and boot arguments are handed on as they are', () => {
  const argv = commandLine(choice, spec, { kind: 'own' });
  assert.deepEqual(given(argv, '-kernel'), ['kernel']);
  assert.deepEqual(given(argv, '-initrd'), ['initrd']);
  assert.deepEqual(given(argv, '-append'), [spec.bootArgs]);
  assert(!commandLine(choice, { ...spec, initrd: null }, { kind: 'own' }).includes('-initrd'));
});

test('disks come in their order, writable or not as they are', () => {
  const argv = commandLine(choice, spec, { kind: 'own' });
  const [first, second, ...more] = given(argv, '-drive');
  assert.match(first ?? '', /^if=none,id=disk0,file=disk\.qcow2,format=qcow2,readonly=off,/);
  assert.match(second ?? '', /^if=none,id=disk1,file=seed\.iso,format=raw,readonly=on,/);
  assert.deepEqual(more, []);
  assert.deepEqual(
    given(argv, '-device').filter((device) => device.startsWith('virtio-blk')),
    ['virtio-blk-pci,drive=disk0', 'virtio-blk-pci,drive=disk1'],
  );
});

test('a comma in a path is part of the path', () => {
  const odd = { path: 'a,readonly=on', format: 'raw', readOnly: false } as const;
  const argv = commandLine(
    choice,
    { ...spec, disks: [odd] },
    { kind: 'loaded', file: 'm,share=on', mapping: 'private' },
  );
  assert.match(given(argv, '-drive').join(), /,file=a,,readonly=on,format=raw,readonly=off,/);
  assert.match(given(argv, '-object').join(), /,mem-path=m,,share=on,share=off$/);
});

test('without a network there is no card; with one it is the tap and the MAC asked for', () => {
  const argv = commandLine(choice, spec, { kind: 'own' });
  assert.deepEqual(given(argv, '-netdev'), ['tap,id=net0,ifname=vm-abcdefghijkl,script=no,downscript=no']);
  assert(argv.some((word) => word.startsWith('virtio-net-pci,') && word.includes(',mac=02:fc:00:00:00:07,')));
  const none = commandLine(choice, { ...spec, network: null }, { kind: 'own' });
  assert.deepEqual(given(none, '-netdev'), []);
  assert(!none.some((word) => word.includes('virtio-net')));
});

test('the memory is a file of its own, or the one loaded, shared or private', () => {
  const object = (memory: Parameters<typeof commandLine>[2]): string =>
    given(commandLine(choice, spec, memory), '-object').join();
  const file = 'memory-backend-file,id=ram0,size=768M';
  assert.equal(object({ kind: 'own' }), `${file},mem-path=mem.bin,share=on`);
  assert.equal(object({ kind: 'in-state' }), `${file},mem-path=mem.bin,share=on`);
  assert.equal(
    object({ kind: 'loaded', file: 'loaded.bin', mapping: 'shared' }),
    `${file},mem-path=loaded.bin,share=on`,
  );
  assert.equal(
    object({ kind: 'loaded', file: 'loaded.bin', mapping: 'private' }),
    `${file},mem-path=loaded.bin,share=off`,
  );
});

test('only a machine that is loaded waits for its state', () => {
  assert.deepEqual(given(commandLine(choice, spec, { kind: 'own' }), '-incoming'), []);
  assert.deepEqual(given(commandLine(choice, spec, { kind: 'in-state' }), '-incoming'), ['defer']);
  const loaded = commandLine(choice, spec, { kind: 'loaded', file: 'f', mapping: 'private' });
  assert.deepEqual(given(loaded, '-incoming'), ['defer']);
  assert(loaded.includes('-S'), 'and stands still then, whatever it did when it was saved');
});

test('what differs between starting and loading is the memory alone: the devices must be the same', () => {
  const without = (argv: readonly string[]): readonly string[] =>
    argv.filter(
      (word) => !['-incoming', 'defer', '-S'].includes(word) && !word.startsWith('memory-backend-file'),
    );
  assert.deepEqual(
    without(commandLine(choice, spec, { kind: 'loaded', file: 'f', mapping: 'private' })),
    without(commandLine(choice, spec, { kind: 'own' })),
  );
});

test('each start has a generation id of its own, by which a guest knows that it was loaded', () => {
  assert(given(commandLine(choice, spec, { kind: 'own' }), '-device').includes('vmgenid,guid=auto'));
});

test('no path of the host is in it: QEMU runs in the folder', () => {
  assert(!commandLine(choice, spec, { kind: 'own' }).some((word) => word.includes(spec.folder)));
});

test('it runs confined, and ends instead of rebooting', () => {
  const argv = commandLine(choice, spec, { kind: 'own' });
  assert.match(given(argv, '-sandbox').join(), /^on,.*spawn=deny/);
  for (const flag of ['-no-reboot', '-nodefaults', '-no-user-config']) assert(argv.includes(flag), flag);
});

test('it becomes the user it is given, in the words of its version, and its filter forbids what it does not need for that', () => {
  const filter = 'on,obsolete=deny,spawn=deny,resourcecontrol=deny';
  const stays = commandLine(choice, spec, { kind: 'own' });
  assert.deepEqual(given(stays, '-sandbox'), [`${filter},elevateprivileges=deny`]);
  assert.deepEqual([...given(stays, '-runas'), ...given(stays, '-run-with')], []);
  for (const [version, flag, value] of [
    ['7.2.22', '-runas', '61007:61007'],
    ['9.0.4', '-runas', '61007:61007'],
    ['9.1.0', '-run-with', 'user=61007:61007'],
    ['10.0.2', '-run-with', 'user=61007:61007'],
  ] as const) {
    const argv = commandLine({ ...choice, version, user: 61007 }, spec, { kind: 'own' });
    assert.deepEqual(given(argv, '-sandbox'), [filter]);
    assert.deepEqual([...given(argv, '-runas'), ...given(argv, '-run-with')], [value]);
    assert.ok(argv.includes(flag), version);
  }
});

test('its guest stands still until it was looked at', () => {
  for (const memory of [{ kind: 'own' }, { kind: 'in-state' }] as const)
    assert.ok(commandLine(choice, spec, memory).includes('-S'));
});
