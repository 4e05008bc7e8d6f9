import assert from 'node:assert/strict';
import { test } from 'node:test';
import { FakeClock } from '../base/clock.ts';
import { newId } from '../base/ids.ts';
import { Failure } from '../model/failure.ts';
import type { Route } from '../model/route.ts';
import type { Vm } from '../model/vm.ts';
import { makeHostFolder, openFakeWorld, over, type FakeWorld } from '../../test/support/fake-world.ts';
import type { CreateRoute } from './hatch.ts';
import { Refusals } from './refusals.ts';
import { Visits, type Visit } from './visits.ts';
import { Waker } from './waker.ts';

const { signal } = new AbortController();
const VISIT: Visit = { by: 'http', from: '203.0.113.9', unwanted: undefined };
const CRAWLER: Visit = { ...VISIT, unwanted: 'crawlers wake nothing' };

interface Published extends FakeWorld {
  readonly vm: Vm;
  readonly visits: Visits;
  /** Makes a route to the VM. */
  readonly publish: (more?: Partial<Pick<CreateRoute, 'autoWake' | 'wake'>>) => Promise<Route>;
  readonly sleep: () => Promise<unknown>;
  readonly version: () => number;
  readonly open: () => readonly string[];
}

/** A VM that runs, and visits of it. */
async function published(body: (one: Published) => Promise<void>): Promise<void> {
  const host = await makeHostFolder();
  const fake = await openFakeWorld(host);
  const { hatch, caller, world } = fake;
  try {
    const vm = await hatch.vms.create(caller, {}, { until: 'ready', timeoutMs: 10_000 });
    await body({
      ...fake,
      vm,
      visits: new Visits(world, new Waker(world), new Refusals(world)),
      publish: (more = {}) => hatch.routes.create(caller, vm.id, { targetPort: 80, ...more }),
      sleep: () => hatch.vms.snapshot(caller, vm.id, { keepRunning: false }),
      version: () => world.activity.of(vm.id).version,
      open: () => world.activity.of(vm.id).open.map(({ by }) => by),
    });
  } finally {
    await fake.close();
    await host.remove();
  }
}

function refused(words: RegExp): (error: unknown) => boolean {
  return (error) => error instanceof Failure && error.code === 'unavailable' && words.test(error.message);
}

test('a visit uses its VM from before it is looked at until it ends, through a wake too', async () => {
  await published(async ({ world, vm, publish, sleep, open }) => {
    const seen: (readonly string[])[] = [];
    const store = over(world.store, {
      vms: over(world.store.vms, {
        get: (id) => {
          seen.push(open());
          return world.store.vms.get(id);
        },
      }),
    });
    const watched = new Visits({ ...world, store }, new Waker(world), new Refusals(world));
    const route = await publish();
    const arrived = await watched.arrive(route, VISIT, signal);
    assert.deepEqual([seen, arrived.ip, arrived.wokenMs], [[['http']], vm.network?.ip, undefined]);
    const other = await watched.arrive(route, { ...VISIT, by: 'upgrade' }, signal);
    assert.deepEqual(open(), ['http', 'upgrade']);
    arrived.use.end();
    arrived.use.end();
    other.use.end();
    assert.deepEqual(open(), []);
    await sleep();
    const woken = await watched.arrive(route, VISIT, signal);
    assert.ok(woken.wokenMs !== undefined);
    assert.deepEqual([seen.at(-1), open()], [['http'], ['http']]);
    woken.use.end();
  });
});

test('a visit that would not wake a VM does not keep it awake: it is let through, and is no use', async () => {
  await published(async ({ visits, publish, sleep, version, open }) => {
    const route = await publish();
    const before = version();
    const arrived = await visits.arrive(route, CRAWLER, signal);
    arrived.use.payload();
    assert.deepEqual([version(), open()], [before, []]);
    arrived.use.end();
    await sleep();
    const asleep = version();
    await assert.rejects(
      visits.arrive(route, CRAWLER, signal),
      refused(/not awake, and crawlers wake nothing/),
    );
    assert.deepEqual([version(), open()], [asleep, []]);
  });
});

test('who may not wake it uses it where it runs, and is no use where it sleeps', async () => {
  await published(async ({ visits, publish, sleep, version, open }) => {
    const unwoken = await publish({ autoWake: false });
    const rationed = await publish({ wake: { dailyBudget: 1 } });
    const arrived = await visits.arrive(unwoken, VISIT, signal);
    assert.deepEqual(open(), ['http']);
    arrived.use.end();
    await sleep();
    (await visits.arrive(rationed, VISIT, signal)).use.end();
    const again = await visits.arrive(rationed, VISIT, signal);
    assert.deepEqual(open(), ['http'], 'its budget is for wakes');
    again.use.end();
    await sleep();
    const before = version();
    await assert.rejects(visits.arrive(unwoken, VISIT, signal), refused(/not woken by visits/));
    await assert.rejects(visits.arrive(rationed, VISIT, signal), refused(/1 wakes of today are used up/));
    assert.deepEqual([version(), open()], [before, []]);
  });
});

test('a visit that fails is over: of a VM that is gone, that a person stopped, or whose visitor left', async () => {
  await published(async ({ visits, publish, sleep, open, hatch, caller, vm }) => {
    const route = await publish();
    await sleep();
    await assert.rejects(visits.arrive(route, VISIT, AbortSignal.abort(new Error('left'))), /left/);
    assert.deepEqual(open(), []);
    (await visits.arrive(route, VISIT, signal)).use.end();
    await hatch.vms.stop(caller, vm.id, { graceSeconds: 0 });
    await assert.rejects(visits.arrive(route, VISIT, signal), refused(/only a start by its owner/));
    assert.deepEqual(open(), []);
    await hatch.vms.delete(caller, vm.id);
    await assert.rejects(visits.arrive(route, VISIT, signal), /Nothing is published/);
    await assert.rejects(visits.arrive({ ...route, vmId: newId('vm') }, VISIT, signal), /Nothing is/);
    assert.deepEqual(open(), []);
  });
});

test('visits that are turned away are told as an event, however many, once a minute', async () => {
  await published(async ({ world, publish, sleep, vm }) => {
    const clock = new FakeClock();
    const timed = { ...world, clock };
    const visits = new Visits(timed, new Waker(timed), new Refusals(timed));
    const route = await publish();
    await sleep();
    for (let i = 0; i < 50; i++) await assert.rejects(visits.arrive(route, CRAWLER, signal));
    await clock.advance(60_000);
    await assert.rejects(visits.arrive(route, CRAWLER, signal));
    const told = await world.store.events.list({ vmId: vm.id, kind: 'vm.wake_refused' }, { limit: 100 });
    assert.deepEqual(
      told.map(({ data }) => [data['by'], data['from'], data['times']]),
      [
        ['http', '203.0.113.9', 50],
        ['http', '203.0.113.9', 1],
      ],
    );
    assert.match(told[0]?.message ?? '', /not awake, and crawlers wake nothing\. It is the latest of 50/);
  });
});
