import { hostname, tmpdir } from 'node:os';
import { createApi } from '../api/server.ts';
import { systemClock } from '../base/clock.ts';
import { errorFields, type Logger } from '../base/logger.ts';
import { openSshPorts } from '../gateway/ssh/ports.ts';
import { openAgent } from '../guest/agent-client.ts';
import { fakeGuestFiles } from '../guest/fake-files.ts';
import { openSavedDisks } from '../guest/saved-disk/inside.ts';
import { waitReady } from '../guest/readiness.ts';
import { realGuestFiles } from '../guest/real-files.ts';
import { writeFileAtomic } from '../host/files.ts';
import { useLauncher } from '../host/launch.ts';
import { LauncherProcess } from '../host/launcher-process.ts';
import { bootId } from '../host/process.ts';
import { BASE_ENV, run } from '../host/run.ts';
import { DEFAULT_IDLE } from '../model/create-request.ts';
import { Failure } from '../model/failure.ts';
import { openFakeNetwork } from '../net/fake.ts';
import { openLinuxNetwork } from '../net/linux.ts';
import type { Network } from '../net/network.ts';
import { ensureDefaultAccount } from '../ops/accounts.ts';
import { ActivityTracker } from '../ops/activity.ts';
import { IDEMPOTENCY_KEPT_MS } from '../ops/idempotency.ts';
import { autostart } from '../ops/autostart.ts';
import { openArchive } from '../ops/archive/open-archive.ts';
import { Fleet } from '../ops/fleet.ts';
import { Flights } from '../ops/flights.ts';
import { Muster } from '../ops/muster.ts';
import type { Hatch } from '../ops/hatch.ts';
import { openHatch } from '../ops/open-hatch.ts';
import { reconcile } from '../ops/reconcile.ts';
import { recover, settle } from '../ops/recover.ts';
import { Room } from '../ops/room.ts';
import { Sleeper } from '../ops/sleeper.ts';
import { SshVisits } from '../ops/ssh-visits.ts';
import { RouteBook } from '../ops/route-book.ts';
import { Visits } from '../ops/visits.ts';
import { Waker } from '../ops/waker.ts';
import { PATIENCE, type World } from '../ops/world.ts';
import { openStore } from '../store/db/open.ts';
import type { Store } from '../store/store.ts';
import type { Driver } from '../vmm/driver.ts';
import { FAKE_BOOT_ID } from '../vmm/fake/driver.ts';
import { isFakeNet, type Values } from './config.ts';
import {
  claimDataFolder,
  dataFolder,
  makeDataFolder,
  whyNotWritten,
  type DataFolder,
} from './data-folder.ts';
import { putDefaultImage } from './default-image.ts';
import { hostMemoryMib, overTheHosts } from './doctor-host.ts';
import { chooseDriver } from './driver.ts';
import { checkDatabaseOf, hostNameOf } from './host-name.ts';
import { whyNotListening } from './listening.ts';
import { imageRegistry, pretendedRegistry } from './image-registry.ts';
import { openHome, readSnapshotKey } from './snapshot-home.ts';
import { listenForMetrics } from './metrics-listener.ts';
import { Prometheus } from './prometheus.ts';
import { readiness } from './readiness.ts';
import { listenForRoutes } from './route-listener.ts';
import { Shutdown } from './shutdown.ts';
import { startTending } from './tending.ts';
import { readTls } from './tls.ts';

/** How often what is is compared with what should be. */
const RECONCILE_MS = 60_000;
/** Events and uses of VMs older than a month are forgotten. */
const KEPT_MS = 30 * 24 * 3_600_000;

/** A daemon at work. */
export interface Daemon {
  readonly world: World;
  readonly hatch: Hatch;
  readonly data: DataFolder;
  readonly shutdown: Shutdown;
  /** Where the API listens. */
  readonly url: string;
  /** Set on the first start of all: the admin key, to be shown once. */
  readonly firstKey: string | undefined;
}

/** What comes when the rest of the daemon is there. */
export interface Late {
  driver: Driver | undefined;
  /** Without it connections to SSH ports are closed: `hatchd down` lets nobody in. */
  visits: SshVisits | undefined;
}

