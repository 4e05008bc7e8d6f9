import assert from 'node:assert/strict';
import { test } from 'node:test';
import { FakeClock } from '../base/clock.ts';
import type { VmId } from '../base/ids.ts';
import { DEFAULT_IDLE } from '../model/create-request.ts';
import type { HatchEvent } from '../model/records.ts';
import type { Vm } from '../model/vm.ts';
import type { Driver, Machine } from '../vmm/driver.ts';
import { VmmError } from '../vmm/driver.ts';
import { isAwake, Waker } from './waker.ts';
import {
  assertNothingLeft,
  makeHostFolder,
  openFakeWorld,
  over,
  type FakeHostFolder,
  type FakeWorld,
  type WorldOptions,
} from '../../test/support/fake-world.ts';

const READY = { until: 'ready', timeoutMs: 10_000 } as const;
const HOUR_MS = 3_600_000;
const signal = new AbortController().signal;

interface Idle extends FakeWorld {
  readonly clock: FakeClock;
  readonly waker: Waker;
  readonly newVm: () => Promise<Vm>;
  /** Makes nobody use anything for an hour, and looks. */
  readonly idleRound: () => Promise<void>;
  readonly now: (id: VmId) => Promise<Vm>;
  readonly events: (id: VmId, kind: string) => Promise<readonly HatchEvent[]>;
}

async function open(host: FakeHostFolder, options: WorldOptions = {}): Promise<Idle> {
  const clock = new FakeClock();
  const one = await openFakeWorld(host, { ...options, activityClock: clock });
  const { hatch, caller, world, sleeper } = one;
  return {
    ...one,
    clock,
    waker: new Waker(world),
    newVm: () => hatch.vms.create(caller, {}, READY),
    idleRound: async () => {
      await clock.advance(HOUR_MS);
      await sleeper.round();
    },
    now: (id) => hatch.vms.get(caller, id),
    events: (id, kind) => hatch.events.list(caller, { vm: id, kind }, { limit: 100 }),
  };
}

async function idle(options: WorldOptions, body: (one: Idle) => Promise<void>): Promise<void> {
  const host = await makeHostFolder();
  try {
    const one = await open(host, options);
    try {
      await body(one);
      await assertNothingLeft(one);
    } finally {
      await one.close();
    }
  } finally {
    await host.remove();
  }
}

/** Has machines be saved as `save` says. */
const savedBy =
  (save: (machine: Machine, how: () => ReturnType<Machine['save']>) => ReturnType<Machine['save']>) =>
  (driver: Driver): Driver => {
    const machine = (one: Machine): Machine => over(one, { save: (to) => save(one, () => one.save(to)) });
    return over(driver, {
      launch: async (...how) => machine(await driver.launch(...how)),
      load: async (...how) => machine(await driver.load(...how)),
    });
  };

test('a VM nobody uses goes to sleep, and its event says on what that was decided', () =>
  idle({}, async ({ newVm, now, events, clock, sleeper }) => {
    const { id } = await newVm();
    await clock.advance(2_699_000);
    await sleeper.round();
    assert.equal((await now(id)).state, 'running');
    await clock.advance(1000);
    await sleeper.round();
    assert.equal((await now(id)).state, 'snapshotted');
    const [slept] = await events(id, 'vm.slept');
    assert.deepEqual(slept?.data, {
      reason: 'idle',
      action: 'snapshot',
      mem_mib: 512,
      idle_seconds: 2700,
      timeout_seconds: 2700,
      connections: 'hold',
      awake_seconds: 2700,
      wakes_in_last_hour: 1,
      open: [],
    });
    assert.deepEqual(await events(id, 'vm.sleep_refused'), []);
  }));

