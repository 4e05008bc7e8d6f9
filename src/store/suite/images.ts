import assert from 'node:assert/strict';
import { newId } from '../../base/ids.ts';
import { DEFAULT_IDLE } from '../../model/create-request.ts';
import { furnish, imageId, newImage, newTemplate, templateId } from '../fixtures.ts';
import { fails, isTaken, listsInPages, make, ownerOf, type Declare } from './support.ts';

/** Images and templates. */
export function imageTests(test: Declare): void {
  test('an image is kept with all it is', async ({ store, clock }) => {
    const { account } = await furnish(store);
    const full = newImage(account, 'full', {
      vmlinuxPath: '/images/vmlinux',
      initrdPath: '/images/initrd',
      rootfsFormat: 'qcow2',
      bootArgs: 'console=ttyS0 quiet',
      agent: true,
      sizeBytes: 5 * 1024 ** 4,
      sha256: 'ab'.repeat(32),
    });
    assert.deepEqual(await store.images.create(full), { ...full, createdAt: clock.now() });
    assert.deepEqual(await store.images.get([account.id], full.id), { ...full, createdAt: clock.now() });
    const agentless = await store.images.create(newImage(account, 'agentless', { agent: false }));
    assert.equal(agentless.agent, false);
    await store.images.setSha256(account.id, agentless.id, 'cd');
    assert.equal((await store.images.get([account.id], agentless.id))?.sha256, 'cd');
    await isTaken(store.images.create(newImage(account, 'full')), 'id');
  });

  test('putting an image again changes it in place', async ({ store }) => {
    const { account, image } = await furnish(store);
    await store.images.create(newImage(account, 'newer'));
    const again = await store.images.put(newImage(account, 'default', { rootfsPath: '/other', agent: true }));
    assert.deepEqual(again, { ...image, rootfsPath: '/other', agent: true });
    const listed = await store.images.list([account.id], { limit: 10 });
    assert.deepEqual(
      listed.map((one) => one.id),
      [imageId('newer'), imageId('default')],
    );
  });

  test('an account sees its own images, then the shared ones that its own do not hide', async ({ store }) => {
    const { account: shared } = await furnish(store);
    const { account: mine } = await furnish(store);
    const { account: stranger } = await furnish(store);
    await store.images.create(newImage(shared, 'common'));
    await store.images.create(newImage(mine, 'own', { defaultUser: 'me' }));
    await store.images.create(newImage(stranger, 'secret'));
    const both = [mine.id, shared.id];
    assert.equal((await store.images.get(both, imageId('common')))?.accountId, shared.id);
    assert.equal((await store.images.get(both, imageId('default')))?.accountId, mine.id);
    assert.equal((await store.images.get([shared.id], imageId('default')))?.accountId, shared.id);
    assert.equal(await store.images.get(both, imageId('secret')), null);
    assert.equal(await store.images.get([shared.id], imageId('own')), null);
    const names = ['own', 'common', 'default'].map(imageId);
    await listsInPages((page) => store.images.list(both, page), names);
    await fails(store.images.list(both, { limit: 5, after: 'img-secret' }), 'invalid_request');
  });

  test('an image that VMs, templates or layers name stays, and tells who', async ({ store }) => {
    const { account, image, hostId, newVm } = await furnish(store);
    const vm = await make(store, newVm());
    const template = await store.templates.create(newTemplate(account, 'on-it', { imageId: image.id }));
    assert.deepEqual(await store.images.remove(account.id, image.id), {
      removed: false,
      vms: [vm.id],
      templates: [template.id],
    });
    await store.vms.remove(vm.id, ownerOf(vm));
    await store.templates.remove(account.id, template.id);
    const layer = await store.layers.create({
      id: newId('layer'),
      hostId,
      kind: 'disk',
      path: '/vms/x/disk.raw',
      format: 'raw',
      parentId: null,
      imageAccountId: account.id,
      imageId: image.id,
      frozen: false,
    });
    assert.deepEqual(await store.images.remove(account.id, image.id), {
      removed: false,
      vms: [],
      templates: [],
    });
    await store.layers.removeIfUnused(layer.id);
    assert.equal((await store.images.remove(account.id, image.id)).removed, true);
    assert.equal(await store.images.get([account.id], image.id), null);
    assert.equal((await store.images.remove(account.id, image.id)).removed, false);
  });

  test("a VM names its own account's image, and only then the shared one of the same name", async ({
    store,
  }) => {
    const shared = await store.accounts.byName('default');
    const { account: common } = shared ? { account: shared } : await furnish(store, 'default');
    await store.images.put(newImage(common, 'both'));
    await store.images.put(newImage(common, 'common'));
    const { account, newVm } = await furnish(store);
    await store.images.create(newImage(account, 'both'));
    const onOwn = await make(store, newVm({ imageId: imageId('both') }));
    const onShared = await make(store, newVm({ imageId: imageId('common') }));
    assert.equal((await store.images.remove(common.id, imageId('both'))).removed, true);
    assert.deepEqual((await store.images.remove(account.id, imageId('both'))).vms, [onOwn.id]);
    assert.deepEqual((await store.images.remove(common.id, imageId('common'))).vms, [onShared.id]);
    const failure = await fails(make(store, newVm({ imageId: imageId('gone') })), 'invalid_request');
    assert.equal(failure.details['field'], 'image_id');
    const without = await fails(make(store, newVm({ templateId: templateId('gone') })), 'invalid_request');
    assert.equal(without.details['field'], 'template_id');
    assert.equal((await store.vms.use(account.id)).vms, 2);
  });

  test('a template is kept with all it says, and changed field by field', async ({ store, clock }) => {
    const { account, image } = await furnish(store);
    const full = newTemplate(account, 'web', {
      description: 'Web — "fast"\n',
      imageId: image.id,
      vcpuCount: 2,
      memMib: 2048,
      diskMib: 8192,
      userData: '#cloud-config\r\nx: "\u0000é"\n',
      bootArgs: 'quiet',
      idle: { ...DEFAULT_IDLE, timeoutSeconds: 60, action: 'stop', connections: 'quiet', cpuBelow: 20 },
      labels: { tier: 'web' },
    });
    const made = await store.templates.create(full);
    assert.deepEqual(made, { ...full, createdAt: clock.now(), updatedAt: clock.now() });
    await isTaken(store.templates.create(newTemplate(account, 'web')), 'id');
    await clock.advance(10);
    const emptied = await store.templates.update(account.id, full.id, {
      imageId: null,
      userData: null,
      idle: null,
      labels: {},
      vcpuCount: null,
    });
    const expected = {
      ...made,
      imageId: null,
      userData: null,
      idle: null,
      labels: {},
      vcpuCount: null,
      updatedAt: clock.now(),
    };
    assert.deepEqual(emptied, expected);
    assert.deepEqual(await store.templates.get([account.id], full.id), expected);
    assert.equal(await store.templates.update(account.id, templateId('none'), { memMib: 1 }), null);
    await fails(store.templates.update(account.id, full.id, { imageId: imageId('gone') }), 'invalid_request');
  });

  test('an account sees its own templates, then the shared ones, in pages of any size', async ({ store }) => {
    const { account: shared } = await furnish(store);
    const { account: mine } = await furnish(store);
    for (const name of ['a', 'b', 'c']) await store.templates.create(newTemplate(shared, name));
    for (const name of ['b', 'd']) await store.templates.create(newTemplate(mine, name));
    const both = [mine.id, shared.id];
    await listsInPages((page) => store.templates.list(both, page), ['d', 'b', 'c', 'a'].map(templateId));
    assert.equal((await store.templates.get(both, templateId('b')))?.accountId, mine.id);
    assert.equal(await store.templates.get([shared.id], templateId('d')), null);
  });

  test('a template a VM names stays, and tells which', async ({ store }) => {
    const { account, newVm } = await furnish(store);
    const template = await store.templates.create(newTemplate(account, 'used'));
    const vm = await make(store, newVm({ templateId: template.id }));
    assert.equal(vm.templateId, template.id);
    assert.deepEqual(await store.templates.remove(account.id, template.id), {
      removed: false,
      vms: [vm.id],
    });
    await store.vms.remove(vm.id, ownerOf(vm));
    assert.deepEqual(await store.templates.remove(account.id, template.id), { removed: true, vms: [] });
    assert.deepEqual(await store.templates.remove(account.id, template.id), { removed: false, vms: [] });
  });
}
