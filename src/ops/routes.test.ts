import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { newId } from '../base/ids.ts';
import type { ErrorCode } from '../contract/errors.ts';
import { Failure } from '../model/failure.ts';
import {
  assertNothingLeft,
  makeHostFolder,
  openFakeWorld,
  type FakeHostFolder,
  type FakeWorld,
} from '../../test/support/fake-world.ts';
import { ownerOf } from './owner.ts';
import type { Caller } from './hatch.ts';

let host: FakeHostFolder;
let fake: FakeWorld;
before(async () => {
  host = await makeHostFolder();
  fake = await openFakeWorld(host);
});
after(async () => {
  await assertNothingLeft(fake);
  await fake.close();
  await host.remove();
});

async function refused(call: Promise<unknown>, code: ErrorCode, field?: string): Promise<Failure> {
  const error = await call.then(
    () => assert.fail(`was not refused with ${code}`),
    (reason: unknown) => reason,
  );
  assert.ok(error instanceof Failure, String(error));
  assert.equal(error.code, code, error.message);
  if (field !== undefined) assert.equal(error.details['field'], field);
  return error;
}

/** A caller in an account of its own. */
async function stranger(): Promise<Caller> {
  const account = await fake.world.store.accounts.create({
    name: newId('acct'),
    quotas: { vms: null, vcpus: null, memMib: null },
  });
  return { ...fake.caller, accountId: account.id };
}

const kinds = async (vm: string): Promise<readonly string[]> =>
  (await fake.hatch.events.list(fake.caller, { vm }, { limit: 100 }))
    .map((event) => event.kind)
    .filter((kind) => kind.startsWith('route.'));

test('a route is made to a VM in any state, told as an event, and gone with the VM', async () => {
  const { hatch, caller, world } = fake;
  const makers = {
    running: async () => undefined,
    stopped: async (vm: string) => void (await hatch.vms.stop(caller, vm, { graceSeconds: 5 })),
    snapshotted: async (vm: string) => void (await hatch.vms.snapshot(caller, vm, { keepRunning: false })),
    error: async (vm: string) => {
      await hatch.vms.stop(caller, vm, { graceSeconds: 5 });
      const row = await world.store.vms.find(caller.accountId, vm);
      assert.ok(row);
      await world.store.vms.update(row.id, ownerOf(row), { state: 'error' });
    },
  };
  for (const [state, reach] of Object.entries(makers)) {
    const vm = await hatch.vms.create(caller, {}, { until: 'ready', timeoutMs: 5000 });
    await reach(vm.id);
    assert.equal((await hatch.vms.get(caller, vm.id)).state, state);
    const route = await hatch.routes.create(caller, vm.id, { subdomain: `is-${state}`, targetPort: 8080 });
    assert.equal(route.url, `http://is-${state}.hatch.localhost:9090`);
    const removed = await hatch.routes.create(caller, vm.id, { domain: `${state}.example`, targetPort: 80 });
    await hatch.routes.delete(caller, removed.id);
    assert.deepEqual(await kinds(vm.id), ['route.removed', 'route.created', 'route.created']);
    await hatch.vms.delete(caller, vm.id);
    await refused(hatch.routes.get(caller, route.id), 'not_found');
    assert.equal(
      await world.store.routes.byName({ subdomain: `is-${state}`, domain: null }),
      null,
      'and its name is free',
    );
  }
  const [event] = await hatch.events.list(caller, { kind: 'route.removed' }, { limit: 1 });
  assert.equal(event?.message, 'error.example does not lead any more to port 80.');
  assert.deepEqual([event.data['host'], event.data['target_port']], ['error.example', 80]);
});

test('a name somebody has is refused without a word of whose it is, and a stranger finds no route', async () => {
  const { hatch, caller } = fake;
  const vm = await hatch.vms.create(caller, { name: 'mine' });
  const route = await hatch.routes.create(caller, 'mine', { subdomain: 'wanted', targetPort: 80 });
  const other = await stranger();
  const theirs = await hatch.vms.create(other, { name: 'theirs' });
  const taken = await refused(
    hatch.routes.create(other, 'theirs', { subdomain: 'wanted', targetPort: 80 }),
    'already_exists',
    'subdomain',
  );
  assert.equal(taken.message, '"subdomain" cannot be "wanted": a route has it already.');
  assert.deepEqual(taken.details, { field: 'subdomain', value: 'wanted' });
  await refused(hatch.routes.create(other, 'mine', { targetPort: 80 }), 'not_found');
  await refused(hatch.routes.get(other, route.id), 'not_found');
  await refused(hatch.routes.patch(other, route.id, { targetPort: 1 }), 'not_found');
  await refused(hatch.routes.delete(other, route.id), 'not_found');
  await refused(hatch.routes.list(other, { vm: vm.id }, { limit: 10 }), 'not_found');
  assert.deepEqual(await hatch.routes.list(other, {}, { limit: 10 }), []);
  assert.deepEqual(await hatch.routes.list(other, { everyone: true }, { limit: 10 }), [route]);
  assert.deepEqual(await hatch.routes.get(caller, route.id), route);
  await hatch.vms.delete(caller, vm.id);
  await hatch.vms.delete(other, theirs.id);
});

test('a VM without a network has no routes, and a wrong name or rule makes none', async () => {
  const { hatch, caller } = fake;
  const vm = await hatch.vms.create(caller, { enableNetwork: false });
  const alone = await refused(
    hatch.routes.create(caller, vm.id, { targetPort: 80 }),
    'invalid_request',
    'id',
  );
  assert.match(alone.message, /has no network/);
  await hatch.vms.delete(caller, vm.id);
  const web = await hatch.vms.create(caller, {});
  for (const [request, named] of [
    [{ subdomain: 'www' }, 'subdomain'],
    [{ domain: 'x.hatch.localhost' }, 'domain'],
    [{ wake: { cidrs: ['x'] } }, 'wake.cidrs.0'],
  ] as const)
    await refused(
      hatch.routes.create(caller, web.id, { targetPort: 80, ...request }),
      'invalid_request',
      named,
    );
  assert.deepEqual(await hatch.routes.list(caller, { vm: web.id }, { limit: 10 }), []);
  const route = await hatch.routes.create(caller, web.id, { targetPort: 80, wake: {} });
  assert.equal(route.wake, null);
  await refused(
    hatch.routes.patch(caller, route.id, { wake: { cidrs: ['x'] } }),
    'invalid_request',
    'wake.cidrs.0',
  );
  const changed = await hatch.routes.patch(caller, route.id, { wake: { cidrs: ['10.9.9.9/8'] } });
  assert.deepEqual(changed.wake, { cidrs: ['10.0.0.0/8'] });
  await hatch.vms.delete(caller, web.id);
});
