import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { silent } from '../base/logger.ts';
import { AgentGone, type GuestAgent } from '../guest/agent.ts';
import { VmmError, type Machine, type MachineExit } from '../vmm/driver.ts';
import { makeHostFolder, openFakeWorld, over, type FakeHostFolder } from '../../test/support/fake-world.ts';
import type { FakeWorld } from '../../test/support/fake-world.ts';
import type { Live } from './fleet.ts';
import { askToPowerOff } from './stop-vm.ts';

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

const never = new AbortController().signal;
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

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
  const asked = askToPowerOff({ driver: fake.world.driver, log: silent }, live, 60_000, never);
  await pressed.promise;
  await turn();
  end();
  assert.equal(await asked, true);
});

test('the power button of a guest that has ended is left alone', async () => {
  let presses = 0;
  const closed = Promise.withResolvers<void>();
  const { live, end } = await guest({
    agent: { shutdown: () => closed.promise },
    machine: { powerButton: async () => void presses++ },
  });
  const asked = askToPowerOff({ driver: fake.world.driver, log: silent }, live, 60_000, never);
  end();
  assert.equal(await asked, true);
  closed.reject(new AgentGone('The connection to the guest agent was closed.'));
  await turn();
  assert.equal(presses, 0);
});
