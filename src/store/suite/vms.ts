import assert from 'node:assert/strict';
import { newId } from '../../base/ids.ts';
import { DEFAULT_IDLE } from '../../model/create-request.ts';
import type { Vm, VmPatch } from '../../model/vm.ts';
import { furnish, newTemplate, NO_LIMITS } from '../fixtures.ts';
import { fails, isTaken, make, ownerOf, type Declare } from './support.ts';

/** One VM: making it, finding it, changing it as its owner, removing it. */
export function vmTests(test: Declare): void {
  test('a VM is made starting, with its operation and its event', async ({ store, clock }) => {
    const { account, hostId, newVm } = await furnish(store);
    const template = await store.templates.create(newTemplate(account, 'web'));
    const wanted = newVm({
      name: 'web-1',
      templateId: template.id,
      vcpuCount: 2,
      memMib: 1024,
      diskMib: 4096,
      bootArgs: 'quiet',
      sshAuthorizedKeys: ['ssh-ed25519 AAAA me@example.com'],
      idle: {
        ...DEFAULT_IDLE,
        timeoutSeconds: 60,
        keepAwake: [{ days: ['sun'], from: '22:00', to: '06:00', timeZone: 'UTC' }],
      },
      autostart: true,
      labels: { tier: 'web' },
      userData: '#!/bin/sh\necho "hällo\u0000"\r\n',
    });
    const { userData, ...visible } = wanted;
    const { vm, operation } = await store.vms.create(wanted, { limits: NO_LIMITS, args: { a: [1, null] } });
    assert.deepEqual(vm, {
      ...visible,
      epoch: 1,
      parentSnapshotId: null,
      state: 'starting',
      stateReason: null,
      stoppedBy: null,
      readyAt: null,
      lastActiveAt: null,
      leasedUntil: null,
      vmm: null,
      accel: null,
      process: null,
      layerId: null,
      instanceId: wanted.id,
      snapshotId: null,
      memoryLayerId: null,
      operation: { id: operation.id, verb: 'create' },
      createdAt: clock.now(),
      updatedAt: clock.now(),
    });
    assert.deepEqual(operation, {
      id: operation.id,
      vmId: vm.id,
      accountId: account.id,
      hostId,
      epoch: 1,
      verb: 'create',
      args: { a: [1, null] },
      outcome: 'running',
      error: null,
      createdAt: clock.now(),
      finishedAt: null,
    });
    assert.deepEqual(await store.vms.get(vm.id), vm);
    assert.equal(await store.vms.userData(vm.id), userData);
    const events = await store.events.list({ vmId: vm.id }, { limit: 10 });
    assert.deepEqual(
      events.map((event) => [event.kind, event.accountId, event.data['operation']]),
      [['vm.creating', account.id, operation.id]],
    );
  });

  test('a VM without a network has no addresses and takes none', async ({ store }) => {
    const { hostId, newVm } = await furnish(store);
    const one = await make(store, newVm({ network: null }));
    const other = await make(store, newVm({ network: null }));
    assert.equal(one.network, null);
    assert.equal(other.name, null);
    assert.equal(await store.vms.userData(one.id), null);
    const taken = await store.vms.taken(hostId);
    assert.deepEqual([taken.ips.size, taken.macs.size, taken.sshPorts.size], [0, 0, 0]);
  });

  test('a name, address, port or id that is taken is named, and nothing is made', async ({ store }) => {
    const { account, newVm } = await furnish(store);
    const first = newVm({ name: 'first' });
    await make(store, first);
    const fresh = newVm();
    assert.ok(first.network && fresh.network);
    const { network } = fresh;
    const taken = {
      id: { id: first.id },
      name: { name: 'first' },
      guest_ip: { network: { ...network, ip: first.network.ip } },
      guest_mac: { network: { ...network, mac: first.network.mac } },
      ssh_port: { network: { ...network, sshPort: first.network.sshPort } },
    } as const;
    for (const field of ['id', 'name', 'guest_ip', 'guest_mac', 'ssh_port'] as const) {
      await isTaken(make(store, { ...fresh, labels: { left: field }, ...taken[field] }), field);
    }
    assert.deepEqual(await store.vms.use(account.id), { vms: 1, vcpus: 1, memMib: 512 });
    assert.equal((await store.events.list({ accountId: account.id }, { limit: 10 })).length, 1);
    assert.equal(await store.vms.userData(fresh.id), null);
    await make(store, fresh);
  });

  test('what is taken on one host or in one account is free on another', async ({ store }) => {
    const here = await furnish(store);
    const there = await furnish(store);
    const vm = here.newVm({ name: 'same' });
    await make(store, vm);
    await make(store, there.newVm({ name: 'same', network: vm.network }));
    await make(store, here.newVm({ name: 'Same' }));
    assert.ok(vm.network);
    const taken = await store.vms.taken(here.hostId);
    assert.ok(taken.ips.has(vm.network.ip) && taken.macs.has(vm.network.mac));
    assert.deepEqual([taken.ips.size, taken.macs.size, taken.sshPorts.size], [2, 2, 2]);
  });

  test('a VM is found in its own account by id and by name as it is written', async ({ store }) => {
    const mine = await furnish(store);
    const theirs = await furnish(store);
    const vm = await make(store, mine.newVm({ name: 'web' }));
    const other = await make(store, theirs.newVm({ name: 'web' }));
    assert.equal((await store.vms.find(mine.account.id, 'web'))?.id, vm.id);
    assert.equal((await store.vms.find(theirs.account.id, 'web'))?.id, other.id);
    assert.equal((await store.vms.find(mine.account.id, vm.id))?.id, vm.id);
    for (const not of [other.id, 'Web', 'we', 'w%', 'web ', '', newId('vm')]) {
      assert.equal(await store.vms.find(mine.account.id, not), null, not);
    }
    assert.equal(await store.vms.get(newId('vm')), null);
  });

  test('every field that may change does, and the others stay', async ({ store, clock }) => {
    const { account, image, hostId, newVm } = await furnish(store);
    const vm = await make(store, newVm({ name: 'old', labels: { a: '1' } }));
    const layer = await store.layers.create({
      id: newId('layer'),
      hostId,
      kind: 'disk',
      path: '/x',
      format: 'raw',
      parentId: null,
      imageAccountId: account.id,
      imageId: image.id,
      frozen: false,
    });
    await clock.advance(5);
    const patch: Required<VmPatch> = {
      name: 'new',
      state: 'error',
      stateReason: { code: 'vmm_died', message: 'exit code 1:\n"\u0000"', at: clock.now() },
      stoppedBy: 'guest',
      vcpuCount: 4,
      memMib: 4096,
      diskMib: 9000,
      idle: { ...DEFAULT_IDLE, action: 'none', connections: 'ignore', pinned: true },
      autostart: true,
      labels: { b: '2' },
      readyAt: clock.now(),
      lastActiveAt: clock.now(),
      vmm: 'qemu',
      accel: 'tcg',
      process: { pid: 4_000_000, startTime: '123456789', bootId: 'boot' },
      layerId: layer.id,
      snapshotId: newId('snap'),
      memoryLayerId: layer.id,
    };
    const changed = await store.vms.update(vm.id, ownerOf(vm), patch);
    const expected: Vm = { ...vm, ...patch, updatedAt: clock.now() };
    assert.deepEqual(changed, expected);
    for (const [field, value] of Object.entries({
      name: null,
      stateReason: null,
      process: null,
      idle: null,
    })) {
      const emptied = await store.vms.update(vm.id, ownerOf(vm), { [field]: value });
      assert.deepEqual(emptied, { ...expected, [field]: null });
      await store.vms.update(vm.id, ownerOf(vm), patch);
    }
    assert.equal(await store.vms.update(newId('vm'), ownerOf(vm), { name: 'x' }), null);
  });

  test('a name is taken by renaming as by making, and renaming to itself is nothing', async ({ store }) => {
    const { newVm } = await furnish(store);
    const one = await make(store, newVm({ name: 'one' }));
    const two = await make(store, newVm({ name: 'two' }));
    await isTaken(store.vms.update(two.id, ownerOf(two), { name: 'one', labels: { left: 'here' } }), 'name');
    assert.deepEqual(await store.vms.get(two.id), two);
    assert.equal((await store.vms.update(one.id, ownerOf(one), { name: 'one' }))?.name, 'one');
    await store.vms.update(one.id, ownerOf(one), { name: null });
    assert.equal((await store.vms.update(two.id, ownerOf(two), { name: 'one' }))?.name, 'one');
  });

  test('only the owner of the time may write a VM', async ({ store }) => {
    const { hostId, newVm } = await furnish(store);
    const vm = await make(store, newVm());
    const strangers = [
      { hostId: 'another', epoch: 1 },
      { hostId, epoch: 0 },
      { hostId, epoch: 2 },
    ];
    for (const owner of strangers) {
      assert.equal(await store.vms.update(vm.id, owner, { name: 'x', labels: { x: 'y' } }), null);
      assert.equal(await store.vms.move(vm.id, owner, ['starting'], { state: 'running' }), null);
      await store.vms.noteUse(vm.id, owner, { lastActiveAt: 4711 });
      assert.equal(await store.vms.remove(vm.id, owner), false);
      await fails(store.operations.begin({ id: vm.id, owner }, 'stop', {}), 'not_found');
    }
    assert.deepEqual(await store.vms.get(vm.id), vm);
  });

  test('the last use of a VM is noted, and is no change of it', async ({ store, clock }) => {
    const { newVm } = await furnish(store);
    const vm = await make(store, newVm());
    await clock.advance(1000);
    await store.vms.noteUse(vm.id, ownerOf(vm), { lastActiveAt: 4711 });
    await store.vms.noteUse(vm.id, ownerOf(vm), { leasedUntil: 4712 });
    assert.deepEqual(await store.vms.get(vm.id), { ...vm, lastActiveAt: 4711, leasedUntil: 4712 });
  });

  test('a move happens only from the states it names, and for one of two at once', async ({ store }) => {
    const { newVm } = await furnish(store);
    const vm = await make(store, newVm());
    const owner = ownerOf(vm);
    assert.equal(await store.vms.move(vm.id, owner, ['stopped', 'error'], { state: 'running' }), null);
    assert.equal(await store.vms.move(vm.id, owner, [], { state: 'running' }), null);
    assert.equal((await store.vms.get(vm.id))?.state, 'starting');
    const racers = Array.from({ length: 6 }, (_, i) =>
      store.vms.move(vm.id, owner, ['starting', 'stopped'], { state: 'running', vmm: `racer-${i}` }),
    );
    const won = (await Promise.all(racers)).filter((moved) => moved !== null);
    assert.equal(won.length, 1);
    assert.deepEqual(await store.vms.get(vm.id), won[0]);
  });

  test('removing a VM takes its operations and journal along and frees what it had', async ({ store }) => {
    const { account, hostId, newVm } = await furnish(store);
    const wanted = newVm({ name: 'gone', labels: { a: 'b' } });
    const { vm, operation } = await store.vms.create(wanted, { limits: NO_LIMITS, args: {} });
    await store.operations.record(operation.id, 'disk', 'begun');
    assert.equal(await store.vms.remove(vm.id, ownerOf(vm)), true);
    assert.equal(await store.vms.remove(vm.id, ownerOf(vm)), false);
    assert.equal(await store.vms.get(vm.id), null);
    assert.equal(await store.operations.get(operation.id), null);
    assert.deepEqual(await store.operations.journal(operation.id), []);
    assert.deepEqual(await store.operations.unfinished(hostId), []);
    // The last step of a deletion removes the row its own journal hangs on.
    assert.equal((await store.operations.record(operation.id, 'row', 'done')).seq, 0);
    await store.operations.finish(operation.id, 'done');
    assert.deepEqual(await store.vms.list({ labels: { a: 'b' } }, { limit: 10 }), []);
    assert.equal((await store.events.list({ vmId: vm.id }, { limit: 10 })).length, 1);
    assert.deepEqual(await store.vms.use(account.id), { vms: 0, vcpus: 0, memMib: 0 });
    await make(store, { ...wanted, id: newId('vm') });
  });
}