test('setting the time of day puts nobody to sleep, and keeps nobody awake', () =>
  idle({}, async ({ newVm, now, clock, sleeper }) => {
    const { id } = await newVm();
    await clock.advance(1_000_000);
    clock.jump(7 * 24 * 3_600_000);
    await sleeper.round();
    assert.equal((await now(id)).state, 'running');
    clock.jump(-30 * 24 * 3_600_000);
    await clock.advance(1_700_000);
    await sleeper.round();
    assert.equal((await now(id)).state, 'snapshotted');
  }));

test('a VM in use, pinned, or without an action stays awake; its last use is written down', () =>
  idle({}, async ({ newVm, now, idleRound, hatch, caller, world, clock }) => {
    const [used, pinned, none] = [await newVm(), await newVm(), await newVm()];
    await hatch.vms.patch(caller, pinned.id, { idle: { pinned: true } });
    await hatch.vms.patch(caller, none.id, { idle: { action: 'none' } });
    const use = world.activity.begin(used.id, 'ssh');
    const before = await now(used.id);
    await idleRound();
    for (const { id } of [used, pinned, none]) assert.equal((await now(id)).state, 'running');
    const { lastActiveAt, updatedAt } = await now(used.id);
    assert.ok(lastActiveAt !== null && Math.abs(lastActiveAt - world.clock.now()) < 5000);
    assert.equal(updatedAt, before.updatedAt, 'use is no change of a VM');
    const unused = (await now(pinned.id)).lastActiveAt;
    assert.ok(unused !== null && world.clock.now() - unused >= HOUR_MS);
    use.end();
    await clock.advance(1000);
    await idleRound();
    assert.equal((await now(used.id)).state, 'snapshotted');
  }));

test('a woken VM is used by that, and stays awake for a minute whatever its timeout', () =>
  idle({ idle: { ...DEFAULT_IDLE, timeoutSeconds: 1 } }, async (one) => {
    const { newVm, now, idleRound, waker, clock, sleeper, events } = one;
    const { id } = await newVm();
    await idleRound();
    assert.equal((await now(id)).state, 'snapshotted');
    await waker.wake(id, { by: 'http', from: null }, signal);
    for (let second = 0; second < 59; second++) {
      await clock.advance(1000);
      await sleeper.round();
      assert.equal((await now(id)).state, 'running');
    }
    const refused = await events(id, 'vm.sleep_refused');
    assert.equal(refused.length, 1, 'once, not at each look');
    assert.match(refused[0]?.message ?? '', /woken or started a moment ago/);
    await clock.advance(1000);
    await sleeper.round();
    assert.equal((await now(id)).state, 'snapshotted');
  }));

test('so many are put to sleep at once, and no more; one that takes long holds up nobody else', async () => {
  let saving = 0;
  let most = 0;
  const held: (() => void)[] = [];
  const wrapDriver = savedBy(async (_machine, save) => {
    most = Math.max(most, ++saving);
    await new Promise<void>((resolve) => held.push(resolve));
    saving--;
    return save();
  });
  await idle({ wrapDriver, sleepsAtOnce: 2 }, async ({ newVm, idleRound, now, world, sleeper }) => {
    const vms = [await newVm(), await newVm(), await newVm(), await newVm()];
    const round = idleRound();
    const turns = async (until: () => boolean): Promise<void> => {
      while (!until()) await new Promise((resolve) => setImmediate(resolve));
    };
    await turns(() => held.length === 2);
    const late = await newVm();
    await sleeper.round();
    assert.notEqual((await now(late.id)).lastActiveAt, null, 'it was looked at meanwhile');
    for (let freed = 1; freed <= vms.length; freed++) {
      held.shift()?.();
      if (freed <= 2) await turns(() => held.length === 2);
    }
    await round;
    for (const { id } of vms) assert.equal((await now(id)).state, 'snapshotted');
    assert.equal(most, 2);
    assert.equal(world.flights.vmIds.size, 0);
  });
});

