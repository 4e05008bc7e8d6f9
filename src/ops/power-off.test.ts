import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { FakeClock } from '../base/clock.ts';
import { silent } from '../base/logger.ts';
import { AgentGone, type GuestAgent } from '../guest/agent.ts';
import { VmmError, type Driver, type Machine, type MachineExit } from '../vmm/driver.ts';
import { makeHostFolder, openFakeWorld, over, type FakeHostFolder } from '../../test/support/fake-world.ts';
import type { FakeWorld } from '../../test/support/fake-world.ts';
import type { Live } from './fleet.ts';
import { askToPowerOff, type Ladder, type Rung } from './power-off.ts';

let host: FakeHostFolder;
let fake: FakeWorld;
before(async () => {
  host = await makeHostFolder();
  fake = await openFakeWorld(host);
  await fake.hatch.vms.create(fake.caller, { name: 'web' });
});
after(async () => {
  await fake.close();
  await host.remove();
});

/** A guest whose agent and power button do as told, and that ends when told. */
async function guest(instead: { agent: Partial<GuestAgent>; machine: Partial<Machine> }): Promise<{
  readonly live: Live;
  readonly end: () => void;
}> {
  const vm = await fake.hatch.vms.get(fake.caller, 'web');
  const real = fake.world.fleet.get(vm.id);
  assert.ok(real);
  const { promise: exited, resolve } = Promise.withResolvers<MachineExit>();
  let exit: MachineExit | undefined;
  return {
    live: {
      agent: over(real.agent, instead.agent),
      machine: over(real.machine, { exited, ...instead.machine }),
      commandable: Promise.resolve(),
      ended: new AbortController().signal,
      get exit() {
        return exit;
      },
    },
    end: () => {
      exit = { kind: 'poweroff' };
      resolve(exit);
    },
  };
}

/** A stop with a minute's grace under a clock that stands still until it is moved; `rungs` is what was tried so far. */
function stop(
  live: Live,
  change: { readonly driver?: Driver; readonly signal?: AbortSignal; readonly ladder?: Partial<Ladder> } = {},
): { readonly clock: FakeClock; readonly rungs: Rung[]; readonly asked: Promise<boolean> } {
  const clock = new FakeClock();
  const rungs: Rung[] = [];
  const { driver = fake.world.driver, signal = never } = change;
  const ladder: Ladder = {
    graceMs: 60_000,
    mode: 'powerdown',
    onRung: async (rung) => void rungs.push(rung),
    ...change.ladder,
  };
  return { clock, rungs, asked: askToPowerOff({ driver, clock, log: silent }, live, ladder, signal) };
}

const never = new AbortController().signal;
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
const named = (rungs: readonly Rung[]): readonly unknown[] => rungs.map(({ rung, ms }) => [rung, ms]);
/** A power button that says when it was pressed. */
function button(): { readonly pressed: Promise<void>; readonly powerButton: () => Promise<void> } {
  const { promise, resolve } = Promise.withResolvers<void>();
  return { pressed: promise, powerButton: async () => resolve() };
}

test('a guest that goes down when its agent is asked is asked nothing more', async () => {
  const { live, end } = await guest({
    agent: { shutdown: async () => end() },
    machine: { powerButton: () => assert.fail('pressed') },
  });
  const { rungs, asked } = stop(live);
  assert.equal(await asked, true);
  assert.deepEqual(rungs, [{ rung: 'agent', ms: 0, message: "Asked the guest's agent to power off." }]);
});

test('the power button is pressed at once when the agent does not take the request', async () => {
  const { pressed, powerButton } = button();
  const { live, end } = await guest({
    agent: { shutdown: () => Promise.reject(new AgentGone('The channel ended.')) },
    machine: { powerButton },
  });
  const { rungs, asked } = stop(live);
  await pressed;
  end();
  assert.equal(await asked, true);
  assert.deepEqual(named(rungs), [
    ['agent', 0],
    ['power_button', 0],
  ]);
  assert.equal(rungs[1]?.message, 'The agent did not take the request; pressed its power button.');
});

test('it is pressed after half of the grace for a guest that took the request and is still there', async () => {
  const { pressed, powerButton } = button();
  const { live, end } = await guest({ agent: { shutdown: async () => undefined }, machine: { powerButton } });
  const { clock, rungs, asked } = stop(live);
  while (clock.sleepers === 0) await turn();
  await clock.advance(29_999);
  assert.deepEqual(named(rungs), [['agent', 0]]);
  await clock.advance(1);
  await pressed;
  end();
  assert.equal(await asked, true);
  assert.deepEqual(named(rungs), [
    ['agent', 0],
    ['power_button', 30_000],
  ]);
});

