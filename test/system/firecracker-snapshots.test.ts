import assert from 'node:assert/strict';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import type { Vm } from '../../src/contract/vm.ts';
import { JAILER_DOUBLE, wrapDouble } from '../../src/vmm/firecracker/testing/wrapper.ts';
import { smallImage } from '../support/firecracker-double.ts';
import { firecrackerOf, startHatchd, type Hatchd } from '../support/hatchd.ts';

/** Sleep, wake and fork on Firecracker through the public API: hatchd, network and files are real, the Firecracker is its double. */
for (const [how, version, jailed] of [
  ['1.16, not jailed', 'v1.16.1', false],
  ['1.16, jailed', 'v1.16.1', true],
  ['1.15, not jailed', 'v1.15.0', false],
  ['1.15, jailed', 'v1.15.0', true],
] as const) {
  test(`${how}: a VM sleeps, wakes, is saved while it runs and copied`, async () => {
    const folder = await mkdtemp(join(tmpdir(), 'fcsn-'));
    const release = { FC_DOUBLE_VERSION: version };
    const hatchd = await startHatchd(folder, {
      ...(await smallImage(folder)),
      HATCH_VMM: 'firecracker',
      HATCH_FIRECRACKER_BIN: await wrapDouble(join(folder, 'firecracker'), release),
      ...(jailed
        ? { HATCH_JAILER_BIN: await wrapDouble(join(folder, 'jailer'), release, JAILER_DOUBLE) }
        : { HATCH_JAILER: 'off' }),
    });
    try {
      await live(hatchd, version === 'v1.15.0');
    } finally {
      await hatchd.down();
      await rm(folder, { recursive: true, force: true });
    }
  });
}

/** `same`: one that is saved while it runs goes on in the same process, as its agent outlasts a pause. */
async function live(hatchd: Hatchd, same: boolean): Promise<void> {
  const { client } = hatchd;
  const vm = await client.vms.create({ name: 'fc', mem_mib: 128 }, { wait: 'ready', timeout: 60 });
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

  const pid = await firecrackerOf(vm.id);
  const kept = await client.vms.snapshot(vm.id, { name: 'two', keep_running: true });
  assert.equal((await client.vms.get(vm.id, { wait: 'ready', timeout: 60 })).state, 'running');
  assert.equal((await firecrackerOf(vm.id)) === pid, same);
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
