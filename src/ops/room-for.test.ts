import assert from 'node:assert/strict';
import { test } from 'node:test';
import { FakeClock } from '../base/clock.ts';
import type { VmId } from '../base/ids.ts';
import { Failure } from '../model/failure.ts';
import type { HatchEvent } from '../model/records.ts';
import type { Vm } from '../model/vm.ts';
import { VmmError, type Driver, type Machine } from '../vmm/driver.ts';
import type { CreateVm } from './hatch.ts';
import { Refusals } from './refusals.ts';
import { SshVisits } from './ssh-visits.ts';
import { Visits } from './visits.ts';
import { Waker } from './waker.ts';
import {
  assertNothingLeft,
  makeHostFolder,
  openFakeWorld,
  over,
  type FakeWorld,
  type WorldOptions,
} from '../../test/support/fake-world.ts';

const READY = { until: 'ready', timeoutMs: 10_000 } as const;
const MINUTE_MS = 60_000;
const MIB = 1024 * 1024;
const signal = new AbortController().signal;

interface Pressed extends FakeWorld {
  readonly clock: FakeClock;
  /** Makes a VM of 512 MiB; a minute later it may sleep. */
  readonly newVm: (request?: CreateVm) => Promise<Vm>;
  readonly states: (...vms: readonly Pick<Vm, 'id'>[]) => Promise<readonly string[]>;
  readonly events: (kind: string, id?: VmId) => Promise<readonly HatchEvent[]>;
}

/** A host whose guests may have room for two VMs of 512 MiB and a bit, unless said otherwise. */
async function pressed(options: WorldOptions, body: (one: Pressed) => Promise<void>): Promise<void> {
  const host = await makeHostFolder();
  try {
    const clock = new FakeClock();
    const one = await openFakeWorld(host, { memoryBudgetMib: 1200, ...options, activityClock: clock });
    const { hatch, caller } = one;
    try {
      await body({
        ...one,
        clock,
        newVm: async (request = {}) => {
          const vm = await hatch.vms.create(caller, request, READY);
          await clock.advance(MINUTE_MS);
          return vm;
        },
        states: (...vms) => Promise.all(vms.map(async ({ id }) => (await hatch.vms.get(caller, id)).state)),
        events: (kind, vm) => hatch.events.list(caller, { kind, ...(vm ? { vm } : {}) }, { limit: 100 }),
      });
      await assertNothingLeft(one);
    } finally {
      await one.close();
    }
  } finally {
    await host.remove();
  }
}

/** Has each machine be as `change` says. */
const machines =
  (change: (machine: Machine) => Partial<Machine>) =>
  (driver: Driver): Driver => {
    const changed = (one: Machine): Machine => over(one, change(one));
    return over(driver, {
      launch: async (...how) => changed(await driver.launch(...how)),
      load: async (...how) => changed(await driver.load(...how)),
    });
  };

async function refusedWith(what: Promise<unknown>): Promise<Failure> {
  const [done] = await Promise.allSettled([what]);
  assert.ok(done.status === 'rejected' && done.reason instanceof Failure, 'it was to be refused');
  return done.reason;
}

test('what fits puts nobody to sleep; what does not puts the least recently used to sleep, and says for what', () =>
  pressed({}, async ({ newVm, states, events, world, clock }) => {
    const [one, two] = [await newVm(), await newVm()];
    assert.deepEqual(await states(one, two), ['running', 'running']);
    world.activity.touch(one.id);
    await clock.advance(1000);
    const three = await newVm();
    assert.deepEqual(await states(one, two, three), ['running', 'snapshotted', 'running']);
    const [slept] = await events('vm.slept', two.id);
    assert.match(slept?.message ?? '', /make room .* nobody had used it for 61 s, and 512 MiB were needed/);
    assert.deepEqual(slept?.data, {
      reason: 'memory',
      action: 'snapshot',
      mem_mib: 512,
      idle_seconds: 61,
      timeout_seconds: 2700,
      connections: 'hold',
      awake_seconds: 61,
      wakes_in_last_hour: 1,
      open: [],
      for: { verb: 'create', vms: [three.id] },
      wanted_mib: 512,
      budget_mib: 1200,
    });
  }));

