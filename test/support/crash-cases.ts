import assert from 'node:assert/strict';
import { cpSync, rmSync } from 'node:fs';
import { test } from 'node:test';
import type { VmId } from '../../src/base/ids.ts';
import type { Vm } from '../../src/model/vm.ts';
import { sleepVm } from '../../src/ops/snapshot-vm.ts';
import { reconcile } from '../../src/ops/reconcile.ts';
import { settle } from '../../src/ops/recover.ts';
import type { Store } from '../../src/store/store.ts';
import {
  assertNothingLeft,
  makeHostFolder,
  openFakeWorld,
  over,
  type FakeHostFolder,
  type FakeWorld,
} from './fake-world.ts';

/** A verb, what it needs to be there first, and how it is asked for. */
export interface CrashCase {
  readonly verb: string;
  /** `idle`: asleep because nobody used it. */
  readonly before: 'nothing' | 'running' | 'stopped' | 'sleeping' | 'idle';
  /** Whether the hypervisor takes overlays for disks. */
  readonly qcow2?: boolean;
  readonly ask: (world: FakeWorld, vm: Vm | undefined) => Promise<unknown>;
}

/** The id of the VM a case needed. */
export function idOf(vm: Vm | undefined): VmId {
  assert.ok(vm);
  return vm.id;
}

async function prepare(world: FakeWorld, before: CrashCase['before']): Promise<Vm | undefined> {
  if (before === 'nothing') return undefined;
  const vm = await world.hatch.vms.create(world.caller, {}, { until: 'ready', timeoutMs: 10_000 });
  if (before === 'idle') {
    await sleepVm(world.world, vm);
    return vm;
  }
  if (before === 'sleeping') {
    await world.hatch.vms.snapshot(world.caller, vm.id, { keepRunning: false });
    return vm;
  }
  return before === 'stopped' ? world.hatch.vms.stop(world.caller, vm.id, { graceSeconds: 1 }) : vm;
}

/**
 * Counts the journal's rows, and at the one it is set to does as told: `fail` throws, once; at `crash` nobody's journal goes on from
 * there, as nobody goes on in a process that is dead.
 */
function tripwire(): {
  wrap: (store: Store) => Store;
  set: (at: number | null, how: 'crash' | 'fail') => void;
  rows: () => number;
  /** Resolves once it has crashed, and what other operations were in the middle of has come to its next row. */
  dead: Promise<void>;
} {
  let at: number | null = null;
  let how: 'crash' | 'fail' = 'crash';
  let rows = 0;
  let crashed = false;
  /** The steps each operation is in the middle of. */
  const busy = new Map<string, Set<string>>();
  const { promise: dead, resolve: die } = Promise.withResolvers<void>();
  const stopHere = async (): Promise<void> => {
    if (!crashed) return;
    if ([...busy.values()].every((steps) => steps.size === 0)) die();
    await new Promise(() => undefined);
  };
  return {
    dead,
    rows: () => rows,
    set: (row, kind) => {
      at = row;
      how = kind;
      rows = 0;
    },
    wrap: (store) =>
      over(store, {
        operations: over(store.operations, {
          record: async (id, step, phase, ended = []) => {
            const steps = busy.get(id) ?? new Set();
            busy.set(id, steps);
            for (const one of [...ended, { step }]) steps.delete(one.step);
            // Nothing is undone before all has come to its end.
            if (phase === 'undoing') steps.clear();
            await stopHere();
            const row = await store.operations.record(id, step, phase, ended);
            const tripped = at !== null && ++rows === at;
            if (tripped && how === 'fail') throw new Error(`failed at journal row ${rows}`);
            if (tripped) crashed = true;
            await stopHere();
            for (const one of [...ended, { step, phase }])
              if (one.phase === 'begun' || one.phase === 'undoing') steps.add(one.step);
            return row;
          },
          finish: async (id, ...how) => {
            busy.delete(id);
            await stopHere();
            return store.operations.finish(id, ...how);
          },
        }),
      }),
  };
}

