import assert from 'node:assert/strict';
import fc from 'fast-check';
import { newId } from '../../base/ids.ts';
import { furnish } from '../fixtures.ts';
import { fails, listsInPages, make, ownerOf, walk, type Declare } from './support.ts';

/** Lists of VMs: order, filters, pages. */
export function listTests(test: Declare): void {
  test('VMs of one millisecond are listed newest first in pages of any size', async ({ store }) => {
    const { account, hostId, newVm } = await furnish(store);
    const ids: string[] = [];
    for (let i = 0; i < 7; i++) ids.unshift((await make(store, newVm())).id);
    await listsInPages((page) => store.vms.list({ accountId: account.id }, page), ids);
    assert.deepEqual(
      (await store.vms.ofHost(hostId)).map((vm) => vm.id),
      ids,
    );
    assert.deepEqual(await store.vms.ofHost('nowhere'), []);
  });

  test('a walk in pages of any size visits each VM once, also while others are made and removed', async ({
    store,
  }) => {
    const { account, newVm } = await furnish(store);
    const ids: string[] = [];
    for (let i = 0; i < 9; i++) ids.unshift((await make(store, newVm())).id);
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 12 }),
        fc.array(fc.boolean(), { maxLength: 10 }),
        async (limit, makes) => {
          const others = [...makes];
          const visited = await walk(
            (page) => store.vms.list({ accountId: account.id }, page),
            limit,
            async () => {
              if (others.pop() !== true) return;
              const passing = await make(store, newVm());
              await make(store, newVm({ labels: { passing: 'yes' } }));
              await store.vms.remove(passing.id, ownerOf(passing));
            },
          );
          assert.deepEqual(
            visited.filter((id) => ids.includes(id)),
            ids,
          );
          assert.equal(new Set(visited).size, visited.length);
          for (const vm of await store.vms.list({ labels: { passing: 'yes' } }, { limit: 100 })) {
            await store.vms.remove(vm.id, ownerOf(vm));
          }
        },
      ),
      { numRuns: 12 },
    );
  });

  test('VMs are filtered by account, state and labels together', async ({ store }) => {
    const mine = await furnish(store);
    const theirs = await furnish(store);
    const web = await make(store, mine.newVm({ labels: { tier: 'web', zone: 'a' } }));
    const sql = await make(store, mine.newVm({ labels: { tier: 'sql', zone: 'a' } }));
    const other = await make(store, theirs.newVm({ labels: { tier: 'web', zone: 'a' } }));
    await store.vms.update(sql.id, ownerOf(sql), { state: 'stopped' });
    const accountId = mine.account.id;
    const ids = async (filter: Parameters<typeof store.vms.list>[0]): Promise<string[]> =>
      (await store.vms.list(filter, { limit: 100 })).map((vm) => vm.id);
    assert.deepEqual(await ids({ accountId }), [sql.id, web.id]);
    assert.deepEqual(await ids({ accountId, state: 'stopped' }), [sql.id]);
    assert.deepEqual(await ids({ accountId, state: 'running' }), []);
    assert.deepEqual(await ids({ accountId, labels: { zone: 'a' } }), [sql.id, web.id]);
    assert.deepEqual(await ids({ accountId, labels: { zone: 'a', tier: 'web' } }), [web.id]);
    assert.deepEqual(await ids({ accountId, labels: { zone: 'a', tier: 'none' } }), []);
    assert.deepEqual(await ids({ accountId, labels: {} }), [sql.id, web.id]);
    assert.deepEqual(await ids({ labels: { tier: 'web', zone: 'a' } }), [other.id, web.id]);
    assert.deepEqual(await ids({ accountId, state: 'stopped', labels: { tier: 'sql' } }), [sql.id]);
  });

  test('a page goes on after a VM that the filter no longer shows, but not after a strange one', async ({
    store,
  }) => {
    const mine = await furnish(store);
    const theirs = await furnish(store);
    const accountId = mine.account.id;
    const old = await make(store, mine.newVm());
    const last = await make(store, mine.newVm());
    await store.vms.update(last.id, ownerOf(last), { state: 'stopped' });
    const rest = await store.vms.list({ accountId, state: 'starting' }, { limit: 10, after: last.id });
    assert.deepEqual(
      rest.map((vm) => vm.id),
      [old.id],
    );
    const strange = await make(store, theirs.newVm());
    for (const after of [strange.id, newId('vm'), newId('evt'), 'x']) {
      const failure = await fails(store.vms.list({ accountId }, { limit: 10, after }), 'invalid_request');
      assert.equal(failure.details['field'], 'after');
    }
    assert.equal((await store.vms.list({}, { limit: 1, after: strange.id })).length, 1);
  });

  test('a label is matched exactly, whatever is in it', async ({ store }) => {
    const { account, newVm } = await furnish(store);
    const values = [
      '',
      ' ',
      '%',
      '_',
      'a%b',
      'a_b',
      'axb',
      "it's",
      '"quoted"',
      'back\\slash',
      'k=v=w',
      '=',
      'Größe',
      'größe',
      '日本語 🐣',
      'e\u0301',
      '\u00e9',
      "'; drop table vms; --",
      '["a","b"]',
      'null',
      'x'.repeat(255),
    ];
    const ids = new Map<string, string>();
    for (const value of values) {
      ids.set(value, (await make(store, newVm({ labels: { 'a.b/c-d': value, other: 'x' } }))).id);
    }
    for (const value of values) {
      const found = await store.vms.list(
        { accountId: account.id, labels: { 'a.b/c-d': value } },
        { limit: 100 },
      );
      assert.deepEqual(
        found.map((vm) => [vm.id, vm.labels['a.b/c-d']]),
        [[ids.get(value), value]],
        JSON.stringify(value),
      );
    }
    for (const labels of [
      { 'A.b/c-d': '%' },
      { 'a.b/c-d': 'nul\u0000' },
      { 'a_b/c-d': '' },
      { x: 'other' },
    ]) {
      assert.deepEqual(await store.vms.list({ accountId: account.id, labels }, { limit: 10 }), []);
    }
  });

  test('labels that are replaced are found by the new ones only', async ({ store }) => {
    const { account, newVm } = await furnish(store);
    const vm = await make(store, newVm({ labels: { a: '1', b: '2' } }));
    await store.vms.update(vm.id, ownerOf(vm), { labels: { b: '2', c: '3' } });
    const found = async (labels: Record<string, string>): Promise<number> =>
      (await store.vms.list({ accountId: account.id, labels }, { limit: 10 })).length;
    assert.deepEqual([await found({ a: '1' }), await found({ b: '2' }), await found({ c: '3' })], [0, 1, 1]);
    await store.vms.update(vm.id, ownerOf(vm), { name: 'renamed' });
    assert.equal(await found({ b: '2', c: '3' }), 1);
  });
}
