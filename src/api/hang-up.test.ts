import assert from 'node:assert/strict';
import { once } from 'node:events';
import { request } from 'node:http';
import type { Socket } from 'node:net';
import { test } from 'node:test';
import { systemClock } from '../base/clock.ts';
import { silent } from '../base/logger.ts';
import { until } from '../base/until.ts';
import type { Vm } from '../model/vm.ts';
import type { Store } from '../store/store.ts';
import { silentMeter } from './meter.ts';
import { createApi } from './server.ts';
import {
  assertNothingLeft,
  makeHostFolder,
  openFakeWorld,
  over,
  type FakeWorld,
} from '../../test/support/fake-world.ts';

/** A caller hangs up in the middle of what takes long, over HTTP to the real operations: it goes on, can be seen, and leaves nothing. */

const READY = { until: 'ready', timeoutMs: 10_000 } as const;

/** Stops the next operation at its first journal row until it is let go on. */
class Gate {
  #reached = Promise.withResolvers<void>();
  #open = Promise.withResolvers<void>();
  #shut = false;

  wrap = (store: Store): Store =>
    over(store, {
      operations: over(store.operations, {
        record: async (...row) => {
          if (this.#shut) {
            this.#shut = false;
            this.#reached.resolve();
            await this.#open.promise;
          }
          return store.operations.record(...row);
        },
      }),
    });

  shut(): void {
    this.#shut = true;
    this.#reached = Promise.withResolvers();
    this.#open = Promise.withResolvers();
  }

  reached = (): Promise<void> => this.#reached.promise;
  open = (): void => this.#open.resolve();
}

interface Hung extends FakeWorld {
  readonly vm: Vm;
  get(path: string): Promise<unknown>;
  /** Asks, hangs up once the operation is under way, and gives the VM as it is seen then. */
  hangUp(path: string, body: object): Promise<unknown>;
  /** The VM once nothing is under way. */
  settled(): Promise<Vm>;
}

async function inApi(body: (one: Hung) => Promise<void>): Promise<void> {
  const host = await makeHostFolder();
  const gate = new Gate();
  const one = await openFakeWorld(host, { wrapStore: gate.wrap });
  const app = await createApi({
    hatch: one.hatch,
    log: silent,
    clock: systemClock,
    version: '1.2.3',
    meter: silentMeter,
  });
  await app.listen({ host: '127.0.0.1', port: 0 });
  const address = app.server.address();
  assert.ok(typeof address === 'object' && address !== null);
  const { port } = address;
  const headers = { authorization: `Bearer ${one.secret}`, 'content-type': 'application/json' };
  const get = async (path: string): Promise<unknown> =>
    (await fetch(`http://127.0.0.1:${port}${path}`, { headers })).json();
  try {
    const vm = await one.hatch.vms.create(one.caller, {}, READY);
    await body({
      ...one,
      vm,
      get,
      async hangUp(path, asked) {
        gate.shut();
        // The server has seen that nobody listens any more.
        const gone = once(app.server, 'connection').then(([socket]: unknown[]) =>
          once(socket as Socket, 'close'),
        );
        const sent = request({ host: '127.0.0.1', port, method: 'POST', path, headers, agent: false });
        sent.on('error', () => undefined);
        sent.end(JSON.stringify(asked));
        await gate.reached();
        sent.destroy();
        await gone;
        const seen = await get(`/vms/${vm.id}`);
        gate.open();
        return seen;
      },
      settled: () =>
        until({ clock: systemClock, signal: AbortSignal.timeout(20_000) }, async () => {
          const now = await one.world.store.vms.get(vm.id);
          assert.ok(now);
          return now.operation === null ? now : undefined;
        }),
    });
    await assertNothingLeft(one);
  } finally {
    await app.close();
    await one.close();
    await host.remove();
  }
}

function field(of: unknown, ...names: readonly string[]): unknown {
  return names.reduce<unknown>(
    (found, name) => (typeof found === 'object' && found !== null ? Reflect.get(found, name) : undefined),
    of,
  );
}

async function kindsOf(one: Hung): Promise<readonly unknown[]> {
  const events = await one.get(`/vms/${one.vm.id}/events?limit=100`);
  assert.ok(Array.isArray(events));
  return events.map((event: unknown) => field(event, 'kind'));
}

test('who hangs up while a VM is put to sleep leaves it asleep, and while it is woken, awake', () =>
  inApi(async (one) => {
    const saving = await one.hangUp(`/vms/${one.vm.id}/snapshot`, {});
    assert.equal(field(saving, 'operation'), 'snapshotting');
    const asleep = await one.settled();
    assert.equal(asleep.state, 'snapshotted');
    const [snapshot] = await one.world.store.snapshots.ofVm(one.vm.id);
    assert.equal(snapshot?.id, asleep.snapshotId);
    await assertNothingLeft(one);

    const waking = await one.hangUp(`/vms/${one.vm.id}/restore?wait=ready`, {});
    assert.equal(field(waking, 'operation'), 'restoring');
    const awake = await one.settled();
    assert.equal(awake.state, 'running');
    const kinds = await kindsOf(one);
    assert.ok(kinds.includes('vm.snapshotted') && kinds.includes('vm.restored'), kinds.join(', '));
  }));

test('who hangs up while a VM is saved and goes on has the snapshot', () =>
  inApi(async (one) => {
    await one.hangUp(`/vms/${one.vm.id}/snapshot?wait=stored`, { keep_running: true, name: 'kept' });
    assert.equal((await one.settled()).state, 'running');
    const stored = await one.world.store.snapshots.find(one.vm.accountId, 'kept');
    assert.ok(stored);
    assert.equal((await one.hatch.snapshots.get(one.caller, 'kept', 10_000)).state, 'durable');
  }));

test('who hangs up while a VM is forked has all of the copies', () =>
  inApi(async (one) => {
    const forking = await one.hangUp(`/vms/${one.vm.id}/fork?wait=ready`, { count: 2, name: 'twin' });
    assert.equal(field(forking, 'operation'), 'forking');
    assert.equal((await one.settled()).state, 'running');
    const all = await one.get('/vms');
    assert.ok(Array.isArray(all));
    const states = all.map((vm: unknown) => [field(vm, 'name'), field(vm, 'state')]);
    assert.equal(all.length, 3, JSON.stringify(states));
    assert.ok(
      all.every((vm) => field(vm, 'state') === 'running'),
      JSON.stringify(states),
    );
  }));
