import assert from 'node:assert/strict';
import { test } from 'node:test';
import { FakeClock } from '../base/clock.ts';
import { DEFAULT_IDLE } from '../model/create-request.ts';
import type { Vm } from '../model/vm.ts';
import type { Store } from '../store/store.ts';
import type { Driver, Machine } from '../vmm/driver.ts';
import { Sleeper } from './sleeper.ts';
import { isAwake, Waker } from './waker.ts';
import {
  assertNothingLeft,
  makeHostFolder,
  openFakeWorld,
  over,
  type FakeWorld,
} from '../../test/support/fake-world.ts';

/** Somebody comes at each moment of a VM's falling asleep: it stays awake for them, or is woken for them; nobody is lost. */

const READY = { until: 'ready', timeoutMs: 10_000 } as const;
const NEVER = new AbortController().signal;
const COMMAND = { command: ['echo', 'here'], cwd: null, env: {}, stdin: null, timeoutMs: 10_000 } as const;

interface Race extends FakeWorld {
  readonly vm: Vm;
  readonly waker: Waker;
}

interface Outcome {
  readonly moment: string;
  readonly slept: boolean;
  readonly cancelled: boolean;
}

/**
 * Has a VM fall asleep again and again, and has somebody come at another moment each time, until there is no further one; gives what
 * became of each.
 */
async function atEachMoment(
  action: 'snapshot' | 'stop',
  come: (race: Race) => Promise<unknown>,
): Promise<readonly Outcome[]> {
  const outcomes: Outcome[] = [];
  for (let at = 1; ; at++) {
    const host = await makeHostFolder();
    let left = 0;
    let moment = '';
    let arrive: (() => void) | undefined;
    let loads = 0;
    const now = (what: string): void => {
      if (left === 0 || --left > 0) return;
      moment = what;
      arrive?.();
    };
    const wrapStore = (store: Store): Store =>
      over(store, {
        operations: over(store.operations, {
          begin: async (...how) => {
            now('before the claim');
            const begun = await store.operations.begin(...how);
            now('after the claim');
            return begun;
          },
          setArgs: async (...how) => {
            now('saved');
            await store.operations.setArgs(...how);
          },
          record: async (id, step, phase) => {
            now(`${step} ${phase}`);
            return store.operations.record(id, step, phase);
          },
          finish: async (...how) => {
            now('finish');
            await store.operations.finish(...how);
          },
        }),
      });
    const watched = (one: Machine): Machine =>
      over(one, {
        save: async (to) => {
          now('saving');
          const saved = await one.save(to);
          now('written');
          return saved;
        },
      });
    const wrapDriver = (driver: Driver): Driver =>
      over(driver, {
        launch: async (...how) => {
          loads++;
          return watched(await driver.launch(...how));
        },
        load: async (...how) => {
          loads++;
          return watched(await driver.load(...how));
        },
      });
    const clock = new FakeClock();
    const fake = await openFakeWorld(host, {
      wrapStore,
      wrapDriver,
      activityClock: clock,
      idle: { ...DEFAULT_IDLE, action },
    });
    try {
      const { hatch, caller, world } = fake;
      const vm = await hatch.vms.create(caller, {}, READY);
      const race: Race = { ...fake, vm, waker: new Waker(world) };
      const sleeper = new Sleeper(world, { clock, sleepsAtOnce: 1 });
      await clock.advance(3_600_000);
      loads = 0;
      let came: Promise<unknown> | undefined;
      arrive = () => {
        came = come(race);
        came.catch(() => undefined);
      };
      left = at;
      await sleeper.round();
      if (!came) return outcomes;
      await came;
      assert.ok(isAwake(await hatch.vms.get(caller, vm.id)), `${moment}: it does not run`);
      const kinds = (await hatch.events.list(caller, { vm: vm.id }, { limit: 100 })).map(({ kind }) => kind);
      const slept = kinds.includes('vm.slept');
      assert.equal(loads, slept ? 1 : 0, `${moment}: ${loads} loads`);
      outcomes.push({ moment, slept, cancelled: kinds.includes('vm.sleep_cancelled') });
      const ran = await hatch.vms.exec(caller, vm.id, COMMAND);
      assert.equal(ran.stdout, 'here\n', `${moment}: its guest does not answer`);
      await assertNothingLeft(fake);
    } finally {
      await fake.close();
      await host.remove();
    }
  }
}