export interface AssembleOptions {
  readonly log: Logger;
  readonly version: string;
  /** Wraps the store, for tests that crash the daemon at a row of its journal. */
  readonly wrapStore?: (store: Store) => Store;
  /** Gives the start up: what was under way is left as its journal says, for the next one. */
  readonly signal?: AbortSignal;
}

/**
 * Builds the daemon and starts it, in order: data folder, database, API (so that /healthz answers at once), hypervisor,
 * network and recovery, reconciling. Throws in a sentence when it cannot; then everything built so far is closed again.
 */
export async function startDaemon(
  values: Values,
  { log, version, wrapStore = (store) => store, signal = new AbortController().signal }: AssembleOptions,
): Promise<Daemon> {
  const shutdown = new Shutdown(log);
  try {
    return await assemble(values, { log, version, wrapStore, signal }, shutdown);
  } catch (error) {
    await shutdown.run('could not start');
    throw error;
  }
}

async function assemble(
  values: Values,
  options: Required<AssembleOptions>,
  shutdown: Shutdown,
): Promise<Daemon> {
  const { log, version, signal } = options;
  const clock = systemClock;
  const compiled = process.env['NODE_COMPILE_CACHE'];
  const launcher = new LauncherProcess({
    env: { ...BASE_ENV, ...(compiled !== undefined && { NODE_COMPILE_CACHE: compiled }) },
    lost: () =>
      log.warn(
        {},
        'the process that starts programs was killed; hatchd starts them itself, and stands still a little longer',
      ),
  });
  const launchHereAgain = useLauncher(launcher.launch);
  shutdown.add('launcher', async () => {
    launchHereAgain();
    await launcher.close();
  });
  const loops = new AbortController();
  shutdown.add('loops', async () => loops.abort(new Error('the server is stopping')));
  const stopping = AbortSignal.any([signal, loops.signal]);

  const prometheus = new Prometheus({ version, now: () => clock.now() });
  const wrapStore = (store: Store): Store => prometheus.counting(options.wrapStore(store));
  const { world, data, late, firstKey } = await openWorld(values, { log, wrapStore }, shutdown);
  const { hostId } = world.settings;
  prometheus.watch({ hostId, store: world.store, folder: data.root, budgetMib: world.room.budgetMib });
  signal.throwIfAborted();
  const problems: { start: string | undefined } = { start: 'The server is still starting.' };
  const waker = new Waker(world);
  const { refusals } = waker;
  late.visits = new SshVisits(world, waker, refusals);
  const sleeper = new Sleeper(world, { clock, sleepsAtOnce: values.HATCH_SLEEPS_AT_ONCE });
  const hatch = openHatch(
    world,
    values.HATCH_VMM === 'fake' ? pretendedRegistry() : imageRegistry(world.settings, { run }),
    () => readiness(world, late, problems),
    waker,
    sleeper,
  );

  const api = await createApi(
    {
      hatch,
      log: log.child({ room: 'api' }),
      clock,
      version,
      meter: prometheus,
    },
    {
      tls: await readTls(values, 'HATCH_HTTP'),
      rateLimit: { perSecond: values.HATCH_RATE_LIMIT, burst: values.HATCH_RATE_BURST },
    },
  );
  const { host, port } = values.HATCH_HTTP_ADDR;
  const url = await api.listen({ host, port }).catch((error: unknown) => {
    throw new Error(whyNotListening('HATCH_HTTP_ADDR', values.HATCH_HTTP_ADDR, error), { cause: error });
  });
  shutdown.add('api', () => api.close());
  log.info({ url, data: data.root, version }, 'the API listens');
  await listenForMetrics(values, { meter: prometheus, log }, shutdown);
  await listenForRoutes(
    values,
    {
      visits: new Visits(world, waker, refusals),
      activity: world.activity,
      routeBook: world.routeBook,
      log: log.child({ room: 'proxy' }),
      clock,
    },
    shutdown,
    stopping,
  );

  const tooMuch =
    world.room.budgetMib === null ? undefined : overTheHosts(world.room.budgetMib, await hostMemoryMib());
  if (tooMuch !== undefined) log.warn({}, tooMuch);
  late.driver = await chooseDriver(values, { run, log: log.child({ room: 'vmm' }), data });
  await world.findDefaultImage();
  signal.throwIfAborted();
  const startAgain = await recover(world, stopping);
  signal.throwIfAborted();
  world.flights.open();
  // Closed after the operations: those it waits for are cut off by then.
  shutdown.add('sleeper', () => sleeper.close());
  shutdown.add('operations', () => world.flights.close());
  await settleSoon(world);
  void autostart(world, startAgain, stopping);
  await reconcile(world);
  await world.archive.resume();
  const tending = startTending(world, values);
  shutdown.add('tending', () => tending.close());
  problems.start = undefined;
  log.info(
    {
      vmm: late.driver.name,
      version: late.driver.version,
      accel: late.driver.accel,
      vms: (await world.store.vms.ofHost(world.settings.hostId)).length,
    },
    'ready',
  );
  sleeper.start(values.HATCH_IDLE_CHECK_INTERVAL);
  void every(world, stopping);
  return { world, hatch, data, shutdown, url, firstKey };
}

