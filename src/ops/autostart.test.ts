import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { makeHostFolder, openFakeWorld } from '../../test/support/fake-world.ts';
import { endFakeGuest } from '../vmm/fake/state.ts';

const ENDED = { kind: 'crashed', exitCode: null, signal: 'SIGKILL', message: 'killed' } as const;

test('VMs that ran when the host rebooted start again where they are to; what was stopped, asleep or only crashed stays so', async () => {
  const host = await makeHostFolder();
  try {
    const ids: Record<string, string> = {};
    {
      await using one = await openFakeWorld(host);
      const { hatch, caller } = one;
      const make = async (name: string, autostart?: boolean): Promise<string> => {
        const { id } = await hatch.vms.create(
          caller,
          { name, autostart },
          { until: 'ready', timeoutMs: 10_000 },
        );
        ids[name] = id;
        return id;
      };
      await make('again', true);
      await make('not', false);
      await make('unsaid');
      await make('later');
      await hatch.vms.patch(caller, 'later', { autostart: true });
      await make('off', true);
      await hatch.vms.stop(caller, 'off', { graceSeconds: 0 });
      await make('asleep', true);
      await hatch.vms.snapshot(caller, 'asleep', { keepRunning: false });
      assert.deepEqual(
        await Promise.all(
          ['again', 'not', 'later'].map(async (name) => (await hatch.vms.get(caller, name)).autostart),
        ),
        [true, false, true],
      );
    }
    const end = (name: string): Promise<void> => endFakeGuest(join(host.vms, ids[name] ?? ''), ENDED);
    for (const name of ['again', 'not', 'unsaid', 'later']) await end(name);
    {
      await using rebooted = await openFakeWorld(host, { bootId: 'the next boot' });
      const { hatch, caller, world } = rebooted;
      const states: Record<string, string> = {};
      for (const name of Object.keys(ids)) states[name] = (await hatch.vms.get(caller, name)).state;
      assert.deepEqual(states, {
        again: 'running',
        not: 'error',
        unsaid: 'error',
        later: 'running',
        off: 'stopped',
        asleep: 'snapshotted',
      });
      const told = await hatch.events.list(caller, { vm: 'again', kind: 'vm.autostarted' }, { limit: 10 });
      assert.equal(told.length, 1);
      const lost = await hatch.vms.get(caller, 'not');
      assert.match(
        lost.stateReason?.message ?? '',
        /^The host was rebooted, and the guest ended with it\. Start it again/,
      );
      await world.flights.landed(lost.id);
    }
    await end('again');
    await using restarted = await openFakeWorld(host);
    assert.equal(
      (await restarted.hatch.vms.get(restarted.caller, 'again')).state,
      'error',
      'that was no reboot',
    );
  } finally {
    await host.remove();
  }
});

test('one that cannot start is told of, and the others start', async () => {
  const host = await makeHostFolder();
  try {
    const ids: string[] = [];
    {
      await using one = await openFakeWorld(host);
      for (const name of ['large', 'small'])
        ids.push(
          (
            await one.hatch.vms.create(one.caller, {
              name,
              autostart: true,
              memMib: name === 'large' ? 1024 : 256,
            })
          ).id,
        );
    }
    for (const id of ids) await endFakeGuest(join(host.vms, id), ENDED);
    await using rebooted = await openFakeWorld(host, { bootId: 'the next boot', memoryBudgetMib: 512 });
    const { hatch, caller } = rebooted;
    const states = await Promise.all(ids.map(async (id) => (await hatch.vms.get(caller, id)).state));
    assert.deepEqual(states, ['error', 'running']);
    assert.equal(
      (await hatch.events.list(caller, { vm: 'large', kind: 'vm.no_room' }, { limit: 10 })).length,
      1,
    );
  } finally {
    await host.remove();
  }
});
