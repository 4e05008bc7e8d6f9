import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { Failure } from '../model/failure.ts';
import type { Vm } from '../model/vm.ts';
import { readFakeHost } from '../net/fake.ts';
import { VmmError, type Driver, type Machine } from '../vmm/driver.ts';
import { endFakeGuest } from '../vmm/fake/state.ts';
import {
  assertNothingLeft,
  makeHostFolder,
  openFakeWorld,
  over,
  type FakeHostFolder,
  type FakeWorld,
  type WorldOptions,
} from '../../test/support/fake-world.ts';

/** The hypervisor or the guest fail in the middle of a save, a wake or a copy: what is left is whole, and the error says what to do. */

const READY = { until: 'ready', timeoutMs: 10_000 } as const;
const SHORT = { agentMs: 100, wordMs: 100, identityMs: 200 };

/** How machines fare that a driver makes; changed while it is in use. */
interface Fate {
  pause?: (machine: Machine, host: FakeHostFolder) => Promise<void>;
  save?: (
    machine: Machine,
    host: FakeHostFolder,
    to: { readonly statePath: string; readonly memoryPath: string },
  ) => Promise<never>;
  afterSave?: (machine: Machine, host: FakeHostFolder) => Promise<void>;
  afterLoad?: (machine: Machine, host: FakeHostFolder) => Promise<void>;
  load?: VmmError;
  /** Whose agents are not heard. */
  silent?: boolean;
  switchDisk?: (machine: Machine, host: FakeHostFolder) => Promise<void>;
}

/** Where an agent does not outlast a pause, a VM that goes on is woken from what was saved of it. */
const DEAF = { resumeKeepsAgent: false };

const die = ({ vmId }: Machine, host: FakeHostFolder): Promise<void> =>
  endFakeGuest(join(host.vms, vmId), {
    kind: 'crashed',
    exitCode: null,
    signal: 'SIGKILL',
    message: 'killed',
  });

function fated(
  driver: Driver,
  fate: Fate,
  host: FakeHostFolder,
  can: Partial<Driver['capabilities']>,
): Driver {
  const machine = (one: Machine): Machine =>
    over(one, {
      pause: async () => {
        await one.pause();
        await fate.pause?.(one, host);
      },
      save: async (to) => {
        if (fate.save) return fate.save(one, host, to);
        const saved = await one.save(to);
        await fate.afterSave?.(one, host);
        return saved;
      },
      saveRunning: async (to, still) => {
        if (fate.pause) await one.pause();
        await fate.pause?.(one, host);
        if (fate.save) return fate.save(one, host, to);
        return one.saveRunning(to, async () => {
          await fate.afterSave?.(one, host);
          await still();
        });
      },
      switchDisk: async (overlay) => {
        await fate.switchDisk?.(one, host);
        await one.switchDisk(overlay);
      },
      agent: (signal) =>
        fate.silent === true
          ? new Promise((_, reject) => signal.addEventListener('abort', () => reject(new Error('gave up'))))
          : one.agent(signal),
    });
  return over(driver, {
    capabilities: { ...driver.capabilities, ...can },
    launch: async (...how) => machine(await driver.launch(...how)),
    load: async (...how) => {
      if (fate.load) throw fate.load;
      const made = await driver.load(...how);
      await fate.afterLoad?.(made, host);
      return machine(made);
    },
  });
}

/** A ready VM in a world whose machines fare as `fate` says; nothing may be left there that no row names. */
async function faulty(
  body: (
    one: FakeWorld & { readonly vm: Vm; readonly fate: Fate; readonly host: FakeHostFolder },
  ) => Promise<void>,
  options: WorldOptions = {},
  can: Partial<Driver['capabilities']> = {},
): Promise<void> {
  const host = await makeHostFolder();
  try {
    const fate: Fate = {};
    await using one = await openFakeWorld(host, {
      ...options,
      patience: SHORT,
      wrapDriver: (driver) => fated(driver, fate, host, can),
    });
    const vm = await one.hatch.vms.create(one.caller, {}, READY);
    await body({ ...one, vm, fate, host });
    await assertNothingLeft(one);
    await one.hatch.vms.delete(one.caller, vm.id);
    for (const left of await one.hatch.vms.list(one.caller, {}, { limit: 100 }))
      await one.hatch.vms.delete(one.caller, left.id);
    assert.deepEqual(await one.hatch.snapshots.list(one.caller, {}, { limit: 10 }), []);
    await assertNothingLeft(one);
  } finally {
    await host.remove();
  }
}

