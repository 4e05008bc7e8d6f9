import assert from 'node:assert/strict';
import { mkdir, mkdtemp, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import type { Vm } from '../../src/contract/vm.ts';
import { bootedVm, comesToRest, shareBooted } from '../support/booted-vm.ts';
import { eventsOf, qemuOf, startHatchd, type Hatchd } from '../support/hatchd.ts';

/** The VM that other suites have copies of: booted, put to sleep, exported. They find it in $HATCH_TEST_BOOTED. */
let folder: string;
let hatchd: Hatchd;
let vm: Vm;

before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'boot-'));
  hatchd = await startHatchd(folder);
});
after(async () => {
  await hatchd.down();
  await rm(folder, { recursive: true, force: true });
});

test('a guest boots, is ready, and comes to rest', async () => {
  vm = await bootedVm(hatchd, { name: 'booted' });
  assert.deepEqual([vm.state, vm.ready], ['running', true]);
  await comesToRest(hatchd.client, vm.id);
  const { stdout } = await hatchd.client.vms.exec(vm.id, {
    command: 'systemctl list-units --failed --plain -q',
  });
  assert.equal(stdout, '');
});

test('it sleeps as a snapshot, which is exported as a file', async () => {
  const shared = process.env['HATCH_TEST_BOOTED'] ?? join(folder, 'shared');
  await mkdir(shared, { recursive: true });
  await hatchd.client.vms.snapshot(vm.id, { name: 'golden' });
  assert.equal(await qemuOf(vm.id), undefined);
  await shareBooted(hatchd, 'golden', shared);
  assert.ok((await stat(join(shared, 'booted.hatch'))).size > 16 * 1024 ** 2);
  assert.equal((await eventsOf(hatchd, vm.id, 'vm.slept')).length, 1);
});