test('nothing is left asleep when the guest goes down in time', async () => {
  const { live, end } = await guest({
    agent: { shutdown: async () => undefined },
    machine: { powerButton: () => assert.fail('pressed') },
  });
  const { clock, asked } = stop(live);
  while (clock.sleepers === 0) await turn();
  end();
  assert.equal(await asked, true);
  assert.equal(clock.sleepers, 0);
});

test('a guest that goes down is waited for, though its agent is gone and its power button broken', async () => {
  const pressed = Promise.withResolvers<void>();
  const { live, end } = await guest({
    agent: { shutdown: () => Promise.reject(new AgentGone('The channel ended.')) },
    machine: {
      powerButton: () => {
        pressed.resolve();
        return Promise.reject(new VmmError('the socket is closed'));
      },
    },
  });
  const { asked } = stop(live);
  await pressed.promise;
  await turn();
  end();
  assert.equal(await asked, true);
});

test('the power button of a guest that has ended is left alone', async () => {
  const closed = Promise.withResolvers<void>();
  const { live, end } = await guest({
    agent: { shutdown: () => closed.promise },
    machine: { powerButton: () => assert.fail('pressed') },
  });
  const { rungs, asked } = stop(live);
  end();
  assert.equal(await asked, true);
  closed.reject(new AgentGone('The connection to the guest agent was closed.'));
  await turn();
  assert.deepEqual(named(rungs), [['agent', 0]]);
});

test('a machine without a power button is only asked', async () => {
  const { live } = await guest({
    agent: { shutdown: () => Promise.reject(new AgentGone('The channel ended.')) },
    machine: { powerButton: () => assert.fail('there is none') },
  });
  const { driver } = fake.world;
  const { rungs, asked } = stop(live, {
    driver: over(driver, { capabilities: { ...driver.capabilities, powerButton: false } }),
    ladder: { graceMs: 20 },
  });
  assert.equal(await asked, false);
  assert.deepEqual(
    rungs.map(({ rung }) => rung),
    ['agent', 'kill'],
  );
});

test('a guest that stays is to be killed when its grace is over, and one that gets none is at once', async () => {
  const { live } = await guest({
    agent: { shutdown: () => new Promise(() => undefined) },
    machine: { powerButton: () => assert.fail('its agent has not yet answered') },
  });
  const late = stop(live, { ladder: { graceMs: 20 } });
  assert.equal(await late.asked, false);
  assert.deepEqual(named(late.rungs), [
    ['agent', 0],
    ['kill', 0],
  ]);
  const unasked = stop(live, { ladder: { graceMs: 0 } });
  assert.equal(await unasked.asked, false);
  assert.deepEqual(named(unasked.rungs), [['kill', 0]]);
});

test('a ladder that cannot be noted is climbed all the same', async () => {
  const { pressed, powerButton } = button();
  const { live, end } = await guest({
    agent: { shutdown: () => Promise.reject(new AgentGone('The channel ended.')) },
    machine: { powerButton },
  });
  const { asked } = stop(live, { ladder: { onRung: () => Promise.reject(new Error('the store is gone')) } });
  await pressed;
  end();
  assert.equal(await asked, true);
});

test('a stop that is called off rejects with why, and presses nothing more', async () => {
  const { live } = await guest({
    agent: { shutdown: async () => undefined },
    machine: { powerButton: () => assert.fail('pressed') },
  });
  const controller = new AbortController();
  const { clock, rungs, asked } = stop(live, { signal: controller.signal });
  while (clock.sleepers === 0) await turn();
  controller.abort(new Error('called off'));
  await assert.rejects(asked, /called off/);
  assert.deepEqual([clock.sleepers, named(rungs)], [0, [['agent', 0]]]);
});

test('the rungs of a stop and of a reboot are events of the VM', async () => {
  const { id } = await fake.hatch.vms.create(fake.caller, { name: 'told' });
  const told = async (kind: string): Promise<readonly unknown[]> =>
    (await fake.hatch.events.list(fake.caller, { vm: id, kind }, { limit: 10 })).map(
      ({ data }) => data['rung'],
    );
  await fake.hatch.vms.reboot(fake.caller, 'told');
  assert.deepEqual(await told('vm.rebooting'), ['agent']);
  assert.deepEqual(await told('vm.stopping'), []);
  await fake.hatch.vms.stop(fake.caller, 'told', { graceSeconds: 30 });
  assert.deepEqual(await told('vm.stopping'), ['agent']);
  await fake.hatch.vms.start(fake.caller, 'told');
  await fake.hatch.vms.stop(fake.caller, 'told', { graceSeconds: 0 });
  assert.deepEqual(await told('vm.stopping'), ['kill', 'agent']);
  await fake.hatch.vms.delete(fake.caller, 'told');
});
