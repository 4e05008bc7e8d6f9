import assert from 'node:assert/strict';
import { newId } from '../../base/ids.ts';
import { Failure } from '../../model/failure.ts';
import type { Quotas } from '../../model/records.ts';
import type { Vm } from '../../model/vm.ts';
import { furnish, newImage, newTemplate, NO_LIMITS } from '../fixtures.ts';
import { Busy, Taken, type Store } from '../store.ts';
import { fails, make, ownerOf, type Declare } from './support.ts';

/** Many at once: exactly as many get what they want as may. */
export function raceTests(test: Declare): void {
  test('of many creates for one address exactly one wins, and the others leave nothing', async ({
    store,
  }) => {
    const { account, newVm } = await furnish(store);
    for (const field of ['guest_ip', 'guest_mac', 'ssh_port', 'name'] as const) {
      const before = await store.vms.use(account.id);
      const wanted = newVm({ name: `raced-${field.replace('_', '-')}` });
      assert.ok(wanted.network);
      const { network } = wanted;
      const results = await Promise.allSettled(
        Array.from({ length: 5 }, () => {
          const own = newVm({ name: newId('vm') });
          assert.ok(own.network);
          const shared = {
            guest_ip: { network: { ...own.network, ip: network.ip } },
            guest_mac: { network: { ...own.network, mac: network.mac } },
            ssh_port: { network: { ...own.network, sshPort: network.sshPort } },
            name: { name: wanted.name },
          }[field];
          return make(store, { ...own, ...shared });
        }),
      );
      const losers = results.filter((result) => result.status === 'rejected');
      assert.equal(losers.length, 4);
      for (const { reason } of losers) {
        assert.ok(reason instanceof Taken, String(reason));
        assert.equal(reason.field, field);
      }
      assert.equal((await store.vms.use(account.id)).vms, before.vms + 1);
    }
    assert.equal((await store.vms.list({ accountId: account.id }, { limit: 100 })).length, 4);
    assert.equal((await store.events.list({ accountId: account.id }, { limit: 100 })).length, 4);
  });

  test('a quota is named with what is used, and creates at once never go over it', async ({ store }) => {
    const cases: [Partial<Quotas>, number, string][] = [
      [{ vms: 3 }, 3, 'vms'],
      [{ vcpus: 5 }, 2, 'vcpus'],
      [{ memMib: 4096 }, 4, 'mem_mib'],
    ];
    for (const [limits, most, quota] of cases) {
      const { account, newVm } = await furnish(store);
      const results = await Promise.allSettled(
        Array.from({ length: 8 }, () =>
          store.vms.create(newVm({ vcpuCount: 2, memMib: 1024 }), {
            limits: { ...NO_LIMITS, ...limits },
            args: {},
          }),
        ),
      );
      const refused = results.filter((result) => result.status === 'rejected');
      assert.equal(refused.length, 8 - most);
      for (const { reason } of refused) {
        assert.ok(reason instanceof Failure, String(reason));
        assert.equal(reason.code, 'quota_exceeded');
        assert.equal(reason.details['quota'], quota);
      }
      assert.deepEqual(await store.vms.use(account.id), { vms: most, vcpus: 2 * most, memMib: 1024 * most });
      assert.equal((await store.events.list({ accountId: account.id }, { limit: 100 })).length, most);
    }
  });

  test('VMs that grow at once never go over a quota, and one that is over it may still shrink', async ({
    store,
  }) => {
    const { account, newVm } = await furnish(store);
    const vms: Vm[] = [];
    for (let i = 0; i < 4; i++) vms.push(await make(store, newVm({ vcpuCount: 2, memMib: 1024 })));
    const grow = (patch: { vcpuCount?: number; memMib?: number }, limits: Partial<Quotas>) =>
      Promise.allSettled(
        vms.map((vm) =>
          store.vms.move(vm.id, ownerOf(vm), ['starting'], patch, { limits: { ...NO_LIMITS, ...limits } }),
        ),
      );
    for (const [results, quota] of [
      [await grow({ vcpuCount: 3 }, { vcpus: 10 }), 'vcpus'],
      [await grow({ memMib: 2048 }, { memMib: 4096 + 2 * 1024 }), 'mem_mib'],
    ] as const) {
      const refused = results.filter((result) => result.status === 'rejected');
      assert.equal(refused.length, 2);
      for (const { reason } of refused) {
        assert.ok(reason instanceof Failure, String(reason));
        assert.deepEqual([reason.code, reason.details['quota']], ['quota_exceeded', quota]);
      }
    }
    assert.deepEqual(await store.vms.use(account.id), { vms: 4, vcpus: 10, memMib: 6144 });
    const shrunk = await grow({ vcpuCount: 1 }, { vms: 0, vcpus: 0, memMib: 0 });
    assert.ok(shrunk.every((result) => result.status === 'fulfilled' && result.value?.vcpuCount === 1));
  });

  test("one account's VMs do not count for another's quota, and an unknown account has none", async ({
    store,
  }) => {
    const one = await furnish(store);
    const other = await furnish(store);
    const limits = { ...NO_LIMITS, vms: 1 };
    await store.vms.create(one.newVm(), { limits, args: {} });
    await store.vms.create(other.newVm(), { limits, args: {} });
    await fails(store.vms.create(one.newVm(), { limits, args: {} }), 'quota_exceeded');
    await fails(make(store, one.newVm({ accountId: newId('acct') })), 'not_found');
  });

  test('of many that begin on one VM exactly one does, and the others are told what is under way', async ({
    store,
  }) => {
    const vm = await idle(store);
    const verbs = ['start', 'stop', 'reboot', 'delete', 'start', 'stop'] as const;
    const results = await Promise.allSettled(
      verbs.map((verb) => store.operations.begin({ id: vm.id, owner: ownerOf(vm) }, verb, {})),
    );
    const [winner, ...more] = results.filter((result) => result.status === 'fulfilled');
    assert.ok(winner && more.length === 0);
    for (const result of results) {
      if (result.status === 'fulfilled') continue;
      assert.ok(result.reason instanceof Busy, String(result.reason));
      assert.deepEqual(result.reason.operation, winner.value);
    }
    assert.deepEqual((await store.vms.get(vm.id))?.operation, {
      id: winner.value.id,
      verb: winner.value.verb,
    });
    await store.operations.finish(winner.value.id, 'done');
    await store.operations.begin({ id: vm.id, owner: ownerOf(vm) }, 'delete', {});
  });

  test('beginning and removing at once leave an operation of a VM, or neither', async ({ store }) => {
    for (let round = 0; round < 5; round++) {
      const vm = await idle(store);
      const [begun, removed] = await Promise.allSettled([
        store.operations.begin({ id: vm.id, owner: ownerOf(vm) }, 'stop', {}),
        store.vms.remove(vm.id, ownerOf(vm)),
      ]);
      assert.equal(removed.status, 'fulfilled');
      if (begun.status === 'rejected') {
        assert.ok(begun.reason instanceof Failure && begun.reason.code === 'not_found', String(begun.reason));
      }
      assert.equal(await store.vms.get(vm.id), null);
      assert.deepEqual(await store.operations.unfinished(ownerOf(vm).hostId), []);
    }
  });

  test('what is named while it is removed is either there or was never named', async ({ store }) => {
    for (let round = 0; round < 10; round++) {
      const { account, newVm } = await furnish(store);
      // Names that no other account shares: it would serve instead.
      const image = await store.images.create(newImage(account, newId('layer')));
      const template = await store.templates.create(newTemplate(account, newId('layer')));
      const races = [
        { named: { imageId: image.id }, remove: () => store.images.remove(account.id, image.id) },
        { named: { templateId: template.id }, remove: () => store.templates.remove(account.id, template.id) },
      ];
      for (const { named, remove } of races) {
        const [made, removed] = await Promise.allSettled([make(store, newVm(named)), remove()]);
        assert.ok(removed.status === 'fulfilled');
        assert.equal(removed.value.removed, made.status === 'rejected');
        if (made.status === 'rejected') {
          assert.ok(
            made.reason instanceof Failure && made.reason.code === 'invalid_request',
            String(made.reason),
          );
        }
      }
    }
  });

  test('two VMs that swap their names at once do not hang', async ({ store }) => {
    const { newVm } = await furnish(store);
    const one = await make(store, newVm({ name: 'one' }));
    const two = await make(store, newVm({ name: 'two' }));
    const results = await Promise.allSettled([
      store.vms.update(one.id, ownerOf(one), { name: 'two' }),
      store.vms.update(two.id, ownerOf(two), { name: 'one' }),
    ]);
    for (const result of results) {
      if (result.status === 'rejected') assert.ok(result.reason instanceof Taken, String(result.reason));
    }
    const names = (await store.vms.ofHost(ownerOf(one).hostId)).map((vm) => vm.name);
    assert.equal(new Set(names).size, 2);
  });
}

async function idle(store: Store) {
  const { newVm } = await furnish(store);
  const { vm, operation } = await store.vms.create(newVm(), { limits: NO_LIMITS, args: {} });
  await store.operations.finish(operation.id, 'done');
  return vm;
}