test('a use that begins while a VM waits for its turn keeps it awake', async () => {
  let letGo = (): void => undefined;
  let once = true;
  const { promise: reached, resolve: reach } = Promise.withResolvers<void>();
  const wrapDriver = savedBy(async (_machine, save) => {
    if (once) {
      once = false;
      await new Promise<void>((resolve) => {
        letGo = resolve;
        reach();
      });
    }
    return save();
  });
  await idle({ wrapDriver, sleepsAtOnce: 1 }, async ({ newVm, idleRound, now, world }) => {
    const vms = [await newVm(), await newVm()];
    const round = idleRound();
    await reached;
    const waiting = (
      await Promise.all(vms.map(async ({ id }) => ({ id, operation: (await now(id)).operation })))
    ).find(({ operation }) => operation === null);
    assert.ok(waiting);
    world.activity.touch(waiting.id);
    letGo();
    await round;
    for (const { id } of vms)
      assert.equal((await now(id)).state, id === waiting.id ? 'running' : 'snapshotted');
  });
});

test('one that cannot be saved runs on, is tried again later and later, and says why once', async () => {
  let tries = 0;
  const wrapDriver = savedBy(() => {
    tries++;
    return Promise.reject(new VmmError('the disk is gone'));
  });
  await idle({ wrapDriver }, async ({ newVm, idleRound, now, events, clock, sleeper }) => {
    const { id } = await newVm();
    await idleRound();
    for (const [seconds, tried] of [
      [59, 1],
      [1, 2],
      [119, 2],
      [1, 3],
      [240, 4],
    ] as const) {
      await clock.advance(seconds * 1000);
      await sleeper.round();
      assert.equal(tries, tried);
    }
    assert.ok(isAwake(await now(id)));
    const refused = await events(id, 'vm.sleep_refused');
    assert.deepEqual(
      refused.map(({ message }) => message),
      ['It stays awake: The VM could not be saved, and runs on: The hypervisor failed: the disk is gone'],
    );
  });
});

test('where machines cannot be saved that is said once; "stop" needs no saving, and who comes by starts it again', async () => {
  const wrapDriver = (driver: Driver): Driver =>
    over(driver, { capabilities: { ...driver.capabilities, snapshot: false } });
  await idle({ wrapDriver }, async ({ newVm, idleRound, now, events, hatch, caller, waker }) => {
    const { id } = await newVm();
    await idleRound();
    await idleRound();
    assert.equal((await now(id)).state, 'running');
    const refused = await events(id, 'vm.sleep_refused');
    assert.deepEqual(
      refused.map(({ data }) => data['reason']),
      ['cannot_save'],
    );
    await hatch.vms.patch(caller, id, { idle: { action: 'stop' } });
    await idleRound();
    const { state, stoppedBy } = await now(id);
    assert.deepEqual([state, stoppedBy], ['stopped', 'policy']);
    assert.equal((await events(id, 'vm.slept'))[0]?.data['action'], 'stop');
    assert.ok((await waker.wake(id, { by: 'ssh', from: '127.0.0.1' }, signal)) >= 0);
    assert.ok(isAwake(await now(id)));
    await idleRound();
    await hatch.vms.stop(caller, id, { graceSeconds: 0 });
    assert.equal((await now(id)).stoppedBy, 'person', 'who stops it is heard though it is stopped already');
    await assert.rejects(waker.wake(id, { by: 'ssh', from: null }, signal), /only a start by its owner/);
  });
});

test('after a restart a VM is idle since it was last used, but those who used it have a minute to come back', async () => {
  const host = await makeHostFolder();
  try {
    const first = await open(host);
    const { id } = await first.newVm();
    await first.clock.advance(HOUR_MS / 2);
    await first.sleeper.round();
    await first.close();
    const second = await open(host);
    // What the wall clock says of it is half an hour ago by the old steady clock.
    const { lastUsedAt, awakeSince } = second.world.activity.of(id);
    assert.ok(Math.abs(second.clock.steady() - lastUsedAt - HOUR_MS / 2) < 60_000);
    assert.equal(awakeSince, second.clock.steady());
    await second.clock.advance(16 * 60_000);
    await second.sleeper.round();
    assert.equal((await second.now(id)).state, 'snapshotted');
    await second.close();
    const third = await open(host);
    await third.clock.advance(HOUR_MS);
    await third.sleeper.round();
    assert.equal((await third.now(id)).state, 'snapshotted');
    await third.close();
  } finally {
    await host.remove();
  }
});

