import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { systemClock } from '../base/clock.ts';
import type { VmId } from '../base/ids.ts';
import { until } from '../base/until.ts';
import { readGuest, writeGuest } from '../vmm/fake/state.ts';
import {
  makeHostFolder,
  openFakeWorld,
  over,
  type FakeHostFolder,
  type FakeWorld,
} from '../../test/support/fake-world.ts';
import { Failure } from '../model/failure.ts';
import type { Vms } from '../store/store.ts';

/** Lets a pretended guest stand still for want of room, or go on. */
async function lack(host: FakeHostFolder, vmId: VmId, noSpace: boolean): Promise<void> {
  const folder = join(host.vms, vmId);
  const guest = (await readGuest(folder)) ?? assert.fail('no guest');
  await writeGuest(folder, { ...guest, noSpace });
}

async function reasonBecomes(
  { hatch, caller }: FakeWorld,
  vmId: VmId,
  code: string | undefined,
): Promise<void> {
  await until({ clock: systemClock, signal: AbortSignal.timeout(10_000) }, async () => {
    const vm = await hatch.vms.get(caller, vmId);
    assert.equal(vm.state, 'running');
    return vm.stateReason?.code === code ? true : undefined;
  });
}

async function told({ world }: FakeWorld, vmId: VmId): Promise<readonly string[]> {
  const events = await world.store.events.list({ vmId }, { limit: 100 });
  return events.map(({ kind }) => kind).filter((kind) => kind.startsWith('vm.disk_'));
}

async function onHost(body: (host: FakeHostFolder) => Promise<void>): Promise<void> {
  const host = await makeHostFolder();
  try {
    await body(host);
  } finally {
    await host.remove();
  }
}

test('a VM whose guest stands still for want of room says so, in events too, until it goes on', () =>
  onHost(async (host) => {
    await using fake = await openFakeWorld(host);
    const { id } = await fake.hatch.vms.create(fake.caller, {});
    for (let times = 1; times <= 2; times++) {
      await lack(host, id, true);
      await reasonBecomes(fake, id, 'no_space');
      await lack(host, id, false);
      await reasonBecomes(fake, id, undefined);
    }
    const pair = ['vm.disk_freed', 'vm.disk_full'];
    assert.deepEqual(await told(fake, id), [...pair, ...pair]);
    await lack(host, id, true);
    await reasonBecomes(fake, id, 'no_space');
    const stopped = await fake.hatch.vms.stop(fake.caller, id, { graceSeconds: 0 });
    assert.deepEqual([stopped.state, stopped.stateReason?.code], ['stopped', 'forced_stop']);
    const started = await fake.hatch.vms.start(fake.caller, id, { until: 'running', timeoutMs: 10_000 });
    assert.deepEqual([started.state, started.stateReason], ['running', null]);
  }));

test('the next daemon goes by what the hypervisor says, not by what the row said', () =>
  onHost(async (host) => {
    const first = await openFakeWorld(host);
    const { id: goesOn } = await first.hatch.vms.create(first.caller, {});
    const { id: lacks } = await first.hatch.vms.create(first.caller, {});
    for (const id of [goesOn, lacks]) {
      await lack(host, id, true);
      await reasonBecomes(first, id, 'no_space');
    }
    await first.close();
    await lack(host, goesOn, false);
    await using second = await openFakeWorld(host);
    await reasonBecomes(second, goesOn, undefined);
    await reasonBecomes(second, lacks, 'no_space');
    assert.deepEqual(await told(second, goesOn), ['vm.disk_freed', 'vm.disk_full']);
  }));

test('where the database has no room either it is told when it has', () =>
  onHost(async (host) => {
    let full = false;
    let refused = 0;
    const move: Vms['move'] = async () => {
      refused++;
      throw new Failure('no_space', 'the disk of the database is full');
    };
    await using fake = await openFakeWorld(host, {
      wrapStore: (store) =>
        over(store, {
          get vms() {
            return full ? over(store.vms, { move }) : store.vms;
          },
        }),
    });
    const { id } = await fake.hatch.vms.create(fake.caller, {});
    full = true;
    await lack(host, id, true);
    await until({ clock: systemClock, signal: AbortSignal.timeout(10_000) }, () => refused > 0 || undefined);
    assert.deepEqual(await told(fake, id), []);
    full = false;
    await reasonBecomes(fake, id, 'no_space');
    assert.deepEqual(await told(fake, id), ['vm.disk_full']);
  }));
