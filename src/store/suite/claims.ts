import assert from 'node:assert/strict';
import { furnish } from '../fixtures.ts';
import { Busy, type Store } from '../store.ts';
import type { Snapshot } from '../../model/snapshot.ts';
import type { Vm } from '../../model/vm.ts';
import { asleepToBe, newSnapshot, seal } from './snapshots.ts';
import { fails, isTaken, make, ownerOf, type Declare } from './support.ts';

/** A sleeping VM goes from one host to another. */
export function claimTests(test: Declare): void {
  test("a VM asleep in the store becomes another host's with its address, MAC and port", async ({
    store,
  }) => {
    const { vm, snapshot } = await asleep(store, 'durable');
    const there = await furnish(store);
    const claimed = await store.vms.claim(vm.id, ownerOf(vm), there.hostId);
    assert.deepEqual(claimed, {
      ...vm,
      hostId: there.hostId,
      epoch: vm.epoch + 1,
      layerId: null,
    });
    assert.deepEqual(await store.vms.get(vm.id), claimed);
    const { network } = vm;
    assert.ok(network && vm.hostId);
    assert.ok((await store.vms.taken(there.hostId)).sshPorts.has(network.sshPort));
    assert.equal((await store.vms.taken(vm.hostId)).ips.has(network.ip), false, 'it is free where it was');
    assert.deepEqual(await store.vms.ofHost(vm.hostId), []);
    const [event] = await store.events.list({ vmId: vm.id }, { limit: 1 });
    assert.deepEqual(
      [event?.kind, event?.data],
      ['vm.moved', { from: vm.hostId, to: there.hostId, snapshot: snapshot.id }],
    );
    // And back again, from the one that has it now.
    assert.equal(await store.vms.claim(vm.id, ownerOf(vm), vm.hostId), null);
    assert.equal((await store.vms.claim(vm.id, ownerOf(claimed), vm.hostId))?.epoch, vm.epoch + 2);
  });

  test('who owned a VM before changes, removes, saves and publishes nothing of it any more', async ({
    store,
  }) => {
    const { vm, snapshot } = await asleep(store, 'durable');
    const old = ownerOf(vm);
    const there = await furnish(store);
    const claimed = await store.vms.claim(vm.id, old, there.hostId);
    assert.ok(claimed);
    assert.equal(await store.vms.update(vm.id, old, { name: 'mine' }), null);
    assert.equal(await store.vms.move(vm.id, old, ['snapshotted'], { state: 'running' }), null);
    assert.equal(await store.vms.remove(vm.id, old), false);
    await fails(store.operations.begin({ id: vm.id, owner: old }, 'restore', {}), 'not_found');
    await fails(seal(store, vm, newSnapshot(vm, snapshot.diskLayerId ?? assert.fail())), 'wrong_state');
    await store.snapshots.update(snapshot.id, { state: 'local' });
    assert.equal(await store.ledger.beginUpload(snapshot.id, old, 60_000), null);
    assert.deepEqual(await store.vms.get(vm.id), claimed);
  });

  test('a VM is not claimed unless its snapshot is durable, or its files are where it goes', async ({
    store,
  }) => {
    const there = await furnish(store);
    const newHost = await furnish(store);
    for (const state of ['local', 'uploading', 'damaged'] as const) {
      const { vm } = await asleep(store, state);
      assert.equal(await store.vms.claim(vm.id, ownerOf(vm), there.hostId), null, state);
      assert.deepEqual(await store.vms.get(vm.id), vm);
    }
    const { vm, snapshot } = await asleep(store, 'damaged');
    const owner = ownerOf(vm);
    await store.snapshots.update(snapshot.id, { hostId: there.hostId });
    assert.equal(await store.vms.claim(vm.id, owner, newHost.hostId), null, 'a third has nothing of it');
    const away = await store.vms.claim(vm.id, owner, there.hostId);
    assert.equal(away?.hostId, there.hostId, 'it may go to where its files are');
  });

  test('a VM that something is under way on, or that does not sleep, is not claimed', async ({ store }) => {
    const there = await furnish(store);
    const { vm } = await asleep(store, 'durable');
    const owner = ownerOf(vm);
    const operation = await store.operations.begin({ id: vm.id, owner }, 'restore', {});
    assert.equal(await store.vms.claim(vm.id, owner, there.hostId), null, 'an operation is under way');
    await store.operations.finish(operation.id, 'failed');
    for (const state of ['running', 'stopped', 'error', 'starting', 'stopping'] as const) {
      await store.vms.update(vm.id, owner, { state });
      assert.equal(await store.vms.claim(vm.id, owner, there.hostId), null, state);
    }
    await store.vms.update(vm.id, owner, { state: 'snapshotted', snapshotId: null });
    assert.equal(await store.vms.claim(vm.id, owner, there.hostId), null, 'it sleeps as nothing');
    assert.equal((await store.vms.get(vm.id))?.epoch, vm.epoch);
    assert.deepEqual(await store.vms.ofHost(there.hostId), []);
  });

  test('an address, a MAC or a port that is taken there is named, and nothing is changed', async ({
    store,
  }) => {
    for (const field of ['guest_ip', 'guest_mac', 'ssh_port'] as const) {
      const { vm } = await asleep(store, 'durable');
      const there = await furnish(store);
      const { network } = vm;
      const other = { ip: '10.9.9.9', mac: '02:fc:09:09:09:09', sshPort: 9999 };
      assert.ok(network);
      const taken = {
        guest_ip: { ...other, ip: network.ip },
        guest_mac: { ...other, mac: network.mac },
        ssh_port: { ...other, sshPort: network.sshPort },
      };
      await make(store, there.newVm({ network: taken[field] }));
      await isTaken(store.vms.claim(vm.id, ownerOf(vm), there.hostId), field);
      assert.deepEqual(await store.vms.get(vm.id), vm);
      assert.equal((await store.events.list({ vmId: vm.id, kind: 'vm.moved' }, { limit: 1 })).length, 0);
    }
  });

  test('of many hosts that claim a VM, and its own that begins to wake it, one has it', async ({ store }) => {
    for (let round = 0; round < 8; round++) {
      const { vm } = await asleep(store, 'durable');
      const owner = ownerOf(vm);
      const hosts = await Promise.all(Array.from({ length: 3 }, () => furnish(store)));
      const begin = store.operations.begin({ id: vm.id, owner }, 'restore', {}).then(
        () => true,
        (error: unknown) => (error instanceof Busy ? assert.fail('nobody else began') : false),
      );
      const claims = hosts.map(({ hostId }) => store.vms.claim(vm.id, owner, hostId));
      const [begun, ...claimed] = await Promise.all([begin, ...claims]);
      const won = claimed.filter((one) => one !== null);
      assert.equal(won.length + (begun ? 1 : 0), 1);
      const now = await store.vms.get(vm.id);
      assert.equal(now?.operation?.verb, begun ? 'restore' : undefined);
      assert.equal(now?.epoch, begun ? vm.epoch : vm.epoch + 1);
    }
  });
}

/** A VM that sleeps as a snapshot in a state. */
async function asleep(store: Store, state: Snapshot['state']): Promise<{ vm: Vm; snapshot: Snapshot }> {
  const { vm: running, disk } = await asleepToBe(store);
  const [begun] = await store.operations.unfinished(ownerOf(running).hostId);
  if (begun) await store.operations.finish(begun.id, 'done');
  const made = await seal(store, running, newSnapshot(running, disk.id));
  const snapshot = await store.snapshots.update(made.id, {
    state,
    manifest: { name: `a/${made.id}`, sha256: 'ab'.repeat(32) },
  });
  const vm = await store.vms.get(running.id);
  assert.ok(vm && snapshot);
  return { vm, snapshot };
}
