import assert from 'node:assert/strict';
import { mkdir, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { newId } from '../base/ids.ts';
import { makeHostFolder, openFakeWorld } from '../../test/support/fake-world.ts';
import { reconcile } from './reconcile.ts';
import { ownerOf } from './owner.ts';

test('a disk that no row claims is put aside, never removed; a folder without one is', async () => {
  const host = await makeHostFolder();
  const fake = await openFakeWorld(host);
  const { world, hatch, caller } = fake;
  try {
    const vm = await hatch.vms.create(caller, {});
    const empty = newId('vm');
    await mkdir(join(host.vms, empty));
    // As a database that was put back to yesterday's backup has it.
    await world.store.vms.remove(vm.id, ownerOf(vm));
    world.fleet.drop(vm.id);
    const done = await reconcile(world);
    assert.ok(done.includes(`removed the folder of ${empty}, which no VM claims`), done.join('\n'));
    assert.ok(done.some((line) => line.startsWith(`put the folder of ${vm.id} aside as ${vm.id}.lost`)));
    assert.deepEqual(await readdir(host.vms), [`${vm.id}.lost`]);
    assert.ok((await readdir(join(host.vms, `${vm.id}.lost`))).includes('disk.raw'));
    assert.deepEqual(await reconcile(world), []);
  } finally {
    await fake.close();
    await host.remove();
  }
});