/** A request, as the proxy has it: first its use begins, then it is looked whether the VM is awake. */
const request = async ({ world, waker, vm }: Race): Promise<void> => {
  const use = world.activity.begin(vm.id, 'http');
  try {
    await waker.wake(vm.id, { by: 'http', from: '127.0.0.1' }, NEVER);
    const row = await world.store.vms.get(vm.id);
    // One that looked before the sleep was claimed was told at once; that is given up then before the guest notices.
    assert.equal(row?.state, 'running', 'it was told that the VM is awake');
  } finally {
    use.end();
  }
};

/** A command is used from when its VM was found: by then the moment at which it came may be over. */
const LATE = /^(saving|written|saved)$/;

const cutAt = (outcomes: readonly Outcome[]): string | undefined =>
  outcomes.find(({ slept }) => slept)?.moment;

test('a request that comes before the machine is saved keeps it awake; one that comes later wakes it', async () => {
  const outcomes = await atEachMoment('snapshot', request);
  const moments = outcomes.map(({ moment }) => moment);
  for (const moment of ['before the claim', 'room begun', 'pause begun', 'saving', 'written'])
    assert.ok(moments.includes(moment), `${moment} is no moment of ${moments.join(', ')}`);
  assert.equal(cutAt(outcomes), 'saved');
  const first = outcomes.findIndex(({ slept }) => slept);
  for (const [at, { moment, slept, cancelled }] of outcomes.entries()) {
    assert.equal(slept, at >= first, `${moment}: neither awake nor asleep for good`);
    assert.equal(cancelled, !slept, moment);
  }
});

test('a request that comes before a guest was told to power off keeps it on; one that comes later starts it again', async () => {
  const outcomes = await atEachMoment('stop', request);
  assert.equal(cutAt(outcomes), 'ask begun');
  assert.ok(outcomes.length > 8, `only ${outcomes.length} moments`);
});

test('a command that may wake the VM is carried out whenever it comes', async () => {
  const outcomes = await atEachMoment('snapshot', async ({ hatch, caller, vm }) => {
    const { stdout } = await hatch.vms.exec(caller, vm.id, COMMAND, { by: 'exec', from: null });
    assert.equal(stdout, 'here\n');
  });
  assert.match(cutAt(outcomes) ?? '', LATE);
});

test('a command that wakes nothing is carried out before the machine is saved, and told why not afterwards', async () => {
  const outcomes = await atEachMoment('snapshot', async ({ hatch, caller, vm }) => {
    const ran = await hatch.vms.exec(caller, vm.id, COMMAND).catch((error: unknown) => error);
    const { state } = await hatch.vms.get(caller, vm.id);
    if (state === 'running') assert.deepEqual(Object.entries(ran as object)[0], ['exitCode', 0]);
    else {
      assert.match(String(ran), /The VM is snapshotted/);
      await hatch.vms.start(caller, vm.id, READY);
    }
  });
  assert.match(cutAt(outcomes) ?? '', LATE);
});

test('a fork, a reboot and a snapshot that are asked for while the VM falls asleep are done, or it sleeps', async () => {
  for (const ask of [
    ({ hatch, caller, vm }: Race) => hatch.vms.reboot(caller, vm.id, READY),
    ({ hatch, caller, vm }: Race) => hatch.vms.snapshot(caller, vm.id, { keepRunning: true }),
  ]) {
    const host = await makeHostFolder();
    let arrive: (() => void) | undefined;
    const wrapStore = (store: Store): Store =>
      over(store, {
        operations: over(store.operations, {
          record: async (id, step, phase) => {
            if (step === 'pause' && phase === 'begun') arrive?.();
            return store.operations.record(id, step, phase);
          },
        }),
      });
    const clock = new FakeClock();
    const fake = await openFakeWorld(host, { wrapStore, activityClock: clock });
    try {
      const { hatch, caller, world } = fake;
      const vm = await hatch.vms.create(caller, {}, READY);
      await clock.advance(3_600_000);
      let asked: Promise<unknown> | undefined;
      arrive = () => {
        arrive = undefined;
        asked = ask({ ...fake, vm, waker: new Waker(world) });
      };
      await new Sleeper(world, { clock, sleepsAtOnce: 1 }).round();
      assert.ok(asked);
      await asked;
      assert.ok(isAwake(await hatch.vms.get(caller, vm.id)));
    } finally {
      await fake.close();
      await host.remove();
    }
  }
});
