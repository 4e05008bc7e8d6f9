import { resolve } from 'node:path';
import { nearest } from '../api/nearest.ts';
import { planAddresses } from '../model/cidr.ts';
import * as read from './config-values.ts';

/** Where a setting's value came from. */
export type Source = 'environment' | 'default';

interface Setting<T, F extends string | null = string | null> {
  readonly about: string;
  /** The value where the environment is silent, as text; null: none. */
  readonly fallback: F;
  /** Reads the text; throws an Error whose message completes "NAME ...". */
  readonly parse: (text: string) => T;
  /** How it is shown where it must not be shown as it is. */
  readonly shown?: (text: string) => string;
}

const setting = <T, F extends string | null>(
  about: string,
  fallback: F,
  parse: (text: string) => T,
  more: Pick<Setting<T>, 'shown'> = {},
): Setting<T, F> => ({ about, fallback, parse, ...more });

const hidden = (): string => '(hidden)';

/** The whole of the configuration: every name, what it means, its default and how it is read. */
export const SETTINGS = {
  DATABASE_URL: setting(
    'where rows are kept: sqlite:PATH or postgres://...; sqlite:<data>/hatch.db unless set',
    null,
    read.databaseUrl,
    { shown: read.databaseUrlShown },
  ),
  HATCH_DATA_DIR: setting('folder for everything Hatch keeps', './data', (text) => resolve(text)),
  HATCH_HOST_NAME: setting(
    "this host's name in the database; the machine's own unless set",
    null,
    read.hostName,
  ),
  HATCH_LOG_LEVEL: setting('least severe line to log', 'info', read.oneOf('debug', 'info', 'warn', 'error')),
  HATCH_HTTP_ADDR: setting('address and port of the API', '127.0.0.1:8080', read.hostPort),
  HATCH_HTTP_TLS_CERT: setting("file with the API's certificate", null, read.path),
  HATCH_HTTP_TLS_KEY: setting("file with the API's private key", null, read.path),
  HATCH_METRICS_ADDR: setting(
    'address and port where Prometheus is told /metrics without a key; nowhere unless set, and with an operator key by the API',
    null,
    read.hostPort,
  ),
  HATCH_VMM: setting('hypervisor', 'auto', read.oneOf('auto', 'firecracker', 'qemu', 'fake')),
  HATCH_NET: setting(
    'network; auto is fake with the fake hypervisor',
    'auto',
    read.oneOf('auto', 'real', 'fake'),
  ),
  HATCH_FIRECRACKER_BIN: setting('firecracker program', 'firecracker', read.path),
  HATCH_JAILER_BIN: setting('jailer program', 'jailer', read.path),
  HATCH_JAILER: setting(
    'whether guests of Firecracker are jailed; auto: where hatchd is root and the jailer is there',
    'auto',
    read.oneOf('auto', 'on', 'off'),
  ),
  HATCH_QEMU_BIN: setting('QEMU program', 'qemu-system-x86_64', read.path),
  HATCH_QEMU_CPU: setting('QEMU CPU model; host under KVM, max under emulation unless set', null, read.word),
  HATCH_QEMU_USERS: setting(
    'whether the QEMU of each VM is a user of its own; auto: where hatchd is root and may do that',
    'auto',
    read.oneOf('auto', 'on', 'off'),
  ),
  HATCH_VM_UID_MIN: setting('first uid, and gid, that hypervisors run as', '61000', read.whole(1, 2 ** 31)),
  HATCH_VM_UID_MAX: setting('last uid, and gid, that hypervisors run as', '64999', read.whole(1, 2 ** 31)),
  HATCH_DEFAULT_KERNEL_PATH: setting('kernel of img-default', null, read.path),
  HATCH_DEFAULT_INITRD_PATH: setting('initrd of img-default', null, read.path),
  HATCH_DEFAULT_ROOTFS_PATH: setting('root file system of img-default', null, read.path),
  HATCH_DEFAULT_BOOT_ARGS: setting(
    "kernel arguments where VM and image have none; the hypervisor's own unless set",
    null,
    read.bootArgs,
  ),
  HATCH_DEFAULT_VCPU: setting('vCPUs of a VM that asks for none', '1', read.whole(1, 32)),
  HATCH_DEFAULT_MEM_MIB: setting('memory of a VM that asks for none', '512', read.whole(128, 65536)),
  HATCH_IMAGE_DIRS: setting(
    'folders images may be registered from, with colons between; <data>/images unless set',
    null,
    read.paths,
  ),
  HATCH_BRIDGE_NAME: setting("the guests' bridge", 'hatch0', read.interfaceName),
  HATCH_BRIDGE_CIDR: setting("the bridge's own address and prefix", '192.168.241.1/24', planAddresses),
  HATCH_DNS_SERVERS: setting(
    "resolvers for guests, with commas between; the host's own unless set",
    null,
    read.addresses,
  ),
  HATCH_EGRESS: setting(
    'where guests may go: allow, deny, or networks with commas between',
    'allow',
    read.egress,
  ),
  HATCH_SSH_ADDR: setting("address of the guests' SSH ports", '127.0.0.1', read.address),
  HATCH_SSH_PORT_MIN: setting('first SSH port', '2200', read.whole(1, 65535)),
  HATCH_SSH_PORT_MAX: setting('last SSH port', '3199', read.whole(1, 65535)),
  HATCH_SSH_ALLOWED_CIDR: setting('who may use them, with commas between', '127.0.0.1/32', read.networks),
  HATCH_PROXY_ADDR: setting('address and port of the HTTP proxy', '127.0.0.1:9090', read.hostPort),
  HATCH_PROXY_BASE_DOMAIN: setting(
    "domain routes' subdomains hang under",
    'hatch.localhost',
    read.baseDomain,
  ),
  HATCH_PROXY_THREADS: setting(
    'threads the HTTP proxy has, some 18 MiB each; one for each processor, at most 8, unless set',
    null,
    read.whole(1, 256),
  ),
  HATCH_PROXY_WAKE_TIMEOUT: setting('longest wait for a wake', '60s', read.duration),
  HATCH_PROXY_TLS_CERT: setting("file with the proxy's certificate and its chain", null, read.path),
  HATCH_PROXY_TLS_KEY: setting("file with the proxy's private key", null, read.path),
  HATCH_TRUSTED_PROXIES: setting('whose X-Forwarded headers count', null, read.networks),
  HATCH_SNAPSHOT_STORE: setting(
    'dir:PATH or s3://bucket/prefix; dir:<data>/snapshots unless set',
    null,
    read.snapshotStore,
  ),
  HATCH_SNAPSHOT_KEY_FILE: setting('file with the key snapshots are encrypted with', null, read.path),
  HATCH_S3_ENDPOINT: setting("S3 endpoint; AWS's own unless set", null, read.s3Endpoint, {
    shown: read.s3EndpointShown,
  }),
  HATCH_S3_REGION: setting('S3 region', 'us-east-1', read.word),
  HATCH_S3_ACCESS_KEY: setting("S3 access key; by AWS's own rules unless set", null, read.word, {
    shown: hidden,
  }),
  HATCH_S3_SECRET_KEY: setting('S3 secret key', null, read.word, { shown: hidden }),
  HATCH_CACHE_MIB: setting(
    'most disk for local files of stored snapshots, in MiB; no limit unless set',
    null,
    read.whole(0, 2 ** 40),
  ),
  HATCH_IDLE_TIMEOUT: setting('when an unused VM goes to sleep', '45m', read.duration),
  HATCH_IDLE_CHECK_INTERVAL: setting('how often that is looked at', '30s', read.duration),
  HATCH_SLEEPS_AT_ONCE: setting('most VMs put to sleep at once', '2', read.whole(1, 1000)),
  HATCH_MEMORY_BUDGET_MIB: setting(
    'most memory of running guests, in MiB: one that does not fit has the least recently used idle ones sleep first; no limit unless set',
    null,
    read.whole(128, 2 ** 40),
  ),
  HATCH_VERIFY_SCHEDULE: setting(
    "cron line (in the host's time zone) by which every VM's newest snapshot is restored for proof; never unless set",
    null,
    read.cron,
  ),
  HATCH_MAX_VMS_PER_ACCOUNT: setting('VMs an account may have', '50', read.whole(0, 1_000_000)),
  HATCH_MAX_VCPUS_PER_ACCOUNT: setting('vCPUs an account may have', null, read.whole(0, 1_000_000)),
  HATCH_MAX_MEM_MIB_PER_ACCOUNT: setting('memory an account may have', null, read.whole(0, 2 ** 40)),
  HATCH_MAX_SNAPSHOTS_PER_VM: setting('snapshots a VM may have', '10', read.whole(0, 1_000_000)),
  HATCH_RATE_LIMIT: setting('requests per second and key; 0: no limit', '50', read.whole(0, 1_000_000)),
  HATCH_RATE_BURST: setting('requests at once over that', '200', read.whole(1, 1_000_000)),
} satisfies Record<string, Setting<unknown>>;

