import assert from 'node:assert/strict';
import { test } from 'node:test';
import { AgentGone, type GuestAgent } from '../guest/agent.ts';
import { Failure } from '../model/failure.ts';
import type { Vm } from '../model/vm.ts';
import { makeHostFolder, openFakeWorld, over, type FakeWorld } from '../../test/support/fake-world.ts';
import { ownerOf } from './owner.ts';
import { execIn } from './see-into.ts';
import { Waker } from './waker.ts';

const COMMAND = { command: 'true', cwd: null, env: {}, stdin: null, timeoutMs: 1000 };

/** What a command is refused with whose agent goes silent; `meanwhile` is done to the VM while it runs. */
async function refusal(
  { world, caller }: FakeWorld,
  vm: Vm,
  meanwhile: () => Promise<unknown> = async () => undefined,
): Promise<Failure> {
  const live = world.fleet.get(vm.id) ?? assert.fail('no guest');
  const agent = over<GuestAgent>(live.agent, {
    exec: async () => {
      await meanwhile();
      throw new AgentGone('the channel ended');
    },
  });
  const fleet = over(world.fleet, { get: () => over(live, { agent }) });
  const error: unknown = await execIn({ ...world, fleet }, new Waker(world), caller, vm.id, COMMAND).then(
    () => assert.fail('it was carried out'),
    (reason: unknown) => reason,
  );
  assert.ok(error instanceof Failure, String(error));
  return error;
}

test('a command whose guest goes silent is told what has become of its VM', async () => {
  const host = await makeHostFolder();
  try {
    await using one = await openFakeWorld(host);
    const { hatch, caller, world } = one;
    const vm = await hatch.vms.create(caller, {}, { until: 'ready', timeoutMs: 10_000 });
    assert.equal((await refusal(one, vm)).code, 'no_guest_agent', 'it had answered before');

    await world.store.vms.update(vm.id, ownerOf(vm), { readyAt: null });
    const booting = await refusal(one, vm);
    assert.equal(booting.code, 'unavailable');
    assert.match(booting.message, /still boots, or has no agent/);

    const asleep = await refusal(one, vm, () => hatch.vms.snapshot(caller, vm.id, { keepRunning: false }));
    assert.deepEqual([asleep.code, asleep.details['state']], ['wrong_state', 'snapshotted']);
    await hatch.vms.start(caller, vm.id, { until: 'ready', timeoutMs: 10_000 });
    const again = await refusal(one, vm, () => hatch.vms.reboot(caller, vm.id));
    assert.match(again.message, /^The guest ended while the command ran/);
    const gone = await refusal(one, vm, () => hatch.vms.delete(caller, vm.id));
    assert.deepEqual([gone.code, gone.details['state']], ['wrong_state', 'deleted']);
  } finally {
    await host.remove();
  }
});
