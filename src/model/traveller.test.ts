import assert from 'node:assert/strict';
import { test } from 'node:test';
import { readTraveller } from './traveller.ts';

const machine = {
  snapshot: {
    name: 'golden',
    imageId: 'img-default',
    vcpuCount: 2,
    memMib: 512,
    diskMib: null,
    savedOn: {
      driver: 'qemu',
      version: '7.2.22 (Debian 1:7.2+dfsg-7)',
      machineType: 'pc-q35-7.2',
      accel: 'tcg',
      cpu: { model: 'QEMU Virtual CPU', flags: ['sse4_2'] },
      kernelSha256: null,
      imageSha256: 'ab'.repeat(32),
    },
    guest: {
      hostname: 'web',
      mac: '02:fc:00:00:00:01',
      diskFormat: 'qcow2',
      bootArgs: 'console=ttyS0',
      hasInitrd: true,
      instanceId: 'vm-abc123def456',
      agent: true,
    },
  },
  vm: { name: null, labels: { tier: 'web' }, idle: null, sshAuthorizedKeys: [], userData: null },
};

/** The machine with one field another. */
function changed(path: string, value: unknown): unknown {
  const copy: unknown = structuredClone(machine);
  const names = path.split('.');
  const last = names.pop() ?? '';
  const at = names.reduce<unknown>((inner, name) => Reflect.get(Object(inner), name), copy);
  Reflect.set(Object(at), last, value);
  return copy;
}

test('what came along with a snapshot is taken when it is exactly as it must be', () => {
  assert.deepEqual(readTraveller(machine), machine);
});

test('what is no machine, or would be more than a word where it is used, is refused by the name of its field', () => {
  const wrong: readonly (readonly [string, unknown])[] = [
    ['snapshot.memMib', 1],
    ['snapshot.memMib', '512'],
    ['snapshot.vcpuCount', 1000],
    ['snapshot.diskMib', 2 ** 40],
    ['snapshot.imageId', '../x'],
    ['snapshot.name', 'vm-abc123def456'],
    ['snapshot.savedOn.driver', 'xen'],
    ['snapshot.savedOn.machineType', 'pc,accel=kvm'],
    ['snapshot.savedOn.cpu.flags', 'all'],
    ['snapshot.guest.mac', '02:fc:00:00:00:01,id=x'],
    ['snapshot.guest.bootArgs', 'a\nb'],
    ['snapshot.guest.instanceId', 'x\ny: z'],
    ['snapshot.guest.hostname', '-rf'],
    ['vm.labels', { 'a b': '' }],
    ['vm.sshAuthorizedKeys', ['command="x" ssh-ed25519 AAAA']],
    ['vm.idle', { action: 'snapshot' }],
  ];
  for (const [path, value] of wrong) {
    const answer = readTraveller(changed(path, value));
    assert.ok('wrong' in answer, path);
    assert.ok(answer.wrong.startsWith(`"${path.split('.').slice(0, 2).join('.')}`), answer.wrong);
  }
  for (const none of [null, 'x', {}, { ...machine, more: 1 }]) assert.ok('wrong' in readTraveller(none));
});