type Settings = typeof SETTINGS;
type Name = keyof Settings;
type Parsed<S> = S extends Setting<infer T, infer F> ? T | (F extends string ? never : undefined) : never;
/** The settings, read; undefined where neither the environment nor a default says anything. */
export type Values = { readonly [K in Name]: Parsed<Settings[K]> };

/** Whether the guests' network is only pretended. */
export function isFakeNet({
  HATCH_NET: net,
  HATCH_VMM: vmm,
}: Pick<Values, 'HATCH_NET' | 'HATCH_VMM'>): boolean {
  return net === 'fake' || (net === 'auto' && vmm === 'fake');
}

/** Read by the CLI and the client library; hatchd lets them pass. */
const PASS = ['HATCH_URL', 'HATCH_API_KEY'];

/** Everything wrong with the environment, a line each. */
export class BadConfig extends Error {
  override readonly name = 'BadConfig';
  readonly problems: readonly string[];
  constructor(problems: readonly string[]) {
    super(problems.join('\n'));
    this.problems = problems;
  }
}

/** Reads the configuration out of an environment. Throws BadConfig with all that is wrong at once. */
export function readConfig(env: Readonly<Record<string, string | undefined>>): {
  readonly values: Values;
  readonly sources: Readonly<Record<Name, Source>>;
} {
  const problems = unknownNames(env);
  const values: Record<string, unknown> = {};
  const sources: Record<string, Source> = {};
  for (const [name, one] of Object.entries(SETTINGS) as [Name, Setting<unknown>][]) {
    const given = env[name];
    const set = given !== undefined && given !== '';
    const text = set ? given : one.fallback;
    sources[name] = set ? 'environment' : 'default';
    if (text === null) continue;
    try {
      values[name] = one.parse(text);
    } catch (error) {
      const shown = one.shown ? '' : ` It is "${text}".`;
      problems.push(`${name} ${error instanceof Error ? error.message : String(error)}${shown}`);
    }
  }
  const read = values as Values;
  if (problems.length === 0) problems.push(...contradictions(read));
  if (problems.length > 0) throw new BadConfig(problems);
  return { values: read, sources: sources as Record<Name, Source> };
}

