import assert from 'node:assert/strict';
import { readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import {
  assertNothingLeft,
  makeHostFolder,
  openFakeWorld,
  over,
  type FakeWorld,
} from '../../test/support/fake-world.ts';
import type { Store } from '../store/store.ts';
import { VmmError, type Driver, type Machine } from '../vmm/driver.ts';
import { settle } from './recover.ts';

/**
 * A hypervisor whose guests on a private map have their memory only in what is saved of them, as QEMU's do: loaded from there they have
 * a file of their own again.
 */
function mapping(driver: Driver): Driver {
  const inState = (one: Machine): Machine =>
    over(one, {
      save: async ({ statePath, memoryPath }) => {
        const saved = await one.save({ statePath, memoryPath });
        const [state, memory] = await Promise.all(
          [statePath, memoryPath].map((path) => readFile(path, 'utf8')),
        );
        await writeFile(statePath, JSON.stringify({ state, memory }));
        await rm(memoryPath);
        return { ...saved, memoryPath: null };
      },
    });
  return over(driver, {
    capabilities: { ...driver.capabilities, ramFile: true },
    load: async (spec, saved, options, signal) => {
      if (saved.memoryPath !== null) return inState(await driver.load(spec, saved, options, signal));
      const whole = JSON.parse(await readFile(saved.statePath, 'utf8')) as Readonly<Record<string, unknown>>;
      const ramFile = join(spec.folder, 'mem.bin');
      await rm(ramFile, { force: true });
      if (typeof whole['state'] !== 'string' || typeof whole['memory'] !== 'string')
        throw new VmmError('there is no memory in this state');
      const statePath = join(spec.folder, 'state.part');
      await writeFile(statePath, whole['state']);
      await writeFile(ramFile, whole['memory']);
      const one = await driver.load(spec, { ...saved, statePath, memoryPath: ramFile }, options, signal);
      await rm(statePath);
      return over(one, { ramFile, save: (to) => one.save({ ...to, memoryPath: ramFile }) });
    },
  });
}

/** Stops for good where an operation notes that its memory has a file: `before` that is written down, or `after`. */
function stoppedAtTheNote(when: 'before' | 'after'): {
  readonly wrap: (store: Store) => Store;
  readonly arm: () => void;
  readonly reached: Promise<void>;
} {
  const { promise: reached, resolve } = Promise.withResolvers<void>();
  let armed = false;
  return {
    reached,
    arm: () => {
      armed = true;
    },
    wrap: (store) =>
      over(store, {
        operations: over(store.operations, {
          setArgs: async (id, args) => {
            const { saved } = args;
            const noted =
              typeof saved === 'object' && saved !== null && 'memoryPath' in saved && saved.memoryPath;
            const here = armed && Boolean(noted);
            if (!here || when === 'after') await store.operations.setArgs(id, args);
            if (!here) return;
            resolve();
            await new Promise(() => undefined);
          },
        }),
      }),
  };
}

async function wordIn({ hatch, caller }: FakeWorld, vm: string): Promise<string> {
  const exec = { command: ['cat', '/word'], cwd: null, env: {}, stdin: null, timeoutMs: 5000 };
  return (await hatch.vms.exec(caller, vm, exec)).stdout.trim();
}

for (const when of ['before', 'after'] as const) {
  test(`a guest on a private map keeps its memory, killed ${when} it is noted that that has a file again`, async () => {
    const host = await makeHostFolder();
    try {
      const stop = stoppedAtTheNote(when);
      const doomed = await openFakeWorld(host, { wrapDriver: mapping, wrapStore: stop.wrap });
      const { hatch, caller } = doomed;
      const { id } = await hatch.vms.create(caller, {}, { until: 'ready', timeoutMs: 10_000 });
      await hatch.vms.snapshot(caller, id, { keepRunning: false });
      await hatch.vms.restore(caller, id, {}, { until: 'ready', timeoutMs: 10_000 });
      await hatch.vms.exec(caller, id, {
        command: 'echo kept > /word',
        cwd: null,
        env: {},
        stdin: null,
        timeoutMs: 5000,
      });
      stop.arm();
      hatch.vms.snapshot(caller, id, { keepRunning: false }).catch(() => undefined);
      await stop.reached;
      doomed.world.fleet.onExit = () => undefined;
      doomed.world.fleet.drop(id);
      await doomed.world.archive.close();
      await doomed.world.store.close();

      await using next = await openFakeWorld(host, { wrapDriver: mapping });
      await settle(next.world);
      assert.equal((await next.world.store.vms.get(id))?.state, 'snapshotted');
      await next.hatch.vms.restore(next.caller, id, {}, { until: 'ready', timeoutMs: 10_000 });
      assert.equal(await wordIn(next, id), 'kept');
      await assertNothingLeft(next);
    } finally {
      await host.remove();
    }
  });
}