async function refusal(call: Promise<unknown>): Promise<Failure> {
  const error: unknown = await call.then(
    () => assert.fail('was not refused'),
    (thrown: unknown) => thrown,
  );
  assert.ok(error instanceof Failure, String(error));
  return error;
}

/** Waits until nothing is under way on the VM and it is in this state. */
async function becomes({ world, hatch, caller }: FakeWorld, id: Vm['id'], state: Vm['state']): Promise<Vm> {
  for (;;) {
    const vm = await hatch.vms.get(caller, id);
    if (vm.state === state && vm.operation === null && !world.flights.has(id)) return vm;
    await new Promise<void>((resolve) => setImmediate(resolve));
  }
}

for (const [when, fate] of [
  ['in the pause', { pause: die }],
  [
    'during the save',
    {
      save: async (machine, host, { statePath }) => {
        await writeFile(statePath, 'half');
        await die(machine, host);
        throw new VmmError('the process ended while it saved');
      },
    },
  ],
] satisfies readonly (readonly [string, Fate])[]) {
  for (const keepRunning of [false, true]) {
    test(`a hypervisor that dies ${when}${keepRunning ? ' of a VM that was to run on' : ''} leaves no snapshot, and a VM that starts again`, () =>
      faulty(async (one) => {
        Object.assign(one.fate, fate);
        const failure = await refusal(one.hatch.vms.snapshot(one.caller, one.vm.id, { keepRunning }));
        assert.equal(failure.code, 'vmm_failed');
        assert.match(
          failure.message,
          /could not be saved, and its guest ended; start the VM again, its disk is as it was:/,
        );
        const dead = await becomes(one, one.vm.id, 'error');
        assert.equal(dead.stateReason?.code, 'vmm_died', JSON.stringify(dead.stateReason));
        assert.deepEqual(await one.hatch.snapshots.list(one.caller, {}, { limit: 10 }), []);
        await assertNothingLeft(one);
        delete one.fate.pause;
        delete one.fate.save;
        assert.equal((await one.hatch.vms.start(one.caller, one.vm.id)).state, 'running');
        await one.hatch.vms.snapshot(one.caller, one.vm.id, { keepRunning });
      }));
  }
}

for (const [when, fate] of [
  ['right after it saved', { afterSave: die }],
  ['where its guest is given an overlay', { switchDisk: die }],
] satisfies readonly (readonly [string, Fate])[]) {
  test(`a hypervisor that dies ${when}, while its guest was to go on in it, leaves no snapshot, and a VM that starts again`, () =>
    faulty(
      async (one) => {
        Object.assign(one.fate, fate);
        const failure = await refusal(one.hatch.vms.snapshot(one.caller, one.vm.id, { keepRunning: true }));
        assert.match(failure.message, /could not be saved, and its guest ended; start the VM again/);
        await becomes(one, one.vm.id, 'error');
        assert.deepEqual(await one.hatch.snapshots.list(one.caller, {}, { limit: 10 }), []);
        await assertNothingLeft(one);
        for (const key of Object.keys(fate)) Reflect.deleteProperty(one.fate, key);
        assert.equal((await one.hatch.vms.start(one.caller, one.vm.id)).state, 'running');
        await one.hatch.vms.snapshot(one.caller, one.vm.id, { keepRunning: true });
      },
      { qcow2: true },
    ));
}