test('a guest that says it is busy is left alone for as long as it says, and is asked again then', () =>
  idle({}, async ({ newVm, idleRound, now, hatch, caller, events, clock, sleeper }) => {
    const { id } = await newVm();
    const say = (text: string): Promise<unknown> =>
      hatch.vms.exec(caller, id, {
        command: `echo ${text} > /run/hatch/busy`,
        cwd: null,
        env: {},
        stdin: null,
        timeoutMs: 10_000,
      });
    await say('600');
    await idleRound();
    assert.equal((await now(id)).state, 'running');
    const why = await hatch.idle.why(caller, id);
    assert.deepEqual([why.now.is, why.now.reason], ['awake', 'guest_busy']);
    assert.equal((await events(id, 'vm.sleep_refused')).length, 1);
    await clock.advance(599_000);
    await sleeper.round();
    assert.equal((await now(id)).state, 'running');
    await clock.advance(1000);
    await sleeper.round();
    assert.equal((await now(id)).state, 'running', 'it still says so');
    await say('0');
    await clock.advance(HOUR_MS);
    await sleeper.round();
    assert.equal((await now(id)).state, 'snapshotted');
  }));

test('a VM that uses its CPUs stays awake where its policy wants that, once they were measured twice', async () => {
  let cpuSeconds = 0;
  const wrapDriver = (driver: Driver): Driver => {
    const machine = (one: Machine): Machine =>
      over(one, { counters: async () => ({ ...(await one.counters()), cpuSeconds }) });
    return over(driver, { launch: async (...how) => machine(await driver.launch(...how)) });
  };
  await idle({ wrapDriver }, async ({ hatch, caller, now, events, clock, sleeper, idleRound }) => {
    const { id } = await hatch.vms.create(caller, { vcpuCount: 2, idle: { cpuBelow: 20 } }, READY);
    await idleRound();
    assert.equal((await now(id)).state, 'running', 'not measured twice yet');
    // 40 % of one CPU are 20 % of two.
    cpuSeconds += 4;
    await clock.advance(10_000);
    await sleeper.round();
    assert.equal((await now(id)).state, 'running');
    const [refused] = await events(id, 'vm.sleep_refused');
    assert.match(refused?.message ?? '', /is not known yet/);
    const { message } = (await hatch.idle.why(caller, id)).now;
    assert.equal(message, 'It uses 20 % of its CPUs, and sleeps below 20 %.');
    cpuSeconds += 3.9;
    await clock.advance(10_000);
    await sleeper.round();
    assert.equal((await now(id)).state, 'snapshotted');
    assert.equal((await events(id, 'vm.slept'))[0]?.data['cpu_percent'], 19.5);
  });
});

test('close ends the looking, and leaves what sleeps to those who cut operations off', () =>
  idle({}, async ({ newVm, sleeper, clock, now }) => {
    const { id } = await newVm();
    sleeper.start(30_000);
    await clock.advance(20_000);
    await sleeper.close();
    await clock.advance(HOUR_MS);
    assert.equal((await now(id)).state, 'running');
  }));

test('the loop looks at its interval', () =>
  idle({}, async ({ newVm, sleeper, clock, now }) => {
    const { id } = await newVm();
    sleeper.start(30_000);
    await clock.advance(HOUR_MS);
    while ((await now(id)).state !== 'snapshotted' || (await now(id)).operation !== null)
      await new Promise((resolve) => setImmediate(resolve));
    await sleeper.close();
  }));
