import assert from 'node:assert/strict';
import { newId } from '../../base/ids.ts';
import type { Layer, StepPhase } from '../../model/records.ts';
import { furnish, NO_LIMITS, type Place } from '../fixtures.ts';
import type { Store } from '../store.ts';
import { fails, listsInPages, make, ownerOf, type Declare } from './support.ts';

/** Operations with their journal, layers, events. */
export function operationTests(test: Declare): void {
  test('an operation is begun, changed, finished once, and then the VM is free', async ({ store, clock }) => {
    const { newVm, account, hostId } = await furnish(store);
    const { vm, operation: create } = await store.vms.create(newVm(), { limits: NO_LIMITS, args: {} });
    await store.operations.finish(create.id, 'done');
    assert.equal((await store.vms.get(vm.id))?.operation, null);
    const begun = await store.operations.begin({ id: vm.id, owner: ownerOf(vm) }, 'stop', { grace: 30 });
    assert.deepEqual(begun, {
      id: begun.id,
      vmId: vm.id,
      accountId: account.id,
      hostId,
      epoch: 1,
      verb: 'stop',
      args: { grace: 30 },
      outcome: 'running',
      error: null,
      createdAt: clock.now(),
      finishedAt: null,
    });
    await store.operations.setArgs(begun.id, { grace: 0, why: '"now"' });
    assert.deepEqual((await store.operations.get(begun.id))?.args, { grace: 0, why: '"now"' });
    await clock.advance(50);
    const error = { code: 'vmm_failed', message: 'it said: \u0000' };
    await store.operations.finish(begun.id, 'failed', error);
    await store.operations.finish(begun.id, 'done');
    await store.operations.setArgs(begun.id, { grace: 1 });
    assert.deepEqual(await store.operations.get(begun.id), {
      ...begun,
      args: { grace: 0, why: '"now"' },
      outcome: 'failed',
      error,
      finishedAt: clock.now(),
    });
    assert.equal((await store.vms.get(vm.id))?.operation, null);
    assert.equal(await store.operations.get(newId('op')), null);
    await fails(store.operations.begin({ id: newId('vm'), owner: ownerOf(vm) }, 'stop', {}), 'not_found');
  });

  test('the unfinished operations of a host are listed oldest first, those of a VM newest first', async ({
    store,
  }) => {
    const { newVm, hostId } = await furnish(store);
    const elsewhere = await furnish(store);
    await make(store, elsewhere.newVm());
    const begun = [];
    for (let i = 0; i < 4; i++) {
      begun.push((await store.vms.create(newVm(), { limits: NO_LIMITS, args: {} })).operation);
    }
    assert.deepEqual(await store.operations.unfinished(hostId), begun);
    const [first] = begun;
    assert.ok(first);
    await store.operations.finish(first.id, 'stuck');
    assert.deepEqual(await store.operations.unfinished(hostId), begun.slice(1));
    const ids: string[] = [first.id];
    for (let i = 0; i < 4; i++) {
      const next = await store.operations.begin(
        { id: first.vmId, owner: { hostId, epoch: 1 } },
        'reboot',
        {},
      );
      ids.unshift(next.id);
      await store.operations.finish(next.id, 'done');
    }
    await listsInPages((page) => store.operations.list(first.vmId, page), ids);
    const failure = await fails(
      store.operations.list(first.vmId, { limit: 1, after: begun[1]?.id }),
      'invalid_request',
    );
    assert.equal(failure.details['field'], 'after');
  });

  test('a journal counts its rows from 1 in the order they were written', async ({ store, clock }) => {
    const { newVm } = await furnish(store);
    const one = (await store.vms.create(newVm(), { limits: NO_LIMITS, args: {} })).operation;
    const other = (await store.vms.create(newVm(), { limits: NO_LIMITS, args: {} })).operation;
    const phases: StepPhase[] = ['begun', 'done', 'undoing', 'undone'];
    for (const phase of phases) {
      await store.operations.record(one.id, 'disk', phase);
      await store.operations.record(other.id, 'seed', phase);
    }
    const rows = phases.map((phase, i) => ({
      operationId: one.id,
      seq: i + 1,
      step: 'disk',
      phase,
      at: clock.now(),
    }));
    assert.deepEqual(await store.operations.journal(one.id), rows);
    assert.equal((await store.operations.journal(other.id)).length, 4);
    const ended = [
      { step: 'disk', phase: 'done' },
      { step: 'seed', phase: 'done' },
    ] as const;
    assert.equal((await store.operations.record(other.id, 'vmm', 'begun', ended)).seq, 7);
    assert.deepEqual(
      (await store.operations.journal(other.id)).slice(4).map(({ seq, step, phase }) => [seq, step, phase]),
      [
        [5, 'disk', 'done'],
        [6, 'seed', 'done'],
        [7, 'vmm', 'begun'],
      ],
    );
    const many = await Promise.all(
      Array.from({ length: 8 }, (_, i) => store.operations.record(one.id, `step-${i}`, 'begun')),
    );
    assert.deepEqual(
      many.map((row) => row.seq).sort((a, b) => a - b),
      [5, 6, 7, 8, 9, 10, 11, 12],
    );
    assert.deepEqual(
      (await store.operations.journal(one.id)).slice(4),
      many.toSorted((a, b) => a.seq - b.seq),
    );
  });

  test('layers stand on each other, and go when nobody stands on them or uses them', async ({ store }) => {
    const place = await furnish(store);
    const base = await layer(store, place, null);
    const top = await layer(store, place, base.id);
    const vm = await make(store, place.newVm());
    await store.vms.update(vm.id, ownerOf(vm), { layerId: top.id });
    assert.deepEqual(await store.layers.chain(top.id), [top, base]);
    assert.deepEqual(await store.layers.get(base.id), base);
    assert.deepEqual(await store.layers.ofHost(place.hostId), [top, base]);
    assert.deepEqual(await store.layers.chain(newId('layer')), []);
    await store.layers.put(base.id, { path: '/elsewhere', frozen: true });
    assert.deepEqual(await store.layers.get(base.id), { ...base, path: '/elsewhere', frozen: true });
    assert.equal(await store.layers.removeIfUnused(base.id), false);
    assert.equal(await store.layers.removeIfUnused(top.id), false);
    await store.vms.update(vm.id, ownerOf(vm), { layerId: null });
    assert.equal(await store.layers.removeIfUnused(base.id), false);
    assert.equal(await store.layers.removeIfUnused(top.id), true);
    assert.equal(await store.layers.removeIfUnused(base.id), true);
    assert.equal(await store.layers.removeIfUnused(base.id), true);
    assert.deepEqual(await store.layers.ofHost(place.hostId), []);
  });

  test('events are listed in the order they were written, by account, VM and kind', async ({
    store,
    clock,
  }) => {
    const { account } = await furnish(store);
    const { account: other } = await furnish(store);
    const vmId = newId('vm');
    const first = await store.events.add({
      accountId: account.id,
      vmId,
      kind: 'vm.error',
      message: 'Its last lines: \u0000 "é"',
      data: { code: 'lost', list: [1, '\u0000'] },
    });
    assert.deepEqual(first, {
      id: first.id,
      seq: first.seq,
      accountId: account.id,
      vmId,
      kind: 'vm.error',
      message: 'Its last lines: \uFFFD "é"',
      data: { code: 'lost', list: [1, '\u0000'] },
      at: clock.now(),
    });
    assert.deepEqual(await store.events.get(first.id), first);
    assert.equal(await store.events.get(newId('evt')), null);
    const plain = { accountId: account.id, vmId: null, kind: 'account.changed', message: 'x' };
    const second = await store.events.add(plain);
    const third = await store.events.add({ ...plain, vmId, kind: 'vm.stopped' });
    const strange = await store.events.add({ ...plain, accountId: other.id });
    assert.deepEqual(second.data, {});
    assert.ok(first.seq < second.seq && second.seq < third.seq && third.seq < strange.seq);
    const own = { accountId: account.id };
    await listsInPages((page) => store.events.list(own, page), [third.id, second.id, first.id]);
    await listsInPages((page) => store.events.list({ ...own, vmId }, page), [third.id, first.id]);
    await listsInPages((page) => store.events.list({ ...own, kind: 'vm.error' }, page), [first.id]);
    assert.equal((await store.events.list({}, { limit: 1 }))[0]?.id, strange.id);
    await fails(store.events.list(own, { limit: 1, after: strange.id }), 'invalid_request');
    const after = async (...how: Parameters<typeof store.events.after>): Promise<readonly string[]> =>
      (await store.events.after(...how)).map(({ id }) => id);
    assert.deepEqual(await after(first.seq, own, 10), [second.id, third.id]);
    assert.deepEqual(await after(first.seq, {}, 2), [second.id, third.id]);
    assert.deepEqual(await after(first.seq, { ...own, vmId, kind: 'vm.stopped' }, 10), [third.id]);
    assert.deepEqual(await after(strange.seq, {}, 10), []);
    assert.equal(await store.events.newest(), strange.seq);
  });

  test('events written at once have an order, and who saw one has seen all before it', async ({ store }) => {
    const { account } = await furnish(store);
    const filter = { accountId: account.id };
    let last = 0;
    const adding = Promise.all(
      Array.from({ length: 20 }, (_, i) =>
        store.events.add({ accountId: account.id, vmId: null, kind: 'test', message: String(i) }),
      ),
    );
    const seen = new Set<number>();
    for (let look = 0; look < 10; look++) {
      const news = (await store.events.list(filter, { limit: 100 })).filter((event) => !seen.has(event.seq));
      for (const event of news) {
        assert.ok(event.seq > last, 'an event appeared behind one that was seen before it');
        seen.add(event.seq);
      }
      last = Math.max(last, ...seen);
    }
    const added = await adding;
    assert.equal(new Set(added.map((event) => event.seq)).size, 20);
    assert.deepEqual(
      await store.events.list(filter, { limit: 100 }),
      added.toSorted((a, b) => b.seq - a.seq),
    );
  });

  test('events older than a time are removed, and their numbers are not given again', async ({
    store,
    clock,
  }) => {
    const { account } = await furnish(store);
    const add = () => store.events.add({ accountId: account.id, vmId: null, kind: 'test', message: '' });
    await clock.advance(60_000);
    const old = await add();
    await clock.advance(1000);
    const kept = await add();
    assert.ok((await store.events.prune(kept.at)) >= 1);
    assert.equal(await store.events.get(old.id), null);
    assert.deepEqual(await store.events.get(kept.id), kept);
    await clock.advance(1000);
    await store.events.prune(clock.now());
    assert.ok((await add()).seq > kept.seq);
  });
}

async function layer(
  store: Store,
  { account, image, hostId }: Place,
  parentId: Layer['parentId'],
): Promise<Layer> {
  const wanted = {
    id: newId('layer'),
    hostId,
    kind: 'disk',
    path: `/vms/${newId('vm')}/disk.qcow2`,
    format: 'qcow2',
    parentId,
    imageAccountId: account.id,
    imageId: image.id,
    frozen: false,
  } as const;
  const made = await store.layers.create(wanted);
  assert.deepEqual(made, { ...wanted, createdAt: made.createdAt });
  return made;
}