test('a disk that cannot be laid out while a guest runs leaves no snapshot, and the guest runs on', () =>
  faulty(async (one) => {
    const { files } = one.world;
    const copyDisk = files.copyDisk.bind(files);
    files.copyDisk = async ({ to }) => {
      await writeFile(to, 'half');
      throw Object.assign(new Error('no space left on device'), { code: 'ENOSPC' });
    };
    const failure = await refusal(one.hatch.vms.snapshot(one.caller, one.vm.id, { keepRunning: true }));
    assert.equal(failure.code, 'no_space');
    assert.match(failure.message, /could not be saved, and runs on: The host's disk is full/);
    await assertNothingLeft(one);
    files.copyDisk = copyDisk;
    await one.hatch.vms.snapshot(one.caller, one.vm.id, { keepRunning: true });
  }));

for (const keepRunning of [false, true]) {
  test(`a hypervisor that dies right after it saved has done its work: ${keepRunning ? 'the VM runs on' : 'the VM sleeps'}`, () =>
    faulty(
      async (one) => {
        one.fate.afterSave = die;
        const snapshot = await one.hatch.vms.snapshot(one.caller, one.vm.id, { keepRunning });
        assert.equal(snapshot.vmId, one.vm.id);
        await becomes(one, one.vm.id, keepRunning ? 'running' : 'snapshotted');
        await assertNothingLeft(one);
        assert.equal((await one.hatch.vms.restore(one.caller, one.vm.id, {})).state, 'running');
      },
      {},
      DEAF,
    ));
}

for (const [what, change, code] of [
  ['a hypervisor that refuses to load', { load: new VmmError('it does not load') }, 'vmm_failed'],
  [
    'a hypervisor that cannot load this',
    { load: new VmmError('a state of another machine type', { kind: 'incompatible' }) },
    'incompatible_snapshot',
  ],
  ['a hypervisor that dies while it is woken', { afterLoad: die }, 'vmm_failed'],
  ['a full disk', { load: new VmmError('no room', { kind: 'no_space' }) }, 'no_space'],
] satisfies readonly (readonly [string, Fate, string])[]) {
  test(`${what}: a restore leaves the VM asleep as it was, with the reason, and the next one works`, () =>
    faulty(async (one) => {
      const snapshot = await one.hatch.vms.snapshot(one.caller, one.vm.id, { keepRunning: false });
      Object.assign(one.fate, change);
      const failure = await refusal(one.hatch.vms.restore(one.caller, one.vm.id, {}));
      assert.equal(failure.code, code);
      const asleep = await becomes(one, one.vm.id, 'snapshotted');
      assert.equal(asleep.snapshotId, snapshot.id);
      assert.match(asleep.stateReason?.message ?? '', /^It could not wake: /);
      await assertNothingLeft(one);
      for (const key of Object.keys(change)) Reflect.deleteProperty(one.fate, key);
      assert.equal((await one.hatch.vms.restore(one.caller, one.vm.id, {}, READY)).state, 'running');
    }));

  test(`${what}: a VM that was to run on sleeps as what was saved, and the error says how to go on`, () =>
    faulty(
      async (one) => {
        Object.assign(one.fate, change);
        const failure = await refusal(one.hatch.vms.snapshot(one.caller, one.vm.id, { keepRunning: true }));
        assert.equal(failure.code, code);
        assert.match(
          failure.message,
          /was saved as snap-\w+, and could not go on: .* It sleeps; start it again\.$/,
        );
        const asleep = await becomes(one, one.vm.id, 'snapshotted');
        assert.equal(asleep.snapshotId, failure.details['snapshot_id']);
        await assertNothingLeft(one);
        for (const key of Object.keys(change)) Reflect.deleteProperty(one.fate, key);
        assert.equal((await one.hatch.vms.start(one.caller, one.vm.id, READY)).state, 'running');
      },
      {},
      DEAF,
    ));

  test(`${what}: a fork of a sleeping VM is taken back, and the VM sleeps on`, () =>
    faulty(async (one) => {
      await one.hatch.vms.snapshot(one.caller, one.vm.id, { keepRunning: false });
      Object.assign(one.fate, change);
      const failure = await refusal(
        one.hatch.vms.fork(one.caller, one.vm.id, { count: 2, keepRunning: true }),
      );
      assert.equal(failure.code, code);
      assert.match(failure.message, /^Of 2 copies 2 could not be made: /);
      await becomes(one, one.vm.id, 'snapshotted');
      assert.deepEqual((await readFakeHost(one.host.net)).taps, {});
      await assertNothingLeft(one);
    }));
}

for (const [file, part] of [
  ['the state', 'statePath'],
  ['the memory', 'memoryPath'],
] as const) {
  test(`a disk that is full at ${file} leaves no snapshot; the VM runs on, and is saved once there is room`, () =>
    faulty(async (one) => {
      one.fate.save = async (_machine, _host, to) => {
        for (const path of part === 'statePath' ? [to.statePath] : [to.statePath, to.memoryPath])
          await writeFile(path, 'half');
        throw new VmmError('the disk is full', { kind: 'no_space' });
      };
      for (const keepRunning of [false, true]) {
        const failure = await refusal(one.hatch.vms.snapshot(one.caller, one.vm.id, { keepRunning }));
        assert.equal(failure.code, 'no_space');
        assert.match(failure.message, /could not be saved, and runs on: The host's disk is full. Remove /);
        await assertNothingLeft(one);
      }
      const failure = await refusal(
        one.hatch.vms.fork(one.caller, one.vm.id, { count: 1, keepRunning: true }),
      );
      assert.equal(failure.code, 'no_space');
      assert.equal((await one.hatch.vms.get(one.caller, one.vm.id)).state, 'running');
      assert.deepEqual(await one.hatch.snapshots.list(one.caller, {}, { limit: 10 }), []);
      delete one.fate.save;
      await one.hatch.vms.snapshot(one.caller, one.vm.id, { keepRunning: true });
    }));
}

test('a disk that is full at the overlay leaves a VM asleep as what was saved, makes no copy, and is no matter once there is room', () =>
  faulty(
    async (one) => {
      const { files } = one.world;
      const makeDiskOn = files.makeDiskOn.bind(files);
      files.makeDiskOn = async ({ folder }) => {
        await writeFile(join(folder, 'disk.raw'), 'half');
        throw Object.assign(new Error('no space left on device'), { code: 'ENOSPC' });
      };
      const kept = await refusal(one.hatch.vms.snapshot(one.caller, one.vm.id, { keepRunning: true }));
      assert.equal(kept.code, 'no_space');
      assert.match(kept.message, /could not go on: The host's disk is full.*It sleeps; start it again/);
      const woken = await refusal(one.hatch.vms.restore(one.caller, one.vm.id, {}));
      assert.equal(woken.code, 'no_space');
      const copied = await refusal(
        one.hatch.vms.fork(one.caller, one.vm.id, { count: 2, keepRunning: true }),
      );
      assert.equal(copied.code, 'no_space');
      assert.match(copied.message, /^Of 2 copies 2 could not be made: The host's disk is full/);
      await assertNothingLeft(one);
      files.makeDiskOn = makeDiskOn;
      assert.equal((await one.hatch.vms.restore(one.caller, one.vm.id, {}, READY)).state, 'running');
    },
    {},
    DEAF,
  ));

test('a copy whose guest does not hear is taken back and never joins the bridge; its source runs', () =>
  faulty(async (one) => {
    const joined: string[] = [];
    const setJoined = one.world.net.setJoined.bind(one.world.net);
    one.world.net.setJoined = (id, yes) => {
      if (yes) joined.push(id);
      return setJoined(id, yes);
    };
    one.fate.afterLoad = async ({ vmId }) => {
      // Of all that are loaded only the source is heard, which goes on from what was saved.
      one.fate.silent = vmId !== one.vm.id;
    };
    const failure = await refusal(one.hatch.vms.fork(one.caller, one.vm.id, { count: 1, keepRunning: true }));
    assert.equal(failure.code, 'timeout');
    assert.deepEqual(joined, []);
    await becomes(one, one.vm.id, 'running');
    assert.deepEqual(Object.keys((await readFakeHost(one.host.net)).taps), [one.vm.id]);
  }));

test('a fork of a guest that does not hear is refused before it stands still', () =>
  faulty(async (one) => {
    one.fate.silent = true;
    one.fate.pause = () => assert.fail('it was paused');
    const mute = await one.hatch.vms.create(one.caller, {});
    const failure = await refusal(one.hatch.vms.fork(one.caller, mute.id, { count: 1, keepRunning: true }));
    assert.equal(failure.code, 'no_guest_agent');
    assert.match(failure.message, /does not answer: a copy could not be given an identity/);
  }));

test('a guest that does not hear when it is woken goes on all the same', () =>
  faulty(async (one) => {
    await one.hatch.vms.snapshot(one.caller, one.vm.id, { keepRunning: false });
    one.fate.silent = true;
    assert.equal((await one.hatch.vms.restore(one.caller, one.vm.id, {})).state, 'running');
  }));
