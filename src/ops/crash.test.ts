import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { VmId } from '../base/ids.ts';
import type { Vm } from '../model/vm.ts';
import type { Store } from '../store/store.ts';
import { reconcile } from './reconcile.ts';
import { settle } from './recover.ts';
import {
  assertNothingLeft,
  makeHostFolder,
  openFakeWorld,
  over,
  type FakeWorld,
} from '../../test/support/fake-world.ts';

/** Each verb, what it needs to be there first, and how it is asked for. */
const VERBS: readonly {
  readonly verb: string;
  readonly before: 'nothing' | 'running' | 'stopped';
  readonly ask: (world: FakeWorld, vm: Vm | undefined) => Promise<unknown>;
}[] = [
  { verb: 'create', before: 'nothing', ask: ({ hatch, caller }) => hatch.vms.create(caller, {}) },
  {
    verb: 'create without a network',
    before: 'nothing',
    ask: ({ hatch, caller }) => hatch.vms.create(caller, { enableNetwork: false }),
  },
  { verb: 'start', before: 'stopped', ask: ({ hatch, caller }, vm) => hatch.vms.start(caller, idOf(vm)) },
  {
    verb: 'stop',
    before: 'running',
    ask: ({ hatch, caller }, vm) => hatch.vms.stop(caller, idOf(vm), { graceSeconds: 1 }),
  },
  { verb: 'reboot', before: 'running', ask: ({ hatch, caller }, vm) => hatch.vms.reboot(caller, idOf(vm)) },
  {
    verb: 'delete running',
    before: 'running',
    ask: ({ hatch, caller }, vm) => hatch.vms.delete(caller, idOf(vm)),
  },
  {
    verb: 'delete stopped',
    before: 'stopped',
    ask: ({ hatch, caller }, vm) => hatch.vms.delete(caller, idOf(vm)),
  },
];

function idOf(vm: Vm | undefined): VmId {
  assert.ok(vm);
  return vm.id;
}

async function prepare(world: FakeWorld, before: 'nothing' | 'running' | 'stopped'): Promise<Vm | undefined> {
  if (before === 'nothing') return undefined;
  const vm = await world.hatch.vms.create(world.caller, {}, { until: 'ready', timeoutMs: 10_000 });
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

for (const { verb, before, ask } of VERBS) {
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
