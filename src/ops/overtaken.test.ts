import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { silent, type Logger } from '../base/logger.ts';
import { Failure } from '../model/failure.ts';
import type { FakeFailures } from '../net/fake.ts';
import type { Store } from '../store/store.ts';
import { endFakeGuest } from '../vmm/fake/state.ts';
import {
  assertNothingLeft,
  makeHostFolder,
  openFakeWorld,
  over,
  type FakeHostFolder,
  type FakeWorld,
} from '../../test/support/fake-world.ts';
import { openHatch } from './open-hatch.ts';
import { Waker } from './waker.ts';

let host: FakeHostFolder;
let fake: FakeWorld;
const net: FakeFailures = {};
let hold: (step: string) => { readonly reached: Promise<void>; readonly go: () => void };
before(async () => {
  host = await makeHostFolder();
  const held = new Map<string, { reach: () => void; going: Promise<void> }>();
  hold = (step) => {
    const { promise: reached, resolve: reach } = Promise.withResolvers<void>();
    const { promise: going, resolve: go } = Promise.withResolvers<void>();
    held.set(step, { reach, going });
    return { reached, go };
  };
  const wrapStore = (store: Store): Store =>
    over(store, {
      operations: over(store.operations, {
        record: async (id, step, phase, before = []) => {
          const begun = [...before, { step, phase }].filter((row) => row.phase === 'begun');
          const name = begun.find((row) => held.has(row.step))?.step;
          const at = name === undefined ? undefined : held.get(name);
          if (name !== undefined && at) {
            held.delete(name);
            at.reach();
            await at.going;
          }
          return store.operations.record(id, step, phase, before);
        },
      }),
    });
  fake = await openFakeWorld(host, { wrapStore, net });
});
after(async () => {
  await assertNothingLeft(fake);
  await fake.close();
  await host.remove();
});

/** What a call was refused with. */
async function refusal(call: Promise<unknown>): Promise<Failure> {
  const error: unknown = await call.then(
    () => assert.fail('was not refused'),
    (thrown: unknown) => thrown,
  );
  assert.ok(error instanceof Failure, String(error));
  return error;
}

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

for (const [verb, step] of [
  ['create', 'disk'],
  ['start', 'network'],
  ['stop', 'ask'],
  ['reboot', 'ask'],
] as const) {
  test(`a ${verb} that a deletion cuts short is told so`, async () => {
    const { hatch, caller } = fake;
    if (verb !== 'create') await hatch.vms.create(caller, { name: 'web' });
    if (verb === 'start') await hatch.vms.stop(caller, 'web', { graceSeconds: 0 });
    const { reached, go } = hold(step);
    const asked =
      verb === 'create'
        ? hatch.vms.create(caller, { name: 'web' })
        : verb === 'stop'
          ? hatch.vms.stop(caller, 'web', { graceSeconds: 30 })
          : hatch.vms[verb](caller, 'web');
    const told = refusal(asked);
    await reached;
    const deleted = hatch.vms.delete(caller, 'web');
    await turn();
    go();
    const { code, message, details } = await told;
    assert.equal(code, 'busy');
    assert.match(message, /^The VM is being deleted/);
    assert.equal(details['operation'], 'deleting');
    await deleted;
    assert.equal((await refusal(hatch.vms.get(caller, 'web'))).code, 'not_found');
  });
}

test('who waits for a VM that is being stopped hears of its end as soon as it has stopped', async () => {
  const { hatch, caller } = fake;
  const { id } = await hatch.vms.create(caller, {});
  const { reached, go } = hold('ask');
  const stopped = hatch.vms.stop(caller, id, { graceSeconds: 0 });
  await reached;
  const told = refusal(hatch.vms.get(caller, id, { until: 'ready', timeoutMs: 5000 }));
  await turn();
  go();
  await stopped;
  const { code, message } = await told;
  assert.equal(code, 'wrong_state', message);
  assert.match(message, /is stopped and will not be ready/);
  await hatch.vms.delete(caller, id);
});

test('a stop that failed and waits to be tried again does not keep its VM from being deleted', async () => {
  const { hatch, caller } = fake;
  const { id } = await hatch.vms.create(caller, {});
  net.detach = 'before';
  assert.equal((await refusal(hatch.vms.stop(caller, id, { graceSeconds: 0 }))).code, 'unavailable');
  assert.equal((await hatch.vms.get(caller, id)).operation?.verb, 'stop');
  // What stands in the way of the deletion is told as it is, and it is tried again too.
  assert.equal((await refusal(hatch.vms.delete(caller, id))).code, 'unavailable');
  assert.equal((await hatch.vms.get(caller, id)).operation?.verb, 'delete');
  delete net.detach;
  await hatch.vms.delete(caller, id);
  assert.equal((await refusal(hatch.vms.get(caller, id))).code, 'not_found');
});

test('a deletion that cuts short the following of a guest that ended is nothing to report', async () => {
  const { hatch, caller, world, sleeper } = fake;
  const reported: string[] = [];
  const log: Logger = { ...silent, error: (_fields, message) => void reported.push(message) };
  const registry = {
    register: () => assert.fail('not in this test'),
    forget: async () => undefined,
    sha256: async () => null,
  };
  // From now on it is this one that follows the ends of guests.
  openHatch({ ...world, driver: world.driver, log }, registry, async () => [], new Waker(world), sleeper);
  const { id } = await hatch.vms.create(caller, {});
  const { reached, go } = hold('vmm');
  await endFakeGuest(`${host.vms}/${id}`, { kind: 'poweroff' });
  await reached;
  const deleted = hatch.vms.delete(caller, id);
  await turn();
  go();
  await deleted;
  assert.deepEqual(reported, []);
});