function contradictions(values: Values): string[] {
  const problems: string[] = [];
  const together = (one: Name, other: Name): void => {
    if ((values[one] === undefined) !== (values[other] === undefined))
      problems.push(`${one} and ${other} must be set together.`);
  };
  together('HATCH_DEFAULT_KERNEL_PATH', 'HATCH_DEFAULT_ROOTFS_PATH');
  together('HATCH_HTTP_TLS_CERT', 'HATCH_HTTP_TLS_KEY');
  together('HATCH_PROXY_TLS_CERT', 'HATCH_PROXY_TLS_KEY');
  together('HATCH_S3_ACCESS_KEY', 'HATCH_S3_SECRET_KEY');
  if (values.HATCH_SSH_PORT_MIN > values.HATCH_SSH_PORT_MAX)
    problems.push('HATCH_SSH_PORT_MIN must not be above HATCH_SSH_PORT_MAX.');
  if (values.HATCH_VM_UID_MIN > values.HATCH_VM_UID_MAX)
    problems.push('HATCH_VM_UID_MIN must not be above HATCH_VM_UID_MAX.');
  return problems;
}

function unknownNames(env: Readonly<Record<string, string | undefined>>): string[] {
  const known = [...Object.keys(SETTINGS), ...PASS];
  // What they all begin with says nothing about which one is meant.
  const bare = (name: string): string => name.replace(/^HATCH_/, '').toLowerCase();
  return Object.keys(env)
    .filter((name) => name.startsWith('HATCH_') && !known.includes(name))
    .map((name) => {
      const near = nearest(bare(name), known.map(bare));
      const meant = known.find((other) => bare(other) === near);
      const hint = meant === undefined ? '`hatchd config` lists them all.' : `Did you mean ${meant}?`;
      return `${name} is not a setting of Hatch. ${hint}`;
    });
}

/**
 * The configuration for people to read or programs to parse: name, value, source, meaning; secrets hidden. `defaults`: what
 * is used where neither the environment nor a fixed default says anything.
 */
export function describeConfig(
  env: Readonly<Record<string, string | undefined>>,
  { sources }: Pick<ReturnType<typeof readConfig>, 'sources'>,
  defaults: Partial<Record<Name, string>> = {},
): readonly {
  readonly name: string;
  readonly value: string | null;
  readonly source: Source;
  readonly about: string;
}[] {
  return (Object.entries(SETTINGS) as [Name, Setting<unknown>][]).map(([name, one]) => {
    const text = sources[name] === 'environment' ? (env[name] ?? null) : (defaults[name] ?? one.fallback);
    return {
      name,
      value: text !== null && one.shown ? one.shown(text) : text,
      source: sources[name],
      about: one.about,
    };
  });
}
