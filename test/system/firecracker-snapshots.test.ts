import assert from 'node:assert/strict';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import type { Vm } from '../../src/contract/vm.ts';
import { firecrackerOf, startHatchd, type Hatchd } from '../support/hatchd.ts';

/** Sleep, wake and fork on Firecracker through the public API: hatchd, network and files are real, the Firecracker is its double. */
const TESTING = join(import.meta.dirname, '../../src/vmm/firecracker/testing');

for (const [how, jail] of [
  ['not jailed', { HATCH_JAILER: 'off' }],
  ['jailed', { HATCH_JAILER_BIN: join(TESTING, 'jailer-double') }],
] as const) {
  test(`${how}: a VM sleeps, wakes, is saved while it runs and copied`, async () => {
    const folder = await mkdtemp(join(tmpdir(), 'fcsn-'));
    const hatchd = await startHatchd(folder, {
      HATCH_VMM: 'firecracker',
      HATCH_FIRECRACKER_BIN: join(TESTING, 'firecracker-double'),
      ...jail,
    });
    try {
      await live(hatchd);
    } finally {
      await hatchd.down();
      await rm(folder, { recursive: true, force: true });
    }
  });
}

async function live(hatchd: Hatchd): Promise<void> {
  const { client } = hatchd;
  const vm = await client.vms.create({ name: 'fc' }, { wait: 'ready', timeout: 60 });
  const hears = async (one: Vm, word: string): Promise<void> =>
    assert.equal((await client.vms.exec(one.id, { command: ['echo', word] })).stdout, `${word}\n`);

  const slept = await client.vms.snapshot(vm.id, { name: 'one' });
  assert.match(slept.vmm, /^firecracker 1\./);
  assert.equal((await client.vms.get(vm.id)).state, 'snapshotted');
  assert.equal(await firecrackerOf(vm.id), undefined);
  await hatchd.end('SIGKILL');
  await hatchd.start();
  const awake = await client.vms.start(vm.id, { wait: 'ready', timeout: 60 });
  assert.deepEqual([awake.guest_ip, awake.ssh_port], [vm.guest_ip, vm.ssh_port]);
  await hears(awake, 'awake');

  const kept = await client.vms.snapshot(vm.id, { name: 'two', keep_running: true });
  assert.equal((await client.vms.get(vm.id, { wait: 'ready', timeout: 60 })).state, 'running');
  await hears(awake, 'still');
  assert.equal(kept.parent_id, slept.id);

  const copies = await client.vms.fork(vm.id, { count: 2, name: 'copy' }, { wait: 'ready', timeout: 60 });
  assert.equal(new Set([vm, ...copies].map(({ guest_ip }) => guest_ip)).size, 3);
  for (const copy of copies) {
    await hears(copy, copy.name ?? '');
    assert.equal(
      (await client.vms.exec(copy.id, { command: ['cat', '/etc/hostname'] })).stdout.trim(),
      copy.name,
    );
  }
  await hears(awake, 'source');
  for (const one of [...copies, vm]) await client.vms.delete(one.id);
  assert.deepEqual(await readdir(join(hatchd.data, 'layers')), []);
  assert.deepEqual(await readdir(join(hatchd.data, 'vms')), []);
}
