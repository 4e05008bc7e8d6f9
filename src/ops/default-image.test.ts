import assert from 'node:assert/strict';
import { readlink } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { Failure } from '../model/failure.ts';
import { makeHostFolder, openFakeWorld, type FakeWorld } from '../../test/support/fake-world.ts';
import { openHatch } from './open-hatch.ts';
import { Waker } from './waker.ts';

async function onFakeHost(body: (fake: FakeWorld) => Promise<void>): Promise<void> {
  const host = await makeHostFolder();
  const fake = await openFakeWorld(host);
  try {
    await body(fake);
    await fake.close();
  } finally {
    await host.remove();
  }
}

test('a default image built after the server started is found when a VM asks for it', () =>
  onFakeHost(async ({ world, caller, sleeper }) => {
    const [image] = await world.store.images.list([world.settings.sharedAccountId], { limit: 10 });
    assert.ok(image);
    await world.store.images.remove(image.accountId, image.id);
    let built = false;
    const registry = {
      register: async () => assert.fail('nothing is registered here'),
      forget: async () => undefined,
      sha256: async () => null,
    };
    const findDefaultImage = async (): Promise<void> => {
      if (built) await world.store.images.put(image);
    };
    const { vms } = openHatch(
      { ...world, findDefaultImage },
      registry,
      async () => [],
      new Waker(world),
      sleeper,
    );
    await assert.rejects(vms.create(caller, {}), (error: unknown) => {
      assert.ok(error instanceof Failure);
      assert.equal(error.code, 'invalid_request');
      assert.match(error.message, /HATCH_DEFAULT_KERNEL_PATH and HATCH_DEFAULT_ROOTFS_PATH/);
      return true;
    });
    built = true;
    const vm = await vms.create(caller, {});
    assert.equal(vm.imageId, 'img-default');
    await vms.delete(caller, vm.id);
  }));

test('a VM keeps the kernel it was made with when its image becomes a newer one', () =>
  onFakeHost(async ({ world, hatch, caller }) => {
    const vm = await hatch.vms.create(caller, {});
    const image = await world.store.images.get([world.settings.sharedAccountId], vm.imageId);
    assert.ok(image);
    // The link must lead somewhere to be worth keeping.
    await world.store.images.put({ ...image, kernelPath: join(import.meta.dirname, 'world.ts') });
    const other = await hatch.vms.create(caller, {});
    const kernelOf = (id: string): Promise<string> => readlink(join(world.settings.vmsFolder, id, 'kernel'));
    const first = await kernelOf(other.id);
    await world.store.images.put({ ...image, kernelPath: join(import.meta.dirname, 'steps.ts') });
    await hatch.vms.stop(caller, other.id, { graceSeconds: 1 });
    await hatch.vms.start(caller, other.id);
    assert.equal(await kernelOf(other.id), first);
    for (const { id } of [vm, other]) await hatch.vms.delete(caller, id);
  }));
