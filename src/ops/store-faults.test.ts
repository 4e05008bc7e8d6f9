import assert from 'node:assert/strict';
import { readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { FakeClock, systemClock } from '../base/clock.ts';
import { Failure } from '../model/failure.ts';
import type { Snapshot } from '../model/snapshot.ts';
import type { Vm } from '../model/vm.ts';
import { BlobError } from '../store/blobs/blob-error.ts';
import type { BlobHome } from '../store/blobs/home.ts';
import { forgetLocal } from './archive/evict.ts';
import { releaseLayers } from './layers.ts';
import {
  assertNothingLeft,
  makeHostFolder,
  openFakeWorld,
  over,
  type FakeWorld,
} from '../../test/support/fake-world.ts';

/** The store fails, or what is in it: snapshots here stay whole and are stored later; what cannot be read is said, and nothing is half there. */

const READY = { until: 'ready', timeoutMs: 10_000 } as const;

/** Whether the home answers, and what happens when something is put. */
interface Weather {
  down?: BlobError | undefined;
  put?: ((name: string) => Promise<void>) | undefined;
  /** Names that were put, each as often as it was. */
  readonly puts: string[];
}

function weathered(home: BlobHome, weather: Weather): BlobHome {
  const up = (): void => {
    if (weather.down) throw weather.down;
  };
  return over(home, {
    put: async (name, ...how) => {
      up();
      await weather.put?.(name);
      up();
      await home.put(name, ...how);
      weather.puts.push(name);
    },
    get: async (...what) => {
      up();
      return home.get(...what);
    },
    getRange: async (...what) => {
      up();
      return home.getRange(...what);
    },
    head: async (...what) => {
      up();
      return home.head(...what);
    },
  });
}

interface Stormy extends FakeWorld {
  readonly vm: Vm;
  readonly weather: Weather;
  readonly clock: FakeClock;
  /** The folder of the home. */
  readonly home: string;
}

/** A ready VM in a world whose store has weather. */
async function stormy(body: (one: Stormy) => Promise<void>): Promise<void> {
  const host = await makeHostFolder();
  try {
    const weather: Weather = { puts: [] };
    const clock = new FakeClock();
    await using one = await openFakeWorld(host, {
      wrapHome: (home) => weathered(home, weather),
      archiveClock: clock,
    });
    const vm = await one.hatch.vms.create(one.caller, {}, READY);
    await body({ ...one, vm, weather, clock, home: join(host.root, 'snapshots') });
    await assertNothingLeft(one);
    for (const left of await one.hatch.vms.list(one.caller, {}, { limit: 100 }))
      await one.hatch.vms.delete(one.caller, left.id);
    await assertNothingLeft(one);
    assert.deepEqual(await readdir(join(host.root, 'spool')), []);
  } finally {
    await host.remove();
  }
}

const unreachable = (): BlobError => new BlobError('unreachable', 'the store does not answer');

/** How long one look after the other may go on, in milliseconds of real time: threads do the work. */
const LOOKS_MS = 30_000;

/** Looks at a snapshot again and again until it is as it should be; time goes on meanwhile. */
async function snapshotIs(
  { world, clock }: Stormy,
  id: Snapshot['id'],
  wanted: (snapshot: Snapshot) => boolean,
): Promise<Snapshot> {
  for (const from = performance.now(); ;) {
    const snapshot = await world.store.snapshots.get(id);
    assert.ok(snapshot, `${id} is gone`);
    if (wanted(snapshot)) return snapshot;
    assert.ok(performance.now() - from < LOOKS_MS, `it stays ${JSON.stringify(snapshot)}`);
    await clock.advance(1000);
    await systemClock.sleep(1);
  }
}

/** Its files on this host go, its durable copy stays. */
async function evict({ world }: FakeWorld, snapshot: Snapshot): Promise<void> {
  assert.ok(await forgetLocal(world, snapshot));
}

async function refusal(call: Promise<unknown>): Promise<Failure> {
  const error: unknown = await call.then(
    () => assert.fail('was not refused'),
    (thrown: unknown) => thrown,
  );
  assert.ok(error instanceof Failure, String(error));
  return error;
}

function assertNoneTwice({ weather }: Stormy): void {
  assert.equal(new Set(weather.puts).size, weather.puts.length, weather.puts.join(' '));
}

for (const [when, begin] of [
  ['before an upload', (weather: Weather) => (weather.down = unreachable())],
  [
    'during an upload',
    (weather: Weather) =>
      (weather.put = async () => {
        weather.down = unreachable();
      }),
  ],
  [
    'right before the manifest is there',
    (weather: Weather) =>
      (weather.put = async (name) => {
        if (name.includes('/m/')) weather.down = unreachable();
      }),
  ],
  ['full', (weather: Weather) => (weather.down = new BlobError('no_space', 'the store is full'))],
  [
    'closed to us',
    (weather: Weather) => (weather.down = new BlobError('refused', 'the store does not let us in')),
  ],
] satisfies readonly (readonly [string, (weather: Weather) => unknown])[]) {
  test(`a store that is unreachable, full or closed (${when}) leaves a snapshot local with what is wrong; its VM wakes, and it is stored by itself later, nothing twice`, () =>
    stormy(async (one) => {
      begin(one.weather);
      const { id } = await one.hatch.vms.snapshot(one.caller, one.vm.id, {
        keepRunning: false,
        name: 'kept',
      });
      const local = await snapshotIs(one, id, ({ state, problem }) => state === 'local' && problem !== null);
      assert.match(local.problem ?? '', /^the store /);
      assert.equal(local.manifest, null);
      assert.equal((await one.hatch.vms.restore(one.caller, one.vm.id, {}, READY)).state, 'running');
      await assertNothingLeft(one);

      one.weather.down = undefined;
      one.weather.put = undefined;
      const stored = await snapshotIs(one, id, ({ state }) => state === 'durable');
      assert.equal(stored.problem, null);
      assert.ok((stored.storedBytes ?? 0) > 0);
      assertNoneTwice(one);
      await evict(one, stored);
      assert.equal(
        (await one.hatch.vms.create(one.caller, { snapshotId: id }, READY)).state,
        'running',
        'what was stored can be read',
      );
    }));
}

test('a store that is unreachable when a VM is to wake from it says so; the VM sleeps on and wakes when it is back', () =>
  stormy(async (one) => {
    const { id } = await one.hatch.vms.snapshot(one.caller, one.vm.id, { keepRunning: false });
    await evict(one, await snapshotIs(one, id, ({ state }) => state === 'durable'));
    one.weather.down = unreachable();
    const failure = await refusal(one.hatch.vms.restore(one.caller, one.vm.id, {}));
    assert.equal(failure.code, 'unavailable');
    assert.match(failure.message, /could not be read from the store: the store does not answer/);
    const asleep = await one.hatch.vms.get(one.caller, one.vm.id);
    assert.deepEqual(
      [asleep.state, asleep.snapshotId, asleep.stateReason?.code],
      ['snapshotted', id, 'unavailable'],
    );
    await assertNothingLeft(one);
    one.weather.down = undefined;
    assert.equal((await one.hatch.vms.restore(one.caller, one.vm.id, {}, READY)).state, 'running');
  }));

test('a snapshot deleted while its files are brought here is gone whole: nothing of what came is left', () =>
  stormy(async (one) => {
    const { id } = await one.hatch.vms.snapshot(one.caller, one.vm.id, { keepRunning: true });
    const stored = await snapshotIs(one, id, ({ state }) => state === 'durable');
    await evict(one, stored);
    const update = one.world.store.snapshots.update.bind(one.world.store.snapshots);
    one.world.store.snapshots.update = async (...how) => {
      one.world.store.snapshots.update = update;
      await one.hatch.snapshots.delete(one.caller, id);
      return update(...how);
    };
    const failure = await refusal(one.hatch.vms.create(one.caller, { snapshotId: id }));
    assert.match(failure.message, /was deleted while its files were brought here/);
    await assertNothingLeft(one);
  }));

test('a snapshot deleted while it is on its way to the store is gone whole, and its VM runs on', () =>
  stormy(async (one) => {
    const { promise: putting, resolve: reached } = Promise.withResolvers<void>();
    const { promise: open, resolve: letIn } = Promise.withResolvers<void>();
    one.weather.put = async () => {
      reached();
      await open;
    };
    const { id } = await one.hatch.vms.snapshot(one.caller, one.vm.id, { keepRunning: true });
    await putting;
    const gone = one.hatch.snapshots.delete(one.caller, id);
    letIn();
    await gone;
    assert.deepEqual(await one.hatch.snapshots.list(one.caller, {}, { limit: 10 }), []);
    await assertNothingLeft(one);
    assert.equal((await one.hatch.vms.get(one.caller, one.vm.id)).state, 'running');
  }));

test('a pack that was collected when an upload wants to build on it is written anew, and what was stored reads', () =>
  stormy(async (one) => {
    const first = await one.hatch.vms.snapshot(one.caller, one.vm.id, { keepRunning: true });
    await snapshotIs(one, first.id, ({ state }) => state === 'durable');
    // The first is deleted and its packs collected after the second has looked what there is.
    const reuse = one.world.store.ledger.reuse.bind(one.world.store.ledger);
    one.world.store.ledger.reuse = async (...what) => {
      one.world.store.ledger.reuse = reuse;
      await one.world.store.snapshots.remove(first.id);
      for (let round = 0; round < 2; round++) {
        for (const blob of await one.world.store.ledger.collect({ graceMs: 0, limit: 100 })) {
          for (const name of (await blobs(one.home)).filter((file) => file.includes(blob.id))) await rm(name);
          await one.world.store.ledger.gone(blob.id);
        }
      }
      return reuse(...what);
    };
    const second = await one.hatch.vms.snapshot(one.caller, one.vm.id, { keepRunning: false });
    await evict(one, await snapshotIs(one, second.id, ({ state }) => state === 'durable'));
    await releaseLayers(one.world, [first.diskLayerId, first.memoryLayerId, first.stateLayerId]);
    assert.equal((await one.hatch.vms.restore(one.caller, one.vm.id, {}, READY)).state, 'running');
  }));

async function blobs(home: string): Promise<readonly string[]> {
  return (await readdir(home, { recursive: true, withFileTypes: true }))
    .filter((file) => file.isFile())
    .map((file) => join(file.parentPath, file.name));
}

const packsIn = (names: readonly string[]): readonly string[] => names.filter((name) => name.includes('/p/'));

for (const [what, spoil] of [
  [
    'a bit turned round in a pack',
    async (names) => {
      for (const name of packsIn(names)) {
        const bytes = await readFile(name);
        const at = Math.floor(bytes.length / 3);
        bytes[at] = (bytes[at] ?? 0) ^ 1;
        await writeFile(name, bytes);
      }
    },
  ],
  [
    'its packs gone',
    async (names) => {
      for (const name of packsIn(names)) await rm(name);
    },
  ],
  [
    'its manifest gone',
    async (names) => {
      for (const name of names.filter((one) => one.includes('/m/'))) await rm(name);
    },
  ],
  [
    'a bit turned round in its manifest',
    async (names) => {
      for (const name of names.filter((one) => one.includes('/m/'))) {
        const bytes = await readFile(name);
        bytes[20] = (bytes[20] ?? 0) ^ 1;
        await writeFile(name, bytes);
      }
    },
  ],
] satisfies readonly (readonly [string, (names: readonly string[]) => Promise<void>])[]) {
  test(`a wake by download from a snapshot with ${what} says so; VM and snapshots stay whole, and others go on`, () =>
    stormy(async (one) => {
      const { id } = await one.hatch.vms.snapshot(one.caller, one.vm.id, {
        keepRunning: false,
        name: 'spoilt',
      });
      await snapshotIs(one, id, ({ state }) => state === 'durable');
      const spoilt = await blobs(one.home);
      const other = await one.hatch.vms.create(one.caller, {}, READY);
      const kept = await one.hatch.vms.snapshot(one.caller, other.id, { keepRunning: false });
      await evict(one, await snapshotIs(one, id, () => true));
      await snapshotIs(one, kept.id, ({ state }) => state === 'durable');
      await spoil(spoilt);
      const failure = await refusal(one.hatch.vms.restore(one.caller, one.vm.id, {}));
      assert.equal(failure.code, 'unavailable', failure.message);
      assert.match(failure.message, new RegExp(`Snapshot ${id} could not be read from the store: .+`));
      const asleep = await one.hatch.vms.get(one.caller, one.vm.id);
      assert.deepEqual([asleep.state, asleep.snapshotId], ['snapshotted', id]);
      await assertNothingLeft(one);
      assert.equal((await one.hatch.vms.restore(one.caller, other.id, {}, READY)).state, 'running');
    }));
}
