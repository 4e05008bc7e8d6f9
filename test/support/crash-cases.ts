import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { VmId } from '../../src/base/ids.ts';
import type { Vm } from '../../src/model/vm.ts';
import { reconcile } from '../../src/ops/reconcile.ts';
import { settle } from '../../src/ops/recover.ts';
import type { Store } from '../../src/store/store.ts';
import { assertNothingLeft, makeHostFolder, openFakeWorld, over, type FakeWorld } from './fake-world.ts';

/** A verb, what it needs to be there first, and how it is asked for. */
export interface CrashCase {
  readonly verb: string;
  readonly before: 'nothing' | 'running' | 'stopped' | 'sleeping';
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
  if (before === 'sleeping') {
    await world.hatch.vms.snapshot(world.caller, vm.id, { keepRunning: false });
    return vm;
  }
  return before === 'stopped' ? world.hatch.vms.stop(world.caller, vm.id, { graceSeconds: 1 }) : vm;
}

/** Counts the journal's rows, and at the one it is set to does as told: `crash` never returns, `fail` throws. */
function tripwire(): {
  wrap: (store: Store) => Store;
  set: (at: number | null, how: 'crash' | 'fail') => void;
  rows: () => number;
  tripped: Promise<void>;
} {
  let at: number | null = null;
  let how: 'crash' | 'fail' = 'crash';
  let rows = 0;
  const { promise: tripped, resolve: trip } = Promise.withResolvers<void>();
  return {
    tripped,
    rows: () => rows,
    set: (row, kind) => {
      at = row;
      how = kind;
      rows = 0;
    },
    wrap: (store) =>
      over(store, {
        operations: over(store.operations, {
          record: async (id, step, phase) => {
            const row = await store.operations.record(id, step, phase);
            rows++;
            if (at !== null && rows === at) {
              trip();
              if (how === 'fail') throw new Error(`failed at journal row ${rows}`);
              await new Promise(() => undefined);
            }
            return row;
          },
        }),
      }),
  };
}

/** Kills a daemon after each row of a verb's journal, and fails each step before and after its effect. */
export function crashTests({ verb, before, ask }: CrashCase): void {
  test(`${verb}: killed after any row of its journal, the next start leaves nothing that should not be there`, async () => {
    for (let row = 1; ; row++) {
      const host = await makeHostFolder();
      try {
        const wire = tripwire();
        const doomed = await openFakeWorld(host, { wrapStore: wire.wrap });
        const vm = await prepare(doomed, before);
        wire.set(row, 'crash');
        const asked = ask(doomed, vm).then(() => 'done' as const);
        const outcome = await Promise.race([asked, wire.tripped.then(() => 'crashed' as const)]);
        // The dead world does nothing more: its flight hangs at the journal; only its database handle is closed.
        doomed.world.fleet.onExit = () => undefined;
        for (const live of await doomed.world.store.vms.ofHost('test-host')) doomed.world.fleet.drop(live.id);
        await doomed.world.archive.close();
        await doomed.world.store.close();

        const next = await openFakeWorld(host);
        await settled(next);
        await assertNothingLeft(next);
        // What is left can be used or taken away, whatever state it is in.
        for (const left of await next.world.store.vms.ofHost('test-host'))
          await next.hatch.vms.delete(next.caller, left.id);
        await assertNothingLeft(next);
        assert.equal((await next.world.store.vms.ofHost('test-host')).length, 0);
        await next.close();
        if (outcome === 'done') return assert.ok(row > 4, `only ${row - 1} rows were journalled`);
      } finally {
        await host.remove();
      }
    }
  });

  test(`${verb}: failing before or after any step leaves nothing that should not be there`, async () => {
    for (let row = 1; ; row++) {
      const host = await makeHostFolder();
      try {
        const wire = tripwire();
        const one = await openFakeWorld(host, { wrapStore: wire.wrap });
        const vm = await prepare(one, before);
        wire.set(row, 'fail');
        const outcome = await ask(one, vm).then(
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
        for (const left of await one.world.store.vms.ofHost('test-host'))
          await one.hatch.vms.delete(one.caller, left.id);
        await assertNothingLeft(one);
        await one.close();
        if (!reached) return assert.equal(outcome, 'done');
        assert.equal(outcome, 'failed', `row ${row} failed and the caller was not told`);
      } finally {
        await host.remove();
      }
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
