import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Failure } from '../model/failure.ts';
import { makeHostFolder, openFakeWorld, over, type FakeWorld } from '../../test/support/fake-world.ts';

const READY = { until: 'ready', timeoutMs: 10_000 } as const;

async function inWorld(
  options: Parameters<typeof openFakeWorld>[1],
  body: (world: FakeWorld) => Promise<void>,
): Promise<void> {
  const host = await makeHostFolder();
  try {
    const one = await openFakeWorld(host, options);
    try {
      await body(one);
    } finally {
      await one.close();
    }
  } finally {
    await host.remove();
  }
}

test('an answer that waits for the durable copy comes when it is there', () =>
  inWorld({}, async ({ hatch, caller }) => {
    const vm = await hatch.vms.create(caller, {}, READY);
    const snapshot = await hatch.vms.snapshot(caller, vm.id, { keepRunning: true, storedWithinMs: 10_000 });
    assert.equal(snapshot.state, 'durable');
    assert.ok((snapshot.storedBytes ?? 0) > 0);
    assert.equal((await hatch.snapshots.get(caller, snapshot.id, 10_000)).state, 'durable');
    assert.equal(hatch.snapshots.transfer(snapshot.id), undefined);
  }));

test('when the store does not take it in time the wait ends, the bytes on their way show, and it is stored later', async () => {
  const { promise: open, resolve: letIn } = Promise.withResolvers<void>();
  const { promise: knocked, resolve: knock } = Promise.withResolvers<void>();
  await inWorld(
    {
      wrapHome: (home) =>
        over(home, {
          put: async (...put) => {
            knock();
            await open;
            return home.put(...put);
          },
        }),
    },
    async ({ hatch, caller }) => {
      const vm = await hatch.vms.create(caller, {}, READY);
      await assert.rejects(
        hatch.vms.snapshot(caller, vm.id, { keepRunning: false, storedWithinMs: 300 }),
        (error: unknown) => {
          assert.ok(error instanceof Failure);
          assert.equal(error.code, 'timeout');
          assert.match(error.message, /was not stored within 0.3 s; it is whole on its host/);
          return true;
        },
      );
      await knocked;
      const [snapshot] = await hatch.snapshots.list(caller, { vm: vm.id }, { limit: 10 });
      assert.ok(snapshot);
      assert.equal(snapshot.state, 'uploading');
      const transfer = hatch.snapshots.transfer(snapshot.id);
      assert.equal(transfer?.what, 'store');
      assert.ok(transfer.total > 0);
      letIn();
      assert.equal((await hatch.snapshots.get(caller, snapshot.id, 10_000)).state, 'durable');
    },
  );
});