test('a guest that says it is busy is asked, and another is put to sleep instead', () =>
  pressed({}, async ({ newVm, states, world, hatch, caller, clock }) => {
    const [busy, other] = [await newVm(), await newVm()];
    await hatch.vms.exec(caller, busy.id, {
      command: 'echo 600 > /run/hatch/busy',
      cwd: null,
      env: {},
      stdin: null,
      timeoutMs: 10_000,
    });
    await clock.advance(1000);
    world.activity.touch(other.id);
    await clock.advance(1000);
    const third = await newVm();
    assert.deepEqual(await states(busy, other, third), ['running', 'snapshotted', 'running']);
    assert.notEqual(world.activity.of(busy.id).guestBusyUntil, null);
  }));

test('one in use, leased, pinned, without an action, or just woken is never put to sleep for another', async () => {
  const keeps: Readonly<Record<string, (one: Pressed, id: VmId) => unknown>> = {
    in_use: ({ world }, id) => world.activity.begin(id, 'ssh'),
    leased: ({ world }, id) => world.activity.lease(id, 600_000),
    pinned: ({ hatch, caller }, id) => hatch.vms.patch(caller, id, { idle: { pinned: true } }),
    no_action: ({ hatch, caller }, id) => hatch.vms.patch(caller, id, { idle: { action: 'none' } }),
    just_woken: ({ world }, id) => world.activity.awake(id),
  };
  for (const [why, keep] of Object.entries(keeps))
    await pressed({}, async (one) => {
      const { newVm, hatch, caller, states, events } = one;
      const vms = [await newVm({ name: 'first' }), await newVm()];
      for (const { id } of vms) await keep(one, id);
      const { code, details } = await refusedWith(hatch.vms.create(caller, {}));
      assert.equal(code, 'no_capacity', why);
      assert.deepEqual(await states(...vms), ['running', 'running'], why);
      const { vms: named, ...numbers } = details;
      assert.deepEqual(
        new Set(named as readonly unknown[]),
        new Set(vms.map(({ id, name }) => ({ id, name, held_mib: 512, stays_awake: why }))),
      );
      assert.deepEqual(numbers, {
        needed_mib: 512,
        budget_mib: 1200,
        held_mib: 1024,
        others_mib: 0,
        retry_after_seconds: 60,
      });
      assert.equal((await hatch.vms.list(caller, {}, { limit: 10 })).length, 2, 'nothing is left of it');
      assert.deepEqual(await events('vm.slept'), []);
    });
});

test("another account's VMs are put to sleep too, and not named", () =>
  pressed({}, async ({ newVm, hatch, caller, states, world, events }) => {
    const [one, two] = [await newVm({ name: 'secret' }), await newVm()];
    const { id: accountId } = await hatch.accounts.create(caller, { name: 'other', quotas: {} });
    const stranger = { ...caller, accountId };
    const three = await hatch.vms.create(stranger, {}, READY);
    assert.deepEqual(await states(one, two), ['snapshotted', 'running']);
    const [slept] = await events('vm.slept', one.id);
    assert.deepEqual(slept?.data['for'], { verb: 'create', vms: null });
    world.activity.begin(two.id, 'http');
    const refused = await refusedWith(hatch.vms.create(stranger, {}));
    assert.deepEqual(refused.details['vms'], [
      { id: three.id, name: null, held_mib: 512, stays_awake: 'just_woken' },
    ]);
    assert.equal(refused.details['others_mib'], 512);
    assert.doesNotMatch(JSON.stringify([refused.message, refused.details]), new RegExp(two.id));
  }));

