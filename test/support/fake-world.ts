import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import assert from 'node:assert/strict';
import { systemClock, type Clock } from '../../src/base/clock.ts';
import { parseImageId, type VmId } from '../../src/base/ids.ts';
import { silent } from '../../src/base/logger.ts';
import { openAgent } from '../../src/guest/agent-client.ts';
import { fakeGuestFiles, type FailingFile } from '../../src/guest/fake-files.ts';
import { openSavedDisks } from '../../src/guest/saved-disk/inside.ts';
import { waitReady } from '../../src/guest/readiness.ts';
import { exists } from '../../src/host/files.ts';
import { run } from '../../src/host/run.ts';
import { DEFAULT_IDLE } from '../../src/model/create-request.ts';
import { planAddresses } from '../../src/model/cidr.ts';
import { SCOPES } from '../../src/model/records.ts';
import { openFakeNetwork, type FakeFailures } from '../../src/net/fake.ts';
import { addKey, ensureDefaultAccount } from '../../src/ops/accounts.ts';
import { openArchive } from '../../src/ops/archive/open-archive.ts';
import { ActivityTracker } from '../../src/ops/activity.ts';
import { autostart } from '../../src/ops/autostart.ts';
import { Fleet } from '../../src/ops/fleet.ts';
import { Flights } from '../../src/ops/flights.ts';
import { Muster } from '../../src/ops/muster.ts';
import type { Caller, Hatch, SshPorts } from '../../src/ops/hatch.ts';
import { openHatch } from '../../src/ops/open-hatch.ts';
import { reconcile } from '../../src/ops/reconcile.ts';
import { recover, settle } from '../../src/ops/recover.ts';
import { RouteBook } from '../../src/ops/route-book.ts';
import { Room } from '../../src/ops/room.ts';
import { Sleeper } from '../../src/ops/sleeper.ts';
import { Waker } from '../../src/ops/waker.ts';
import { PATIENCE, type Patience, type World } from '../../src/ops/world.ts';
import { openFolderHome } from '../../src/store/blobs/folder-home.ts';
import { MOST_THREADS } from '../../src/store/blobs/open.ts';
import { ThreadPool } from '../../src/store/blobs/threads/pool.ts';
import type { MasterKey } from '../../src/store/blobs/keys.ts';
import type { BlobHome } from '../../src/store/blobs/home.ts';
import { openStore } from '../../src/store/db/open.ts';
import type { Store } from '../../src/store/store.ts';
import type { Driver } from '../../src/vmm/driver.ts';
import { FAKE_BOOT_ID, openFake, type FakeVmmFailures } from '../../src/vmm/fake/driver.ts';

/** One for all worlds of a process, as many as each would have: to start a thread takes longer than most of what it is asked here. */
const THREADS = new ThreadPool(Math.min(MOST_THREADS, availableParallelism()));

/** A host of its own in a folder, with fakes that keep their state there: a world that dies leaves what it made. */
export interface FakeHostFolder {
  readonly root: string;
  readonly vms: string;
  readonly net: string;
  remove(): Promise<void>;
}

/** In memory where Linux has room for that: what a test keeps need not outlast a power cut, and is not waited for. */
export async function makeHostFolder(): Promise<FakeHostFolder> {
  const root = await mkdtemp(join((await exists('/dev/shm')) ? '/dev/shm' : tmpdir(), 'hatch-ops-'));
  return {
    root,
    vms: join(root, 'vms'),
    net: join(root, 'net'),
    // A guest in it may still be writing its last word.
    remove: () => rm(root, { recursive: true, force: true, maxRetries: 5 }),
  };
}

export interface WorldOptions {
  readonly wrapStore?: (store: Store) => Store;
  /** Another than before: the host was rebooted meanwhile. */
  readonly bootId?: string;
  readonly wrapHome?: (home: BlobHome) => BlobHome;
  readonly wrapDriver?: (driver: Driver) => Driver;
  readonly vmm?: FakeVmmFailures;
  readonly patience?: Patience;
  /** What the archive waits by. */
  readonly archiveClock?: Clock;
  readonly net?: FakeFailures;
  /** SSH ports with sockets. */
  readonly ports?: SshPorts;
  readonly files?: FailingFile;
  /** Whether the hypervisor takes overlays for disks. */
  readonly qcow2?: boolean;
  readonly limits?: World['settings']['limits'];
  readonly cidr?: string;
  /** What happens to VMs nobody uses. */
  readonly idle?: World['settings']['idle'];
  /** What the use of VMs is measured by. */
  readonly activityClock?: Clock;
  /** Most memory of running guests, in MiB; no limit unless said. */
  readonly memoryBudgetMib?: number;
  readonly sleepsAtOnce?: number;
  /** What stored snapshots are encrypted with. */
  readonly master?: MasterKey;
  /** Another host beside the first: its name, the first one's store, and where its snapshots are stored. */
  readonly beside?: { readonly hostId: string; readonly first: FakeWorld; readonly snapshots: string };
}