/** What is cut off goes on in the background: a guest may take its time to power off. */
async function settleSoon(world: World): Promise<void> {
  settle(world).catch((error: unknown) =>
    world.log.error(errorFields(error), 'could not settle what was under way'),
  );
}

/** The parts everything stands on, without the API: also what `hatchd down` works with. */
export async function openWorld(
  values: Values,
  { log, wrapStore = (store) => store }: Pick<AssembleOptions, 'log' | 'wrapStore'>,
  shutdown: Shutdown,
): Promise<{
  readonly world: World;
  readonly data: DataFolder;
  readonly late: Late;
  readonly firstKey: string | undefined;
}> {
  const clock = systemClock;
  const data = dataFolder(values.HATCH_DATA_DIR);
  await makeDataFolder(data);
  shutdown.add('data folder', await claimDataFolder(data));
  const store = wrapStore(
    await openStore(values.DATABASE_URL ?? `sqlite:${data.database}`, {
      clock,
      log: log.child({ room: 'store' }),
    }),
  );
  shutdown.add('store', () => store.close());
  const hostId = await hostNameOf(data, values.HATCH_HOST_NAME, hostname());
  await checkDatabaseOf(data, store, hostId);
  const boot = await bootId();
  await store.hosts.register({ id: hostId, bootId: boot });
  const { account, secret } = await ensureDefaultAccount({ store }, (fresh) =>
    writeFileAtomic(data.adminKey, `${fresh}\n`).catch((error: unknown) => {
      throw whyNotWritten(data, error);
    }),
  );

  const late: Late = { driver: undefined, visits: undefined };
  const ports = openSshPorts(
    { log: log.child({ room: 'ssh' }), clock, visits: () => late.visits, connectTimeoutMs: 20_000 },
    { addr: values.HATCH_SSH_ADDR, allowedCidrs: values.HATCH_SSH_ALLOWED_CIDR },
  );
  shutdown.add('ssh ports', () => ports.closeAll());
  const net = openNetwork(values, data, log);
  shutdown.add('network', () => net.release());
  const fleet = new Fleet({
    clock,
    log: log.child({ room: 'ops' }),
    openAgent: (machine) =>
      openAgent({ connect: (signal) => machine.agent(signal), clock, log: log.child({ vm: machine.vmId }) }),
    waitReady: (vm, agent, signal) =>
      waitReady(
        {
          agent,
          ...(vm.network && !isFakeNet(values) ? { ssh: { ip: vm.network.ip, port: 22 } } : {}),
          clock,
        },
        signal,
      ),
  });
  shutdown.add('guests', () => fleet.releaseAll());
  const settings: World['settings'] = {
    hostId,
    bootId: values.HATCH_VMM === 'fake' ? FAKE_BOOT_ID : boot,
    vmsFolder: data.vms,
    layersFolder: data.layers,
    imagesFolder: data.images,
    imageDirs: values.HATCH_IMAGE_DIRS ?? [data.images],
    plan: values.HATCH_BRIDGE_CIDR,
    sshPortMin: values.HATCH_SSH_PORT_MIN,
    sshPortMax: values.HATCH_SSH_PORT_MAX,
    proxy: {
      scheme: values.HATCH_PROXY_TLS_CERT === undefined ? 'http' : 'https',
      port: values.HATCH_PROXY_ADDR.port,
      baseDomain: values.HATCH_PROXY_BASE_DOMAIN,
    },
    defaultVcpuCount: values.HATCH_DEFAULT_VCPU,
    defaultMemMib: values.HATCH_DEFAULT_MEM_MIB,
    idle: { ...DEFAULT_IDLE, timeoutSeconds: Math.max(1, Math.round(values.HATCH_IDLE_TIMEOUT / 1000)) },
    defaultBootArgs: values.HATCH_DEFAULT_BOOT_ARGS ?? null,
    limits: {
      vms: values.HATCH_MAX_VMS_PER_ACCOUNT,
      vcpus: values.HATCH_MAX_VCPUS_PER_ACCOUNT ?? null,
      memMib: values.HATCH_MAX_MEM_MIB_PER_ACCOUNT ?? null,
    },
    maxSnapshotsPerVm: values.HATCH_MAX_SNAPSHOTS_PER_VM,
    sharedAccountId: account.id,
  };
  const files = values.HATCH_VMM === 'fake' ? fakeGuestFiles() : realGuestFiles({ run });
  const key = await readSnapshotKey(values);
  const home = await openHome(values, data);
  shutdown.add('snapshot store', async () => home.close());
  const archive = openArchive({
    store,
    settings,
    files,
    clock,
    log: log.child({ room: 'archive' }),
    home: home.home,
    spoolFolder: data.spool,
    master: key?.key,
  });
  shutdown.add('archive', () => archive.close());
  const world: World = {
    patience: PATIENCE,
    store,
    get driver() {
      if (!late.driver)
        throw new Failure('unavailable', 'The server is still starting; ask again in a moment.');
      return late.driver;
    },
    net,
    ports,
    files,
    fleet,
    archive,
    activity: new ActivityTracker({ clock }),
    routeBook: new RouteBook({ store, clock }),
    room: new Room({ budgetMib: values.HATCH_MEMORY_BUDGET_MIB ?? null, clock }),
    disks: openSavedDisks({ run, tmp: tmpdir() }),
    flights: new Flights({ operations: store.operations, log: log.child({ room: 'ops' }) }),
    muster: new Muster(),
    clock,
    log: log.child({ room: 'ops' }),
    settings,
    findDefaultImage: () => putDefaultImage(world, values, data, world.driver),
  };
  return { world, data, late, firstKey: secret };
}

/** The network of a configuration, as it is; nothing is made. */
export function openNetwork(values: Values, data: DataFolder, log: Logger): Network {
  const options = {
    bridge: values.HATCH_BRIDGE_NAME,
    cidr: values.HATCH_BRIDGE_CIDR.text,
    dnsServers: values.HATCH_DNS_SERVERS ?? null,
    egress: values.HATCH_EGRESS,
    folder: data.net,
  };
  return isFakeNet(values)
    ? openFakeNetwork(options)
    : openLinuxNetwork({ run, log: log.child({ room: 'net' }), clock: systemClock }, options);
}

async function every(world: World, signal: AbortSignal): Promise<void> {
  while (!signal.aborted) {
    try {
      await world.clock.sleep(RECONCILE_MS, signal);
      await reconcile(world);
      const before = world.clock.now() - KEPT_MS;
      await world.store.events.prune(before);
      await world.store.history.pruneUses(before);
      await world.store.idempotency.prune(world.clock.now() - IDEMPOTENCY_KEPT_MS);
    } catch (error) {
      if (!signal.aborted) world.log.error(errorFields(error), 'reconciling failed; it is tried again');
    }
  }
}