test('of two creates at once that each would fit, one alone is made', () =>
  pressed({}, async ({ newVm, hatch, caller, world }) => {
    const first = await newVm();
    world.activity.begin(first.id, 'console');
    const made = await Promise.allSettled([1, 2, 3].map(() => hatch.vms.create(caller, {}, READY)));
    assert.deepEqual(made.map(({ status }) => status).sort(), ['fulfilled', 'rejected', 'rejected']);
    assert.equal((await hatch.vms.list(caller, {}, { limit: 10 })).length, 2);
    assert.equal(world.room.promised().size, 0, 'what was promised is taken back');
  }));

test('refusals are an event a minute, with how many there were', () =>
  pressed({ memoryBudgetMib: 400 }, async ({ hatch, caller, events, clock }) => {
    for (let times = 0; times < 3; times++) {
      const { message, details } = await refusedWith(hatch.vms.create(caller, {}));
      assert.match(message, /512 MiB .* all guests of this host together may have 400 MiB/);
      assert.equal(details['retry_after_seconds'], undefined, 'waiting does not help');
    }
    assert.equal((await events('vm.no_room')).length, 1);
    await clock.advance(MINUTE_MS);
    await refusedWith(hatch.vms.create(caller, {}));
    const [latest, ...before] = await events('vm.no_room');
    assert.equal(before.length, 1);
    assert.equal(latest?.data['times'], 3);
    assert.match(latest?.message ?? '', /^No room to create: .* It is the latest of 3\.$/);
  }));

test('a VM that wakes or is started finds room too, and is refused where there is none, for whoever comes by', () =>
  pressed({}, async ({ newVm, hatch, caller, states, world, clock, events }) => {
    const [one, two] = [await newVm(), await newVm()];
    const three = await newVm();
    assert.deepEqual(await states(one, two, three), ['snapshotted', 'running', 'running']);
    const waker = new Waker(world);
    await waker.wake(one.id, { by: 'http', from: null }, signal);
    assert.deepEqual(await states(one, two, three), ['running', 'snapshotted', 'running']);
    await clock.advance(MINUTE_MS);
    await hatch.vms.stop(caller, three.id, { graceSeconds: 1 });
    await waker.wake(two.id, { by: 'ssh', from: null }, signal);
    await clock.advance(1000);
    await hatch.vms.start(caller, three.id, READY);
    assert.deepEqual(await states(one, two, three), ['snapshotted', 'running', 'running']);
    world.activity.begin(two.id, 'exec');
    world.activity.begin(three.id, 'exec');
    const visits = new SshVisits(world, waker, new Refusals(world));
    const refused = await refusedWith(visits.arrive(one.id, { from: null, shown: true }, signal));
    assert.equal(refused.code, 'no_capacity');
    assert.equal(refused.details['retry_after_seconds'], 60);
    assert.deepEqual(await states(one), ['snapshotted']);
    assert.equal((await events('vm.no_room', one.id)).length, 1);
    const route = await hatch.routes.create(caller, one.id, { targetPort: 80 });
    const byHttp = new Visits(world, new Waker(world), new Refusals(world));
    const visit = { by: 'http', from: '192.0.2.1', unwanted: undefined } as const;
    const { code, message, details } = await refusedWith(byHttp.arrive(route, visit, signal));
    assert.deepEqual([code, details], ['unavailable', { retry_after_seconds: 60 }], 'and no word of others');
    assert.equal(message, 'The machine could not be woken: the host has no room for it.');
    assert.equal((await hatch.vms.get(caller, one.id)).operation, null);
  }));

test('when one cannot be put to sleep the next is, and the first is left alone for a minute', async () => {
  let broken: VmId | undefined;
  let saves = 0;
  const wrapDriver = machines((machine) => ({
    save: (to) => {
      if (machine.vmId !== broken) return machine.save(to);
      saves++;
      return Promise.reject(new VmmError('it was told to fail'));
    },
  }));
  await pressed({ wrapDriver }, async ({ newVm, states, events }) => {
    const [one, two] = [await newVm(), await newVm()];
    broken = one.id;
    const three = await newVm();
    assert.deepEqual(await states(one, two, three), ['running', 'snapshotted', 'running']);
    const [refused] = await events('vm.sleep_refused', one.id);
    assert.equal(refused?.data['code'], 'vmm_failed');
    assert.equal(saves, 1);
    broken = undefined;
  });
});