/** A daemon's world without a daemon: everything real but hypervisor, network and guest files. */
export interface FakeWorld {
  readonly world: World;
  readonly hatch: Hatch;
  readonly sleeper: Sleeper;
  readonly caller: Caller;
  /** The key the caller shows to the API. */
  readonly secret: string;
  close(): Promise<void>;
  [Symbol.asyncDispose](): Promise<void>;
}

/** Opens a world over a host folder, recovers what an earlier one left, and lets operations begin. */
export async function openFakeWorld(host: FakeHostFolder, options: WorldOptions = {}): Promise<FakeWorld> {
  const wrap = options.wrapStore ?? ((store: Store) => store);
  const { beside } = options;
  const hostId = beside?.hostId ?? 'test-host';
  const store =
    beside?.first.world.store ??
    wrap(await openStore(`sqlite:${join(host.root, 'hatch.db')}`, { clock: systemClock, log: silent }));
  await store.hosts.register({ id: hostId, bootId: 'test-boot' });
  const { account } = await ensureDefaultAccount({ store });
  const { key, secret } = await addKey({ store }, account.id, 'test', SCOPES);
  const wrapDriver = options.wrapDriver ?? ((driver: Driver) => driver);
  const driver = wrapDriver(
    openFake({ folder: host.vms, fail: options.vmm ?? {}, qcow2: options.qcow2 ?? false }),
  );
  const net = openFakeNetwork({ folder: host.net }, { fail: options.net ?? {} });
  const ports = options.ports ?? memoryPorts();
  const fleet = new Fleet({
    clock: systemClock,
    log: silent,
    openAgent: (machine) =>
      openAgent({ connect: (signal) => machine.agent(signal), clock: systemClock, log: silent }),
    waitReady: (_vm, agent, signal) => waitReady({ agent, clock: systemClock }, signal),
  });
  const settings: World['settings'] = {
    hostId,
    bootId: options.bootId ?? FAKE_BOOT_ID,
    vmsFolder: host.vms,
    layersFolder: join(host.root, 'layers'),
    imagesFolder: join(host.root, 'images'),
    imageDirs: [],
    plan: planAddresses(options.cidr ?? '192.168.241.1/24'),
    sshPortMin: 2200,
    sshPortMax: 2209,
    proxy: { scheme: 'http', port: 9090, baseDomain: 'hatch.localhost' },
    defaultVcpuCount: 1,
    defaultMemMib: 512,
    idle: options.idle ?? DEFAULT_IDLE,
    defaultBootArgs: null,
    limits: options.limits ?? { vms: 50, vcpus: null, memMib: null },
    maxSnapshotsPerVm: 10,
    sharedAccountId: account.id,
  };
  const files = fakeGuestFiles(options.files);
  const archive = openArchive({
    store,
    settings,
    files,
    clock: options.archiveClock ?? systemClock,
    log: silent,
    home: (options.wrapHome ?? ((home) => home))(
      await openFolderHome(beside?.snapshots ?? join(host.root, 'snapshots')),
    ),
    spoolFolder: join(host.root, 'spool'),
    master: options.master,
    pool: THREADS,
  });
  const world: World = {
    patience: options.patience ?? PATIENCE,
    store,
    driver,
    net,
    ports,
    files,
    fleet,
    flights: new Flights({ operations: store.operations, log: silent }),
    muster: new Muster(),
    clock: systemClock,
    log: silent,
    archive,
    activity: new ActivityTracker({ clock: options.activityClock ?? systemClock }),
    routeBook: new RouteBook({ store, clock: systemClock }),
    room: new Room({
      budgetMib: options.memoryBudgetMib ?? null,
      clock: options.activityClock ?? systemClock,
    }),
    disks: openSavedDisks({ run, tmp: host.root }),
    settings,
    findDefaultImage: async () => undefined,
  };
  const id = parseImageId('img-default');
  assert.ok(id);
  await mkdir(settings.imagesFolder, { recursive: true });
  const kernelPath = join(settings.imagesFolder, 'kernel');
  await writeFile(kernelPath, 'a pretended kernel');
  await store.images.put({
    accountId: account.id,
    id,
    kernelPath,
    vmlinuxPath: null,
    initrdPath: null,
    rootfsPath: '/images/rootfs',
    rootfsFormat: 'raw',
    bootArgs: null,
    defaultUser: 'debian',
    agent: true,
    sizeBytes: 2 * 1024 ** 3,
    sha256: null,
  });
  const registry = {
    register: async () => assert.fail('not in these tests'),
    forget: async () => undefined,
    sha256: async () => null,
  };
  const sleeper = new Sleeper(world, {
    clock: options.activityClock ?? systemClock,
    sleepsAtOnce: options.sleepsAtOnce ?? 2,
  });
  const hatch = openHatch(world, registry, async () => [], new Waker(world), sleeper);
  const { signal } = new AbortController();
  const startAgain = await recover(world, signal);
  world.flights.open();
  await settle(world);
  await reconcile(world);
  await autostart(world, startAgain, signal);
  const close = async (): Promise<void> => {
    await world.flights.close();
    await archive.close();
    await fleet.releaseAll();
    await net.release();
    if (!beside) await store.close();
  };
  return {
    world,
    hatch,
    sleeper,
    caller: { accountId: account.id, keyId: key.id, scopes: new Set(SCOPES) },
    secret,
    close,
    [Symbol.asyncDispose]: close,
  };
}

