import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { newId, type VmId } from '../base/ids.ts';
import type { ErrorCode } from '../contract/errors.ts';
import { Failure } from '../model/failure.ts';
import type { Vm } from '../model/vm.ts';
import { changeFakeHost } from '../net/fake.ts';
import { VmmError, type MachineCounters } from '../vmm/driver.ts';
import { endFakeGuest } from '../vmm/fake/state.ts';
import {
  makeHostFolder,
  openFakeWorld,
  over,
  type FakeHostFolder,
  type FakeWorld,
} from '../../test/support/fake-world.ts';
import type { VmMetrics } from './hatch.ts';
import { metricsOf } from './see-into.ts';

let host: FakeHostFolder;
let fake: FakeWorld;
before(async () => {
  host = await makeHostFolder();
  fake = await openFakeWorld(host);
});
after(async () => {
  await fake.close();
  await host.remove();
});

async function refused(asking: Promise<VmMetrics>, code: ErrorCode): Promise<Failure> {
  const failure: unknown = await asking.then(
    () => assert.fail('it was answered'),
    (error: unknown) => error,
  );
  assert.ok(failure instanceof Failure, String(failure));
  assert.equal(failure.code, code, failure.message);
  return failure;
}

/** Asks about a VM whose hypervisor counts as told. */
function asking(id: string, counters: () => Promise<MachineCounters>): Promise<VmMetrics> {
  const { fleet } = fake.world;
  const get = (vmId: VmId) => {
    const live = fleet.get(vmId);
    return live && { ...live, machine: over(live.machine, { counters }) };
  };
  return metricsOf({ ...fake.world, fleet: over(fleet, { get }) }, fake.caller, id);
}

test('a running VM tells what it has used; what its tap counted is told when there is one', async () => {
  const vm = await fake.hatch.vms.create(fake.caller, { name: 'web', memMib: 256 });
  const traffic = { receivedBytes: 10, receivedPackets: 1, sentBytes: 90, sentPackets: 3 };
  await changeFakeHost(host.net, ({ taps }) => {
    const tap = taps[vm.id];
    assert.ok(tap);
    tap.traffic = traffic;
  });
  const used = await fake.hatch.vms.metrics(fake.caller, 'web');
  assert.deepEqual([used.vmId, used.memMib, used.traffic], [vm.id, 256, traffic]);
  assert.equal(used.machine.rssBytes, 256 * 1024 * 1024);
  assert.ok(used.machine.uptimeSeconds >= 0 && used.machine.uptimeSeconds < 600);
  assert.ok(used.at >= vm.createdAt);

  // A start begins anew.
  await fake.hatch.vms.stop(fake.caller, 'web', { graceSeconds: 1 });
  await fake.hatch.vms.start(fake.caller, 'web');
  assert.equal((await fake.hatch.vms.metrics(fake.caller, 'web')).traffic?.sentBytes, 0);
  await fake.hatch.vms.delete(fake.caller, 'web');

  const alone = await fake.hatch.vms.create(fake.caller, { enableNetwork: false });
  assert.equal((await fake.hatch.vms.metrics(fake.caller, alone.id)).traffic, null);
  await fake.hatch.vms.delete(fake.caller, alone.id);
});

test('a VM that does not run is refused naming its state', async () => {
  const { id } = await fake.hatch.vms.create(fake.caller, {});
  await fake.hatch.vms.stop(fake.caller, id, { graceSeconds: 1 });
  const stopped = await refused(fake.hatch.vms.metrics(fake.caller, id), 'wrong_state');
  assert.match(stopped.message, /is stopped/);
  assert.deepEqual(stopped.details, { state: 'stopped', allowed: ['running'] });
  await fake.hatch.vms.start(fake.caller, id);
  await endFakeGuest(`${host.vms}/${id}`, { kind: 'panic', console: 'Oops' });
  const ended = async (): Promise<true | undefined> =>
    (await fake.hatch.vms.get(fake.caller, id)).state === 'error' ? true : undefined;
  await fake.world.fleet.watch(id, ended, AbortSignal.timeout(10_000));
  const failed = await refused(fake.hatch.vms.metrics(fake.caller, id), 'wrong_state');
  assert.equal(failed.details['state'], 'error');
  await fake.hatch.vms.delete(fake.caller, id);
});

test('a VM that is between two guests is busy with its reboot', async () => {
  const vm = await fake.hatch.vms.create(fake.caller, {});
  const { store } = fake.world;
  const without = over(fake.world.fleet, { get: () => undefined });
  const asked = (operation: Vm['operation']): Promise<VmMetrics> => {
    const get = async (): Promise<Vm> => ({ ...vm, operation });
    const vms = over(store.vms, { find: get });
    return metricsOf({ ...fake.world, fleet: without, store: over(store, { vms }) }, fake.caller, vm.id);
  };
  const rebooting = await refused(asked({ id: newId('op'), verb: 'reboot' }), 'busy');
  assert.deepEqual(rebooting.details, { operation: 'rebooting' });
  // It was stopped after its row was read.
  await refused(asked(null), 'unavailable');
  await fake.hatch.vms.delete(fake.caller, vm.id);
});

test('a hypervisor that is silent, refuses or has ended is told of as that, and so is a tap that is gone', async (t) => {
  const { id } = await fake.hatch.vms.create(fake.caller, {});
  t.mock.timers.enable({ apis: ['setTimeout'] });
  const asked = Promise.withResolvers<void>();
  const silent = asking(id, () => {
    asked.resolve();
    return new Promise(() => undefined);
  });
  await asked.promise;
  t.mock.timers.tick(5000);
  await refused(silent, 'timeout');
  t.mock.timers.reset();
  for (const kind of ['timeout', 'failed'] as const) {
    const broken = asking(id, () => Promise.reject(new VmmError('no answer came', { kind })));
    assert.match((await refused(broken, 'vmm_failed')).message, /no answer came/);
  }
  await changeFakeHost(host.net, ({ taps }) => void Reflect.deleteProperty(taps, id));
  await refused(fake.hatch.vms.metrics(fake.caller, id), 'unavailable');
  await fake.hatch.vms.delete(fake.caller, id);
});
