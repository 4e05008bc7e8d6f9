import assert from 'node:assert/strict';
import { randomInt } from 'node:crypto';
import { createServer } from 'node:net';
import { test } from 'node:test';
import {
  assertNothingLeft,
  makeHostFolder,
  openFakeWorld,
  over,
  type FakeWorld,
  type WorldOptions,
} from '../../test/support/fake-world.ts';
import { listening } from '../../test/support/tcp.ts';
import { systemClock } from '../base/clock.ts';
import { silent } from '../base/logger.ts';
import { openSshPorts, type OpenSshPorts } from '../gateway/ssh/ports.ts';
import type { Vm } from '../model/vm.ts';
import { VmmError } from '../vmm/driver.ts';
import { ownerOf } from './owner.ts';
import { reconcile } from './reconcile.ts';
import { carryOutStop } from './stop-vm.ts';

const READY = { until: 'ready', timeoutMs: 10_000 } as const;

interface Bench {
  /** A world on the same host as the one before, which has ended. */
  readonly open: (options?: WorldOptions) => Promise<FakeWorld & { readonly sockets: OpenSshPorts }>;
  readonly addr: string;
}

/** Worlds on one host after each other, with SSH ports that are sockets. */
async function bench(body: (bench: Bench) => Promise<void>): Promise<void> {
  const host = await makeHostFolder();
  const addr = `127.${randomInt(1, 255)}.${randomInt(1, 255)}.1`;
  const ends: (() => Promise<void>)[] = [];
  const endAll = async (): Promise<void> => {
    for (let end = ends.pop(); end; end = ends.pop()) await end();
  };
  try {
    await body({
      addr,
      open: async (options = {}) => {
        await endAll();
        const sockets = openSshPorts(
          { log: silent, clock: systemClock, visits: () => undefined, connectTimeoutMs: 1000 },
          { addr, allowedCidrs: ['127.0.0.1/32'] },
        );
        ends.push(() => sockets.closeAll());
        const fake = await openFakeWorld(host, { ...options, ports: sockets });
        ends.push(() => fake.close());
        return { ...fake, sockets };
      },
    });
  } finally {
    await endAll();
    await host.remove();
  }
}

async function stopByPolicy({ world }: FakeWorld, vm: Vm): Promise<void> {
  await world.flights.fly(
    vm.id,
    'stop',
    () => world.store.operations.begin({ id: vm.id, owner: ownerOf(vm) }, 'stop', { by: 'policy' }),
    (operation, signal) => carryOutStop(world, operation, signal),
  );
}

test('a daemon that starts listens for all VMs that run or can be woken, and for no others', () =>
  bench(async ({ open }) => {
    const first = await open();
    const { hatch, caller } = first;
    const make = (name: string): Promise<Vm> => hatch.vms.create(caller, { name }, READY);
    const [running, asleep, policy, person] = await Promise.all(
      ['running', 'asleep', 'policy', 'person'].map(make),
    );
    assert.ok(running && asleep && policy && person);
    await hatch.vms.create(caller, { name: 'alone', enableNetwork: false }, READY);
    await hatch.vms.snapshot(caller, asleep.id, { keepRunning: false });
    await hatch.vms.snapshot(caller, 'alone', { keepRunning: false });
    await stopByPolicy(first, policy);
    await hatch.vms.stop(caller, person.id, { graceSeconds: 0 });
    const wanted = [running.id, asleep.id, policy.id].sort();
    assert.deepEqual([...first.sockets.vmIds()].sort(), wanted);
    const second = await open();
    assert.deepEqual([...second.sockets.vmIds()].sort(), wanted);
    for (const { network } of [running, asleep, policy])
      assert.equal(await second.sockets.isFree(network?.sshPort ?? 0), false);
    assert.equal(await second.sockets.isFree(person.network?.sshPort ?? 0), true);
    await assertNothingLeft(second);
    await second.hatch.vms.stop(second.caller, policy.id, { graceSeconds: 0 });
    assert.equal(second.sockets.vmIds().includes(policy.id), false, 'a person stopped it, too');
    for (const { id } of [running, asleep, policy]) await second.hatch.vms.delete(second.caller, id);
    assert.deepEqual(second.sockets.vmIds(), []);
  }));

test('a port of a sleeping VM that another program took keeps no daemon from starting, and is had back when it is free', () =>
  bench(async ({ open, addr }) => {
    const { hatch, caller, sockets } = await open();
    const vm = await hatch.vms.create(caller, {}, READY);
    await hatch.vms.snapshot(caller, vm.id, { keepRunning: false });
    await sockets.close(vm.id);
    const port = vm.network?.sshPort ?? 0;
    const other = createServer();
    await listening(other, addr, port);
    const second = await open();
    assert.deepEqual(second.sockets.vmIds(), []);
    const next = await second.hatch.vms.create(second.caller, {}, READY);
    assert.notEqual(next.network?.sshPort, port, 'it is nobody else’s either');
    await new Promise((resolve) => other.close(resolve));
    await reconcile(second.world);
    await assertNothingLeft(second);
  }));

test('a wake that fails leaves the port open, also where the VM had none before; a boot that fails closes it', () =>
  bench(async ({ open }) => {
    let broken = false;
    const fail = async <T>(work: () => Promise<T>): Promise<T> => {
      if (broken) throw new VmmError('no memory left');
      return work();
    };
    const fake = await open({
      wrapDriver: (driver) =>
        over(driver, {
          load: (...how) => fail(() => driver.load(...how)),
          launch: (...how) => fail(() => driver.launch(...how)),
        }),
    });
    const { hatch, caller, sockets } = fake;
    const vm = await hatch.vms.create(caller, {}, READY);
    const { id } = await hatch.vms.snapshot(caller, vm.id, { keepRunning: false });
    broken = true;
    await assert.rejects(hatch.vms.start(caller, vm.id), /no memory left/);
    assert.deepEqual(sockets.vmIds(), [vm.id]);
    broken = false;
    await hatch.vms.start(caller, vm.id);
    await hatch.vms.stop(caller, vm.id, { graceSeconds: 0 });
    assert.deepEqual(sockets.vmIds(), []);
    broken = true;
    await assert.rejects(hatch.vms.restore(caller, vm.id, { snapshot: id, discard: true }), /no memory left/);
    assert.equal((await hatch.vms.get(caller, vm.id)).state, 'snapshotted');
    assert.deepEqual(sockets.vmIds(), [vm.id]);
    broken = false;
    await hatch.vms.start(caller, vm.id);
    await stopByPolicy(fake, vm);
    assert.deepEqual(sockets.vmIds(), [vm.id]);
    broken = true;
    await assert.rejects(hatch.vms.start(caller, vm.id), /no memory left/);
    assert.equal((await hatch.vms.get(caller, vm.id)).state, 'error');
    assert.deepEqual(sockets.vmIds(), []);
    await assertNothingLeft(fake);
  }));