/** A host on which all is as a verb needs it, as often as it is wanted: made once, and put back from a copy. */
async function hostsFor(
  before: CrashCase['before'],
  qcow2: boolean,
): Promise<{
  readonly host: FakeHostFolder;
  readonly vm: Vm | undefined;
  anew(): Promise<void>;
  remove(): Promise<void>;
}> {
  const host = await makeHostFolder();
  const kept = `${host.root}-kept`;
  const world = await openFakeWorld(host, { qcow2 });
  const vm = await prepare(world, before);
  await world.close();
  // A few small files in memory: asked for one after the other they take a tenth of the time.
  const copy = { recursive: true, verbatimSymlinks: true } as const;
  cpSync(host.root, kept, copy);
  return {
    host,
    vm,
    anew: async () => {
      rmSync(host.root, { recursive: true, maxRetries: 5 });
      cpSync(kept, host.root, copy);
    },
    remove: async () => {
      await host.remove();
      rmSync(kept, { recursive: true });
    },
  };
}

/** What is left can be used or taken away, whatever state it is in; then nothing is there. */
async function assertDeletable(world: FakeWorld): Promise<void> {
  for (const left of await world.world.store.vms.ofHost('test-host'))
    await world.hatch.vms.delete(world.caller, left.id);
  await assertNothingLeft(world);
  assert.equal((await world.world.store.vms.ofHost('test-host')).length, 0);
}

/** Ends a world as a SIGKILL would: its flights hang at the journal; only what it holds in this process is let go. */
async function abandon({ world }: FakeWorld): Promise<void> {
  world.fleet.onExit = () => undefined;
  for (const live of await world.store.vms.ofHost('test-host')) world.fleet.drop(live.id);
  await world.archive.close();
  await world.store.close();
}

/** Kills a daemon after each row of a verb's journal, and fails each step before and after its effect. */
export function crashTests({ verb, before, ask, qcow2 = false }: CrashCase): void {
  test(`${verb}: killed after any row of its journal, the next start leaves nothing that should not be there`, async () => {
    const hosts = await hostsFor(before, qcow2);
    try {
      for (let row = 1; ; row++) {
        await hosts.anew();
        const wire = tripwire();
        const doomed = await openFakeWorld(hosts.host, { wrapStore: wire.wrap, qcow2 });
        wire.set(row, 'crash');
        const asked = ask(doomed, hosts.vm).then(() => 'done' as const);
        const outcome = await Promise.race([asked, wire.dead.then(() => 'crashed' as const)]).finally(() =>
          abandon(doomed),
        );
        await using next = await openFakeWorld(hosts.host, { qcow2 });
        await settled(next);
        await assertNothingLeft(next);
        await assertDeletable(next);
        if (outcome === 'done') return assert.ok(row > 4, `only ${row - 1} rows were journalled`);
      }
    } finally {
      await hosts.remove();
    }
  });

  test(`${verb}: failing before or after any step leaves nothing that should not be there`, async () => {
    const hosts = await hostsFor(before, qcow2);
    try {
      for (let row = 1; ; row++) {
        await hosts.anew();
        const wire = tripwire();
        await using one = await openFakeWorld(hosts.host, { wrapStore: wire.wrap, qcow2 });
        wire.set(row, 'fail');
        const outcome = await ask(one, hosts.vm).then(
          () => 'done' as const,
          (error: unknown) => {
            assert.ok(error instanceof Error);
            return 'failed' as const;
          },
        );
        const reached = wire.rows() >= row;
        wire.set(null, 'fail');
        await settled(one);
        await assertNothingLeft(one);
        await assertDeletable(one);
        if (!reached) return assert.equal(outcome, 'done');
        assert.equal(outcome, 'failed', `row ${row} failed and the caller was not told`);
      }
    } finally {
      await hosts.remove();
    }
  });
}

/** Lets what goes on in the background come to its end, as the daemon's minute loop would. */
async function settled({ world }: FakeWorld): Promise<void> {
  for (let round = 0; round < 3; round++) {
    await settle(world);
    await reconcile(world);
  }
}
