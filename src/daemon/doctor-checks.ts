import { access, constants } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { silent } from '../base/logger.ts';
import { findBuiltImage } from '../guest/image/build-image.ts';
import { hostPackages, type HostPackage } from '../guest/image/debian-packages.ts';
import { exists, freeBytes, reflink, remove, writeFileAtomic } from '../host/files.ts';
import { isAlive } from '../host/process.ts';
import { BASE_ENV, run } from '../host/run.ts';
import { checkHost } from '../net/room.ts';
import { lookAtStore } from '../store/db/open.ts';
import { isFakeNet, type Values } from './config.ts';
import { databaseUrlShown } from './config-values.ts';
import { claimant, whyNotWritten, type DataFolder } from './data-folder.ts';
import { configuredImage } from './default-image.ts';
import { chooseDriver, kvmUnderFirecracker } from './driver.ts';
import { firecracker } from './doctor-firecracker.ts';
import { fail, ok, warn, type Found } from './doctor-finding.ts';
import { cgroups, kernel, memory, nftables, processor, sshPorts } from './doctor-host.ts';
import { qemuUsers } from './doctor-qemu.ts';
import { snapshotStore } from './doctor-snapshots.ts';
import { tryListening, type ListenSetting, type Place } from './listening.ts';
import { readTls } from './tls.ts';

type Check = (values: Values, data: DataFolder) => Promise<readonly Found[]>;

const MIN_FREE_BYTES = 2 * 1024 ** 3;

/** The checks by name, in the order they are told. */
export const CHECKS: Readonly<Record<string, Check>> = {
  rights,
  programs,
  hypervisor,
  firecracker: (values, data) => firecracker({ run }, values, data),
  qemu: (values, data) => qemuUsers(values, data),
  kernel: (values) => onHost(values, kernel),
  cgroups: (values) => onHost(values, cgroups),
  memory: (values) => onHost(values, () => memory(values.HATCH_MEMORY_BUDGET_MIB)),
  processor: (values) => onHost(values, processor),
  network,
  nftables: async (values) => (isFakeNet(values) ? ok('pretended') : nftables({ run })),
  ports: async (values) => (isFakeNet(values) ? ok('pretended') : sshPorts(sshRange(values))),
  api,
  proxy,
  disk,
  database,
  snapshots: snapshotStore,
  image,
  hatchd,
};

/** What matters only where there are real guests. */
async function onHost(values: Values, look: () => Promise<readonly Found[]>): Promise<readonly Found[]> {
  return values.HATCH_VMM === 'fake' ? ok('of no matter: guests are pretended') : look();
}

function sshRange(values: Values): Parameters<typeof sshPorts>[0] {
  return { address: values.HATCH_SSH_ADDR, min: values.HATCH_SSH_PORT_MIN, max: values.HATCH_SSH_PORT_MAX };
}

async function rights(values: Values): Promise<readonly Found[]> {
  if (isFakeNet(values)) return ok('the network is pretended: no rights are needed');
  if (process.geteuid?.() !== 0) return fail('bridges and taps need root: run hatchd as root');
  try {
    await access('/dev/net/tun', constants.R_OK | constants.W_OK);
  } catch {
    return fail('/dev/net/tun is not there: load the module with `modprobe tun`');
  }
  return ok('root, and /dev/net/tun can be opened');
}

async function programs(values: Values): Promise<readonly Found[]> {
  if (values.HATCH_VMM === 'fake') return ok('none are needed: guests are pretended');
  const folders = (BASE_ENV['PATH'] ?? '').split(':');
  const missing: HostPackage[] = [];
  for (const one of hostPackages) {
    const found = await Promise.all(folders.map((folder) => exists(join(folder, one.binary))));
    if (!found.includes(true)) missing.push(one);
  }
  if (missing.length === 0) return ok('all are there');
  const forGuests = missing.filter(({ needs }) => needs === 'run');
  const forImages = missing.filter(({ needs }) => needs === 'build');
  return [
    ...(forGuests.length > 0 ? fail(`missing: ${listed(forGuests)}`) : []),
    ...(forImages.length > 0 ? warn(`missing for \`hatchd image build\`: ${listed(forImages)}`) : []),
  ];
}

function listed(missing: readonly HostPackage[]): string {
  const programs = missing.map(({ binary, why }) => `${binary} (${why})`).join(', ');
  const packages = [...new Set(missing.map(({ name }) => name))].join(' ');
  return `${programs}; \`apt-get install ${packages}\` brings ${missing.length > 1 ? 'them' : 'it'}`;
}

async function hypervisor(values: Values, data: DataFolder): Promise<readonly Found[]> {
  const driver = await chooseDriver(values, { run, log: silent, data });
  if (driver.name === 'fake') return ok('pretended (HATCH_VMM=fake)');
  const named = `${driver.name} ${driver.version}`;
  if (driver.name === 'firecracker') {
    const { usable, reason } = await kvmUnderFirecracker(values, { run, log: silent, data });
    if (!usable)
      return fail(
        `${named}: guests cannot run, since KVM does not (${reason}); use a machine with KVM, enable nested virtualisation, or set HATCH_VMM=qemu`,
      );
    return ok(`${named} with KVM, which was seen to run code`);
  }
  if (driver.accel === 'kvm') return ok(`${named} with KVM`);
  return warn(
    `${named}: KVM does not run code here, so guests are emulated and 10 to 30 times slower; use a machine with KVM, or enable nested virtualisation`,
  );
}