test('one whom somebody comes to use while it falls asleep stays awake, and the next sleeps instead', async () => {
  let onSave: ((id: VmId) => void) | undefined;
  const wrapDriver = machines((machine) => ({
    pause: async () => {
      onSave?.(machine.vmId);
      await machine.pause();
    },
  }));
  await pressed({ wrapDriver }, async ({ newVm, states, world }) => {
    const [one, two] = [await newVm(), await newVm()];
    onSave = (id) => {
      if (id === one.id) world.activity.touch(id);
    };
    const three = await newVm();
    assert.deepEqual(await states(one, two, three), ['running', 'snapshotted', 'running']);
    onSave = undefined;
  });
});

test('what counts is what a guest holds, once it has answered; its policy says how it sleeps', async () => {
  const held = new Map<VmId, number>();
  const wrapDriver = machines((machine) => ({
    heldBytes: async () => (held.get(machine.vmId) ?? 100) * MIB,
  }));
  await pressed({ wrapDriver }, async ({ newVm, states, hatch, caller, world }) => {
    const vms: Vm[] = [];
    for (let count = 0; count < 7; count++) vms.push(await newVm({ idle: { action: 'stop' } }));
    assert.deepEqual(new Set(await states(...vms)), new Set(['running']), '600 and 512 MiB');
    const last = await newVm({ idle: { action: 'stop' } });
    const [first, ...rest] = vms;
    assert.ok(first);
    assert.deepEqual(await states(first), ['stopped']);
    assert.deepEqual(new Set(await states(...rest, last)), new Set(['running']));
    held.set(last.id, 600);
    world.activity.begin(last.id, 'http');
    const { details } = await refusedWith(hatch.vms.create(caller, { memMib: 601 }));
    assert.equal(details['held_mib'], 1200);
    assert.deepEqual(new Set(await states(...rest, last)), new Set(['running']), 'nobody sleeps in vain');
    await hatch.vms.create(caller, { memMib: 600 }, READY);
    assert.deepEqual(new Set(await states(...rest)), new Set(['stopped']));
  });
});

test('a fork has room for all its copies or makes none, and its source is not put to sleep for them', () =>
  pressed({ memoryBudgetMib: 1600 }, async ({ newVm, hatch, caller, states, events }) => {
    const [other, source] = [await newVm(), await newVm()];
    const many = await refusedWith(hatch.vms.fork(caller, source.id, { count: 3, keepRunning: true }));
    assert.equal(many.code, 'no_capacity');
    assert.equal(many.details['needed_mib'], 1536);
    assert.deepEqual(await states(other, source), ['running', 'running']);
    assert.deepEqual(await events('vm.snapshotted'), [], 'the source was not disturbed');
    const copies = await hatch.vms.fork(caller, source.id, { count: 2, keepRunning: true }, READY);
    assert.deepEqual(await states(other, source, ...copies), [
      'snapshotted',
      'running',
      'running',
      'running',
    ]);
  }));

test('nobody is put to sleep for what a quota refuses', () =>
  pressed({ limits: { vms: 2, vcpus: null, memMib: null } }, async ({ newVm, hatch, caller, states }) => {
    const vms = [await newVm(), await newVm()];
    assert.equal((await refusedWith(hatch.vms.create(caller, {}))).code, 'quota_exceeded');
    assert.deepEqual(await states(...vms), ['running', 'running']);
  }));

test('without a budget nothing is counted', async () => {
  const host = await makeHostFolder();
  try {
    const wrapDriver = machines(() => ({ heldBytes: () => assert.fail('it was counted') }));
    await using one = await openFakeWorld(host, { wrapDriver });
    for (let count = 0; count < 3; count++) await one.hatch.vms.create(one.caller, {}, READY);
  } finally {
    await host.remove();
  }
});
