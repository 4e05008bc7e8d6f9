import assert from 'node:assert/strict';
import type { UseSpan } from '../../model/history.ts';
import { newId } from '../../base/ids.ts';
import { furnish } from '../fixtures.ts';
import { make, ownerOf, type Declare } from './support.ts';

const MINUTE = 60_000;

/** When VMs did not run, and when they were used. */
export function historyTests(test: Declare): void {
  test('a VM rests from when its state says so until it does not any more', async ({ store, clock }) => {
    const { newVm } = await furnish(store);
    const vm = await make(store, newVm({ memMib: 1024 }));
    const owner = ownerOf(vm);
    const seen = async (): Promise<unknown> =>
      (await store.history.rests(vm.id)).map(({ how, from, until }) => [
        how,
        from - start,
        until === null ? null : until - start,
      ]);
    const start = clock.now();
    await store.vms.update(vm.id, owner, { state: 'running' });
    assert.deepEqual(await seen(), []);
    await clock.advance(1000);
    await store.vms.move(vm.id, owner, ['running'], { state: 'snapshotted' });
    await store.vms.update(vm.id, owner, { state: 'snapshotted', name: 'again' });
    assert.deepEqual(await seen(), [['snapshot', 1000, null]]);
    await clock.advance(1000);
    await store.vms.move(vm.id, owner, ['stopped'], { state: 'running' });
    assert.deepEqual(await seen(), [['snapshot', 1000, null]], 'a move that is refused changes nothing');
    await store.vms.move(vm.id, owner, ['snapshotted'], { state: 'running' });
    assert.deepEqual(await seen(), [['snapshot', 1000, 2000]]);
    await store.vms.update(vm.id, owner, { state: 'stopping', stoppedBy: 'policy' });
    await clock.advance(1000);
    await store.vms.update(vm.id, owner, { state: 'stopped', stoppedBy: 'policy' });
    await clock.advance(1000);
    await store.vms.update(vm.id, owner, { stoppedBy: 'person' });
    const rests = [
      ['snapshot', 1000, 2000],
      ['stop', 3000, 4000],
      ['off', 4000, null],
    ];
    assert.deepEqual(await seen(), rests);
    assert.deepEqual(
      new Set((await store.history.rests(vm.id)).map(({ memMib }) => memMib)),
      new Set([1024]),
    );
    await store.vms.remove(vm.id, owner);
    assert.deepEqual(await store.history.rests(vm.id), []);
    assert.ok((await store.history.since()) > 0);
  });

  test('uses that are close to each other are one, each way for itself; what is gone keeps none', async ({
    store,
  }) => {
    const { newVm } = await furnish(store);
    const [vm, other] = [await make(store, newVm()), await make(store, newVm())];
    const use = (by: UseSpan['by'], from: number, until: number, vmId = vm.id): UseSpan => ({
      vmId,
      by,
      from: from * MINUTE,
      until: until * MINUTE,
    });
    const add = (...spans: UseSpan[]): Promise<void> => store.history.addUses(spans, MINUTE);
    await add(use('http', 1, 2), use('ssh', 1, 1), use('http', 5, 5, other.id));
    // What is open is told again from its beginning, and goes on.
    await add(use('http', 2.5, 3), use('ssh', 1, 4), use('http', 6.5, 7, other.id));
    await add(use('http', 4, 5), use('http', 9, 9, newId('vm')));
    assert.deepEqual(await store.history.uses(vm.id, 0), [
      use('http', 1, 3),
      use('ssh', 1, 4),
      use('http', 4, 5),
    ]);
    assert.deepEqual(await store.history.uses(vm.id, 4 * MINUTE), [use('ssh', 1, 4), use('http', 4, 5)]);
    assert.equal((await store.history.uses(other.id, 0)).length, 2);
    assert.equal(await store.history.pruneUses(4 * MINUTE), 1);
    assert.deepEqual(
      (await store.history.uses(vm.id, 0)).map(({ by }) => by),
      ['ssh', 'http'],
    );
    await store.vms.remove(vm.id, ownerOf(vm));
    assert.deepEqual(await store.history.uses(vm.id, 0), []);
  });
}