async function network(values: Values): Promise<readonly Found[]> {
  if (isFakeNet(values)) return ok('pretended');
  const { HATCH_BRIDGE_NAME: bridge, HATCH_BRIDGE_CIDR: plan } = values;
  const { there } = await checkHost({ run }, { bridge, plan });
  return ok(there ? `the bridge ${bridge} is there` : `there is room for ${bridge} with ${plan.text}`);
}

async function api(values: Values, data: DataFolder): Promise<readonly Found[]> {
  const tls = await readTls(values, 'HATCH_HTTP');
  const { host, port } = values.HATCH_HTTP_ADDR;
  const why = await whyTaken(data, 'HATCH_HTTP_ADDR', { host, port });
  return why === undefined ? ok(`${tls ? 'https' : 'http'} on ${host}:${port}`) : fail(why);
}

async function proxy(values: Values, data: DataFolder): Promise<readonly Found[]> {
  const tls = await readTls(values, 'HATCH_PROXY');
  const { host, port } = values.HATCH_PROXY_ADDR;
  const why = await whyTaken(data, 'HATCH_PROXY_ADDR', { host, port });
  return why === undefined
    ? ok(`${tls ? 'https' : 'http'} on ${host}:${port}, for names under ${values.HATCH_PROXY_BASE_DOMAIN}`)
    : fail(why);
}

/** Why an address cannot be listened on; hatchd's own is taken by itself while it runs. */
async function whyTaken(data: DataFolder, setting: ListenSetting, place: Place): Promise<string | undefined> {
  const holder = await claimant(data);
  return holder && (await isAlive(holder)) ? undefined : tryListening(setting, place);
}

async function disk(values: Values, data: DataFolder): Promise<readonly Found[]> {
  if (!(await exists(data.root))) {
    await access(await nearestThere(data.root), constants.W_OK | constants.X_OK).catch((error: unknown) => {
      throw whyNotWritten(data, error);
    });
    return ok(`${data.root} is made at the first start`);
  }
  const free = await freeBytes(data.root);
  const room = `${(free / 1024 ** 3).toFixed(1)} GiB are free at ${data.root}`;
  const found =
    free >= MIN_FREE_BYTES || values.HATCH_VMM === 'fake'
      ? ok(room)
      : fail(`only ${room}; make room, or move HATCH_DATA_DIR`);
  const shares = await sharesBlocks(data);
  if (values.HATCH_VMM === 'fake') return found;
  if (shares) return [...found, ...ok('the file system shares blocks (reflink)')];
  const instead = {
    qemu: 'guests get qcow2 overlays',
    firecracker: "each guest's disk is a whole copy of its image's",
    auto: "guests get qcow2 overlays on QEMU, and whole copies of their image's disk on Firecracker",
  }[values.HATCH_VMM];
  return [...found, ...ok(`no reflink here: ${instead}; XFS or btrfs would share blocks`)];
}

/** The path itself, or the nearest folder above it that is there, as one that is entered. */
async function nearestThere(path: string): Promise<string> {
  for (let at = path; ; at = dirname(at)) {
    if ((await exists(at)) || at === dirname(at)) return `${at}/`;
  }
}

/** Whether the file system of the data folder has reflinks. Throws in a sentence when nothing can be written there. */
async function sharesBlocks(data: DataFolder): Promise<boolean> {
  const [one, other] = [join(data.root, '.reflink-a'), join(data.root, '.reflink-b')];
  try {
    await writeFileAtomic(one, 'x'.repeat(4096));
    return await reflink(one, other);
  } catch (error) {
    throw whyNotWritten(data, error);
  } finally {
    for (const path of [one, other]) await remove(path).catch(() => undefined);
  }
}

async function database(values: Values, data: DataFolder): Promise<readonly Found[]> {
  // The folder of the default one is made with the data folder.
  if (values.DATABASE_URL === undefined && !(await exists(data.database)))
    return ok('SQLite, made at the first start');
  const url = values.DATABASE_URL ?? `sqlite:${data.database}`;
  const schema = await lookAtStore(url, { log: silent });
  const next = {
    new: ': its tables are made at the first start',
    older: url.startsWith('sqlite:')
      ? ' is of an older version; the next start brings it up to date, and keeps what was there beside it'
      : ' is of an older version; the next start brings it up to date, and keeps its tables in a schema beside them',
    current: ' answers',
  };
  return ok(`${databaseUrlShown(url)}${next[schema]}`);
}

async function image(values: Values, data: DataFolder): Promise<readonly Found[]> {
  if (values.HATCH_VMM === 'fake') return ok('pretended');
  if (values.HATCH_DEFAULT_KERNEL_PATH !== undefined) {
    const { rootfsPath } = await configuredImage(values);
    return ok(`${rootfsPath}, as configured`);
  }
  const built = await findBuiltImage(data.images);
  return built
    ? ok(`${built.hash}, built ${built.manifest.built_at}`)
    : warn('no default image yet: run `hatchd image build`');
}

async function hatchd(_values: Values, data: DataFolder): Promise<readonly Found[]> {
  const holder = await claimant(data);
  return ok(holder && (await isAlive(holder)) ? `runs with pid ${holder.pid}` : 'does not run');
}
