import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync } from 'node:fs';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { systemClock } from '../../src/base/clock.ts';
import { until } from '../../src/base/until.ts';
import { run } from '../../src/host/run.ts';

/**
 * A throw-away object store that speaks S3 and checks signatures: OpenStack Swift of Debian's packages, its servers and
 * memcached on loopback, its data in a folder of $TMPDIR (whose file system must keep extended attributes).
 */
export interface Swift {
  /** `http://127.0.0.1:<port>` */
  readonly endpoint: string;
  readonly port: number;
  readonly accessKey: string;
  readonly secretKey: string;
  start(): Promise<void>;
  /** Ends it as a crash would: the servers are killed, what was answered is kept. */
  kill(): Promise<void>;
  /** Stops it and removes everything of it. */
  dispose(): Promise<void>;
}

const ACCESS_KEY = 'hatch:tester';
const SECRET_KEY = 'hunter2+/=swift-secret';
const REGION = 'us-east-1';
const LOG = 'log';
/** Five Python programs on a busy machine. */
const PATIENCE_MS = 120_000;
const STORAGE = ['account', 'container', 'object'] as const;

/** Makes the servers' rings and configuration, and starts them. Needs root. */
export async function makeSwift(): Promise<Swift> {
  const folder = await mkdtemp(join(tmpdir(), 'swift-'));
  const ports = await freePorts(STORAGE.length + 2);
  const [port = 0, cachePort = 0, ...storagePorts] = ports;
  let children: readonly ChildProcess[] = [];
  const kill = async (): Promise<void> => {
    const ending = children.filter((child) => child.exitCode === null && child.signalCode === null);
    children = [];
    await Promise.all(
      ending.map(async (child) => {
        const ended = once(child, 'exit');
        child.kill('SIGKILL');
        await ended;
      }),
    );
  };
  const start = async (): Promise<void> => {
    children = [
      startIn(folder, 'memcached', ['-l', '127.0.0.1', '-p', String(cachePort), '-u', 'root', '-m', '16']),
      ...['proxy', ...STORAGE].map((name) => startServer(folder, name)),
    ];
    await until({ clock: systemClock, signal: AbortSignal.timeout(PATIENCE_MS) }, async () => {
      const dead = children.findIndex((child) => child.exitCode !== null);
      if (dead >= 0)
        throw new Error(`swift ended at once: ${(await readFile(join(folder, LOG), 'utf8')).slice(-2000)}`);
      const answers = await Promise.all([port, ...storagePorts].map(answering));
      return answers.includes(false) ? undefined : true;
    });
  };
  const dispose = async (): Promise<void> => {
    await kill();
    await rm(folder, { recursive: true });
  };
  try {
    await mkdir(join(folder, 'nodes', 'd1'), { recursive: true });
    await writeFile(join(folder, 'proxy.conf'), proxyConf(folder, port, cachePort));
    await Promise.all(
      STORAGE.map(async (name, index) => {
        const at = storagePorts[index] ?? 0;
        await writeFile(join(folder, `${name}.conf`), storageConf(folder, name, at));
        await makeRing(folder, name, at);
      }),
    );
    await start();
  } catch (error) {
    await dispose();
    throw error;
  }
  return {
    endpoint: `http://127.0.0.1:${port}`,
    port,
    accessKey: ACCESS_KEY,
    secretKey: SECRET_KEY,
    start,
    kill,
    dispose,
  };
}

/** One process a server, none that it forks: killing it is all there is to do. */
function startServer(folder: string, name: string): ChildProcess {
  return startIn(folder, `swift-${name}-server`, [join(folder, `${name}.conf`), '--verbose']);
}

function startIn(folder: string, program: string, args: readonly string[]): ChildProcess {
  const log = openSync(join(folder, LOG), 'a');
  try {
    return spawn(program, args, { cwd: folder, stdio: ['ignore', log, log] });
  } finally {
    closeSync(log);
  }
}

/** Where everything is: one device, one copy, two partitions. */
async function makeRing(folder: string, name: string, port: number): Promise<void> {
  const ring = join(folder, `${name}.builder`);
  const build = (...args: readonly string[]): Promise<unknown> =>
    run(['swift-ring-builder', ring, ...args], { timeoutMs: PATIENCE_MS, okExitCodes: [0, 1] });
  await build('create', '1', '1', '1');
  await build('add', `r1z1-127.0.0.1:${port}/d1`, '1');
  await build('rebalance');
  await readFile(join(folder, `${name}.ring.gz`));
}

function proxyConf(folder: string, port: number, cachePort: number): string {
  return `[DEFAULT]
bind_ip = 127.0.0.1
bind_port = ${port}
workers = 0
user = root
swift_dir = ${folder}
[pipeline:main]
pipeline = catch_errors gatekeeper healthcheck proxy-logging cache listing_formats s3api tempauth copy slo dlo versioned_writes proxy-logging proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
# The emulated minute of a busy machine is no failure.
conn_timeout = 10
node_timeout = 60
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:${cachePort}
[filter:healthcheck]
use = egg:swift#healthcheck
[filter:proxy-logging]
use = egg:swift#proxy_logging
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:s3api]
use = egg:swift#s3api
location = ${REGION}
[filter:tempauth]
use = egg:swift#tempauth
user_${ACCESS_KEY.replace(':', '_')} = ${SECRET_KEY} .admin
[filter:copy]
use = egg:swift#copy
[filter:slo]
use = egg:swift#slo
[filter:dlo]
use = egg:swift#dlo
[filter:versioned_writes]
use = egg:swift#versioned_writes
`;
}

function storageConf(folder: string, name: string, port: number): string {
  return `[DEFAULT]
bind_ip = 127.0.0.1
bind_port = ${port}
workers = 0
user = root
swift_dir = ${folder}
devices = ${join(folder, 'nodes')}
mount_check = false
# A listing shows what was put, at once: nobody repairs it later.
container_update_timeout = 60
conn_timeout = 10
node_timeout = 60
[pipeline:main]
pipeline = ${name}-server
[app:${name}-server]
use = egg:swift#${name}
`;
}

/** Whether there is a server at the port, whatever it says. */
async function answering(port: number): Promise<boolean> {
  try {
    await (await fetch(`http://127.0.0.1:${port}/healthcheck`)).arrayBuffer();
    return true;
  } catch {
    return false;
  }
}

async function freePorts(count: number): Promise<readonly number[]> {
  const servers = Array.from({ length: count }, () => createServer().listen(0, '127.0.0.1'));
  await Promise.all(servers.map((server) => once(server, 'listening')));
  const ports = servers.map((server) => (server.address() as AddressInfo).port);
  await Promise.all(
    servers.map(async (server) => {
      server.close();
      await once(server, 'close');
    }),
  );
  return ports;
}
