import assert from 'node:assert/strict';
import { newId } from '../../base/ids.ts';
import { Failure } from '../../model/failure.ts';
import type { NewRoute, RouteName } from '../../model/route.ts';
import type { Vm } from '../../model/vm.ts';
import { furnish } from '../fixtures.ts';
import { Taken, type NewEvent, type Store } from '../store.ts';
import { fails, isTaken, listsInPages, make, ownerOf, type Declare } from './support.ts';

const called = (subdomain: string): RouteName => ({ subdomain, domain: null });
const at = (domain: string): RouteName => ({ subdomain: null, domain });
const event = (vm: Vm, kind = 'route.created'): NewEvent => ({
  accountId: vm.accountId,
  vmId: vm.id,
  kind,
  message: 'A route.',
});

/** A route to make to a VM; its name is its own unless one is given. */
function newRoute(vm: Vm, name: RouteName = called(newId('rt'))): NewRoute {
  return {
    ...name,
    id: newId('rt'),
    accountId: vm.accountId,
    vmId: vm.id,
    targetPort: 8080,
    autoWake: true,
    wake: null,
  };
}

/** Routes: names of all accounts, found by them, and gone with their VM. */
export function routeTests(test: Declare): void {
  test('a route is made with its event, found by its name and in its account, and removed', async ({
    store,
    clock,
  }) => {
    const vm = await aVm(store);
    const wake = {
      methods: ['GET'],
      paths: ['/größe/*', "/it's"],
      cidrs: ['10.0.0.0/8', '::/0'],
      dailyBudget: 3,
    };
    const one = { ...newRoute(vm, called('shop')), wake, autoWake: false, targetPort: 65535 };
    const two = newRoute(vm, at('shop.example.com'));
    const now = { createdAt: clock.now(), updatedAt: clock.now() };
    assert.deepEqual(await store.routes.create(one, event(vm)), { ...one, ...now });
    assert.deepEqual(await store.routes.create(two, event(vm)), { ...two, ...now });
    assert.deepEqual(await store.routes.get(vm.accountId, one.id), { ...one, ...now });
    assert.equal(await store.routes.get(newId('acct'), one.id), null);
    assert.equal((await store.routes.byName(called('shop')))?.id, one.id);
    assert.equal((await store.routes.byName(at('shop.example.com')))?.vmId, vm.id);
    for (const name of [at('shop'), called('shop.example.com'), called('SHOP'), called(''), at('')])
      assert.equal(await store.routes.byName(name), null, JSON.stringify(name));
    assert.equal(await store.routes.remove(newId('acct'), one.id, event(vm, 'route.removed')), false);
    assert.equal(await store.routes.remove(vm.accountId, one.id, event(vm, 'route.removed')), true);
    assert.equal(await store.routes.remove(vm.accountId, one.id, event(vm, 'route.removed')), false);
    assert.equal(await store.routes.byName(called('shop')), null);
    const events = await store.events.list({ vmId: vm.id }, { limit: 10 });
    assert.deepEqual(
      events.map((each) => each.kind),
      ['route.removed', 'route.created', 'route.created', 'vm.creating'],
    );
    await store.routes.remove(vm.accountId, two.id, event(vm, 'route.removed'));
  });

  test('a name is taken in all accounts, each kind of name for itself, and free again afterwards', async ({
    store,
  }) => {
    const [mine, theirs] = [await aVm(store), await aVm(store)];
    const web = newRoute(mine, called('taken'));
    await store.routes.create(web, event(mine));
    await store.routes.create(newRoute(mine, at('taken.example.com')), event(mine));
    for (const vm of [mine, theirs]) {
      await isTaken(store.routes.create(newRoute(vm, called('taken')), event(vm)), 'subdomain');
      await isTaken(store.routes.create(newRoute(vm, at('taken.example.com')), event(vm)), 'domain');
    }
    assert.equal((await store.events.list({ vmId: theirs.id }, { limit: 10 })).length, 1, 'no event of it');
    await store.routes.create(newRoute(theirs, at('taken')), event(theirs));
    await store.routes.remove(mine.accountId, web.id, event(mine));
    await store.routes.create(newRoute(theirs, called('taken')), event(theirs));
    assert.equal((await store.routes.byName(called('taken')))?.vmId, theirs.id);
  });

  test('of many that want one name at once exactly one gets it', async ({ store }) => {
    const vms = [await aVm(store), await aVm(store), await aVm(store)];
    for (const name of [called('raced'), at('raced.example.com')]) {
      const results = await Promise.allSettled(
        [...vms, ...vms].map((vm) => store.routes.create(newRoute(vm, name), event(vm))),
      );
      const losers = results.filter((result) => result.status === 'rejected');
      assert.equal(losers.length, 5);
      for (const { reason } of losers) {
        assert.ok(reason instanceof Taken, String(reason));
        assert.equal(reason.field, name.subdomain === null ? 'domain' : 'subdomain');
      }
    }
  });

  test('what may change does, and what was not said stays', async ({ store, clock }) => {
    const vm = await aVm(store);
    const made = await store.routes.create(newRoute(vm), event(vm));
    assert.deepEqual(await store.routes.update(vm.accountId, made.id, {}), made);
    await clock.advance(1000);
    const wake = { methods: ['GET'] };
    const changed = await store.routes.update(vm.accountId, made.id, { targetPort: 1, wake });
    assert.deepEqual(changed, { ...made, targetPort: 1, wake, updatedAt: clock.now() });
    const bare = await store.routes.update(vm.accountId, made.id, { autoWake: false, wake: null });
    assert.deepEqual(bare, { ...changed, autoWake: false, wake: null });
    assert.equal(await store.routes.update(newId('acct'), made.id, { targetPort: 2 }), null);
    assert.deepEqual(await store.routes.get(vm.accountId, made.id), bare);
  });

  test('routes are listed newest first, of an account, a VM or all', async ({ store }) => {
    const { account, newVm } = await furnish(store);
    const [one, two] = [await make(store, newVm()), await make(store, newVm())];
    const other = await aVm(store);
    const made: { id: string; vmId: string }[] = [];
    for (const vm of [one, two, one, two, one])
      made.unshift(await store.routes.create(newRoute(vm), event(vm)));
    const strange = await store.routes.create(newRoute(other), event(other));
    const accountId = account.id;
    const ids = made.map(({ id }) => id);
    await listsInPages((page) => store.routes.list({ accountId }, page), ids);
    await listsInPages(
      (page) => store.routes.list({ accountId, vmId: one.id }, page),
      made.filter(({ vmId }) => vmId === one.id).map(({ id }) => id),
    );
    assert.deepEqual(
      (await store.routes.list({}, { limit: 6 })).map(({ id }) => id),
      [strange.id, ...ids],
    );
    for (const after of [strange.id, newId('rt'), 'x'])
      await fails(store.routes.list({ accountId }, { limit: 1, after }), 'invalid_request');
  });

  test('a route goes with its VM, and is not made to one that is gone or another account’s', async ({
    store,
  }) => {
    const [vm, other] = [await aVm(store), await aVm(store)];
    const name = called('short-lived');
    const route = await store.routes.create(newRoute(vm, name), event(vm));
    await fails(store.routes.create({ ...newRoute(other), accountId: vm.accountId }, event(vm)), 'not_found');
    assert.equal(await store.vms.remove(vm.id, ownerOf(vm)), true);
    assert.equal(await store.routes.get(vm.accountId, route.id), null);
    await fails(store.routes.create(newRoute(vm, name), event(vm)), 'not_found');
    await store.routes.create(newRoute(other, name), event(other));
  });

  test('a route made while its VM is removed is made before that, or never', async ({ store }) => {
    for (let round = 0; round < 5; round++) {
      const vm = await aVm(store);
      const route = newRoute(vm);
      const [made, removed] = await Promise.allSettled([
        store.routes.create(route, event(vm)),
        store.vms.remove(vm.id, ownerOf(vm)),
      ]);
      assert.equal(removed.status, 'fulfilled');
      if (made.status === 'rejected')
        assert.ok(made.reason instanceof Failure && made.reason.code === 'not_found', String(made.reason));
      assert.equal(await store.routes.byName(called(route.subdomain ?? '')), null);
    }
  });
}

async function aVm(store: Store): Promise<Vm> {
  const { newVm } = await furnish(store);
  return make(store, newVm());
}
