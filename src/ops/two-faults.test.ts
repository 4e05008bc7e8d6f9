import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Store } from '../store/store.ts';
import type { Driver } from '../vmm/driver.ts';
import { VmmError } from '../vmm/driver.ts';
import type { Caller, Hatch } from './hatch.ts';
import { isUnmadeCopy } from './boot-vm.ts';
import { reconcile } from './reconcile.ts';
import {
  assertNothingLeft,
  makeHostFolder,
  openFakeWorld,
  over,
  type FakeWorld,
} from '../../test/support/fake-world.ts';

/** The hypervisor fails, and while that is taken back the database does too, at any one of what is asked of it. */

const READY = { until: 'ready', timeoutMs: 60_000 } as const;

class Faults {
  /** Whether the hypervisor starts nothing. */
  armed = false;
  /** How many more calls the store answers, once the hypervisor has failed, until it fails one. */
  left = Infinity;
  /** What it failed. */
  hit: string | undefined;
  #failed = false;

  driver = (driver: Driver): Driver => {
    const start =
      <A extends unknown[], R>(really: (...given: A) => Promise<R>) =>
      async (...given: A): Promise<R> => {
        if (!this.armed) return really(...given);
        this.#failed = true;
        throw new VmmError('it would not start', { kind: 'failed' });
      };
    return over(driver, {
      launch: start(driver.launch.bind(driver)),
      load: start(driver.load.bind(driver)),
    });
  };

  store = (store: Store): Store =>
    over(store, {
      operations: this.#table('operations', store.operations),
      vms: this.#table('vms', store.vms),
      layers: this.#table('layers', store.layers),
    });

  #table<T extends object>(name: string, table: T): T {
    return new Proxy(table, {
      get: (of, key) => {
        const found: unknown = Reflect.get(of, key);
        if (typeof found !== 'function') return found;
        return async (...given: unknown[]): Promise<unknown> => {
          if (this.armed && this.#failed && this.left-- === 0) {
            this.hit = `${name}.${String(key)}`;
            throw new Error('the database is gone for a moment');
          }
          return Reflect.apply(found, of, given);
        };
      },
    });
  }

  calm(): void {
    this.armed = false;
    this.#failed = false;
    this.left = Infinity;
  }
}

interface Case {
  readonly verb: string;
  readonly prepare: (world: FakeWorld) => Promise<(hatch: Hatch, caller: Caller) => Promise<unknown>>;
}

const CASES: readonly Case[] = [
  {
    verb: 'create',
    prepare: async () => (hatch, caller) => hatch.vms.create(caller, {}, READY),
  },
  {
    verb: 'copy',
    prepare: async ({ hatch, caller }) => {
      const { id } = await hatch.vms.create(caller, {}, READY);
      const snapshot = await hatch.vms.snapshot(caller, id, { keepRunning: true });
      return () => hatch.vms.create(caller, { snapshotId: snapshot.id }, READY);
    },
  },
  {
    verb: 'start',
    prepare: async ({ hatch, caller }) => {
      const { id } = await hatch.vms.create(caller, {}, READY);
      await hatch.vms.stop(caller, id, { graceSeconds: 5 });
      return () => hatch.vms.start(caller, id, READY);
    },
  },
  {
    verb: 'restore',
    prepare: async ({ hatch, caller }) => {
      const { id } = await hatch.vms.create(caller, {}, READY);
      await hatch.vms.snapshot(caller, id, { keepRunning: false });
      return () => hatch.vms.restore(caller, id, {}, READY);
    },
  },
];

for (const one of CASES)
  test(`${one.verb}: whatever of the database fails while a failed hypervisor is taken back, nothing is half there`, async (t) => {
    let hit: string | undefined = '';
    for (let call = 0; hit !== undefined; call++)
      await t.test(`call ${call}`, async () => {
        hit = await failing(one, call);
      });
  });

/** Fails that call of the store; gives which it was, or undefined when there are not so many. */
async function failing({ prepare }: Case, call: number): Promise<string | undefined> {
  const host = await makeHostFolder();
  try {
    const faults = new Faults();
    await using one = await openFakeWorld(host, { wrapDriver: faults.driver, wrapStore: faults.store });
    const { hatch, caller, world } = one;
    const ask = await prepare(one);
    faults.left = call;
    faults.armed = true;
    await assert.rejects(ask(hatch, caller));
    faults.calm();
    const after = `after a fault of ${faults.hit ?? 'nothing'}`;
    try {
      await reconcile(world);
      await assertNothingLeft(one);
      const all = await hatch.vms.list(caller, {}, { limit: 100 });
      for (const vm of all.filter(({ state }) => state !== 'running')) {
        const started = hatch.vms.start(caller, vm.id, READY);
        // It would be another VM than was asked for.
        await (isUnmadeCopy(vm) ? assert.rejects(started, /a copy that could not be made/) : started);
      }
      await assertNothingLeft(one);
      for (const { id } of all) await hatch.vms.delete(caller, id);
      await assertNothingLeft(one);
    } catch (error) {
      throw new Error(after, { cause: error });
    }
    return faults.hit;
  } finally {
    await host.remove();
  }
}