/** SSH ports without sockets. */
function memoryPorts(): SshPorts {
  const opened = new Map<VmId, number>();
  return {
    open: async ({ vmId, port }) => void opened.set(vmId, port),
    hangUp: () => undefined,
    close: async (vmId) => void opened.delete(vmId),
    isFree: async (port) => ![...opened.values()].includes(port),
    vmIds: () => [...opened.keys()],
  };
}

/**
 * Compares everything on the fake host with what the rows say: a running VM has one of each, one that sleeps its SSH port, a stopped
 * one only its folder and disk, and nothing else is there. Fails naming what is too much or missing.
 */
export async function assertNothingLeft({ world }: Pick<FakeWorld, 'world'>): Promise<void> {
  const { store, driver, net, ports, settings } = world;
  const vms = await store.vms.ofHost(settings.hostId);
  const running = vms.filter((vm) => vm.state === 'running').map((vm) => vm.id);
  const networked = vms.filter((vm) => vm.state === 'running' && vm.network !== null).map((vm) => vm.id);
  // One that was imported asleep has had no use for a folder yet.
  const withDisk = vms
    .filter((vm) => (vm.state === 'snapshotted' ? vm.vmm !== null : vm.layerId !== null))
    .map((vm) => vm.id);
  const sorted = (ids: Iterable<string>): string[] => [...ids].sort();
  assert.deepEqual(
    sorted((await driver.observe()).map((one) => one.vmId)),
    sorted(running),
    'hypervisor processes',
  );
  assert.deepEqual(sorted(await net.observe()), sorted(networked), 'network ports');
  // Of VMs that run, and of those a client wakes: all but the ones a person or their own guest stopped.
  const knockable = vms.filter(
    ({ network, state, stoppedBy }) =>
      network !== null &&
      (['running', 'snapshotted'].includes(state) || (state === 'stopped' && stoppedBy === 'policy')),
  );
  assert.deepEqual(sorted(ports.vmIds()), sorted(knockable.map(({ id }) => id)), 'SSH ports');
  const folders = await readdir(settings.vmsFolder).catch(() => []);
  assert.deepEqual(sorted(folders), sorted(withDisk), 'folders');
  const snapshots = await store.snapshots.list({}, { limit: 1000 });
  const held = new Set(
    [
      ...vms.flatMap((vm) => [vm.layerId, vm.memoryLayerId]),
      ...snapshots
        .filter((one) => one.hostId === settings.hostId)
        .flatMap((one) => [one.diskLayerId, one.memoryLayerId, one.stateLayerId]),
    ].filter((id) => id !== null),
  );
  const layers = await store.layers.ofHost(settings.hostId);
  // And what those stand on.
  for (const id of held) for (const { id: below } of await store.layers.chain(id)) held.add(below);
  assert.deepEqual(sorted(layers.map((layer) => layer.id)), sorted(held), 'layers');
  const frozen = layers.filter((layer) => layer.frozen);
  assert.deepEqual(
    sorted(await readdir(settings.layersFolder).catch(() => [])),
    sorted(frozen.map((layer) => layer.id)),
    "layers' folders",
  );
  for (const layer of layers) assert.ok(await exists(layer.path), `${layer.kind} ${layer.path} is gone`);
  const asleep = new Set(vms.map((vm) => vm.snapshotId));
  assert.deepEqual(
    snapshots.filter(({ kind, id }) => kind === 'fork' && !asleep.has(id)).map(({ id }) => id),
    [],
    'snapshots of forks',
  );
  assert.deepEqual(await store.operations.unfinished(settings.hostId), [], 'unfinished operations');
  for (const vm of vms) {
    assert.ok(['running', 'stopped', 'snapshotted', 'error'].includes(vm.state), `${vm.id} is ${vm.state}`);
    assert.equal(vm.snapshotId !== null, vm.state === 'snapshotted', `${vm.id} sleeps as a snapshot`);
    assert.equal(
      vm.process !== null,
      vm.state === 'running',
      `${vm.id} is ${vm.state} and its process is ${JSON.stringify(vm.process)}`,
    );
    assert.equal(vm.operation, null);
  }
}

/** An object that answers some calls differently and hands the rest on, whatever class it is of. */
export function over<T extends object>(target: T, instead: Partial<T>): T {
  return new Proxy(target, {
    get(from, name): unknown {
      if (Object.hasOwn(instead, name)) return Reflect.get(instead, name);
      const value: unknown = Reflect.get(from, name, from);
      return typeof value === 'function' ? value.bind(from) : value;
    },
  });
}
