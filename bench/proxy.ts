import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { chmod, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { run } from '../src/host/run.ts';
import { quantile } from './lib/figures.ts';
import { line, print, round, type Line } from './lib/table.ts';
import { installTools } from './lib/tools.ts';

/**
 * `node bench/proxy.ts [requests|latency|bodies|upgrades|cores...]`: what the HTTP proxy costs, beside nginx with one worker that does the same on
 * the same core. The backend, an nginx too, and the load have the other core; for `cores` all have both, and the proxy two threads beside
 * nginx with two workers. nginx and wrk are installed where they are missing (Debian,
 * as root). Requests are asked in turn of both; medians of the rounds.
 */
const ROUNDS = 5;
const ROUND_SECONDS = 3;
const RATE = 500;
const UPGRADES = 5000;
const GUEST = { ip: '127.91.7.10', port: 8000, upgradingPort: 8001 };
const PORTS = { nginx: 19481, proxy: 19482, upgrading: 19483, direct: 19484, nginx2: 19485, proxy2: 19486 };
const KIB = 1024;
const NODE = [process.execPath, '--disable-warning=ExperimentalWarning'];

const children: ChildProcess[] = [];
const folder = await mkdtemp(join(tmpdir(), 'bench-proxy-'));
const asked = process.argv.slice(2);
const wanted = (part: string): boolean => asked.length === 0 || asked.includes(part);
try {
  await installTools(['nginx-light', 'wrk']);
  await serveBackend();
  start('0', ['nginx', '-p', folder, '-c', join(folder, 'proxy.conf')]);
  await ready(startProxy(GUEST.port, PORTS.proxy));
  if (wanted('requests')) print(await requests());
  if (wanted('latency')) for (const row of await latency()) print(row);
  if (wanted('bodies')) for (const row of await bodies()) print(row);
  if (wanted('upgrades')) print(await upgrades());
  if (wanted('cores')) print(await cores());
} finally {
  for (const child of children) child.kill();
  await Promise.all(
    children.map(async (child) => {
      if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
    }),
  );
  await rm(folder, { recursive: true });
}

async function requests(): Promise<Line> {
  const { ours, theirs } = await inTurn((port) => wrk(port, '/', 64));
  return line('requests a second, 64 connections', { ours, theirs }, 'nginx, one worker', 'at least 0.4');
}

/** On both cores, with all else there too: a proxy of one thread could use no more than one. */
async function cores(): Promise<Line> {
  start('0,1', ['nginx', '-p', folder, '-c', join(folder, 'proxy2.conf')]);
  const proxy = startProxy(GUEST.port, PORTS.proxy2, 2);
  await ready(proxy);
  const both = { ours: PORTS.proxy2, theirs: PORTS.nginx2 };
  const measured = await inTurn((port) => wrk(port, '/', 64, '0,1'), both);
  const before = await cpuSeconds(proxy);
  await wrk(PORTS.proxy2, '/', 64, '0,1');
  const used = round(((await cpuSeconds(proxy)) - before) / ROUND_SECONDS);
  const figure = `requests a second on two cores that all share, 64 connections: it has ${used} of them`;
  return line(figure, measured, 'nginx, two workers', 'at least 0.4');
}

async function bodies(): Promise<Line[]> {
  const rows: Line[] = [];
  for (const [name, path] of [
    ['64 KiB', '/files/64k'],
    ['4 MiB', '/files/4m'],
  ] as const) {
    const both = await inTurn((port) => wrk(port, path, 16));
    rows.push(line(`bodies of ${name} a second, 16 connections`, both, 'nginx, one worker', 'at least 0.6'));
  }
  return rows;
}

async function latency(): Promise<Line[]> {
  const tail = await inTurn(async (port) => {
    const times = await load('rate', port, RATE, ROUND_SECONDS);
    return quantile(times, 0.99);
  });
  const one = async (port: number): Promise<number> => quantile(await load('one', port, 500), 0.5);
  const alone = await inTurn(one, { ours: PORTS.proxy, theirs: PORTS.direct });
  const added = round(alone.ours - alone.theirs);
  return [
    line(`p99 at ${RATE} requests a second, ms`, tail, 'nginx, one worker', 'at most 2'),
    line(`one request at a time, p50, ms: ${added} more`, alone, 'without a proxy', 'at most 0.5 ms more'),
  ];
}

/** What an idle connection of another protocol costs in memory, both its ends together. */
async function upgrades(): Promise<Line> {
  await ready(start('1', [...NODE, local('http-load.ts'), 'upgrading', GUEST.ip, `${GUEST.upgradingPort}`]));
  const proxy = startProxy(GUEST.upgradingPort, PORTS.upgrading);
  await ready(proxy);
  await load('one', PORTS.upgrading, 200);
  const before = Number(await said(proxy, () => proxy.kill('SIGUSR2')));
  const client = start('1', [
    ...NODE,
    local('http-load.ts'),
    'upgrades',
    `${PORTS.upgrading}`,
    `${UPGRADES}`,
  ]);
  await said(client);
  const after = Number(await said(proxy, () => proxy.kill('SIGUSR2')));
  const each = (after - before) / UPGRADES / KIB;
  return {
    figure: `KiB of memory for each of ${UPGRADES} idle connections of another protocol`,
    ours: round(each),
    reference: null,
    what: 'none',
    ratio: null,
    limit: 'at most 29.3 (30 kB)',
  };
}

/** Measures both in turn, after a round that does not count. */
async function inTurn(
  measure: (port: number) => Promise<number>,
  ports: { readonly ours: number; readonly theirs: number } = { ours: PORTS.proxy, theirs: PORTS.nginx },
): Promise<{ readonly ours: number; readonly theirs: number }> {
  const [ours, theirs]: [number[], number[]] = [[], []];
  for (let i = -1; i < ROUNDS; i++) {
    const pair = [await measure(ports.ours), await measure(ports.theirs)] as const;
    if (i < 0) continue;
    ours.push(pair[0]);
    theirs.push(pair[1]);
  }
  return { ours: quantile(ours, 0.5), theirs: quantile(theirs, 0.5) };
}

async function wrk(port: number, path: string, connections: number, cores = '1'): Promise<number> {
  const url = `http://127.0.0.1:${port}${path}`;
  const args = ['-t1', `-c${connections}`, `-d${ROUND_SECONDS}s`, '-H', 'Host: web.hatch.localhost', url];
  const { stdout } = await run(['taskset', '-c', cores, 'wrk', ...args], { timeoutMs: 60_000 });
  const [, perSecond] = /Requests\/sec:\s+([\d.]+)/.exec(stdout) ?? [];
  if (perSecond === undefined || /Non-2xx|Socket errors/.test(stdout)) throw new Error(`wrk said: ${stdout}`);
  return Number(perSecond);
}

/** The CPU time of a process and all its threads, in seconds: fields 14 and 15 of proc(5), in hundredths. */
async function cpuSeconds({ pid }: ChildProcess): Promise<number> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return (Number(fields[11]) + Number(fields[12])) / 100;
}

async function load(...args: readonly (string | number)[]): Promise<number[]> {
  const { stdout } = await run(['taskset', '-c', '1', ...NODE, local('http-load.ts'), ...args.map(String)], {
    timeoutMs: 60_000,
  });
  return JSON.parse(stdout) as number[];
}

function startProxy(guestPort: number, port: number, threads = 1): ChildProcess {
  const where = [GUEST.ip, `${guestPort}`, `${port}`, `${threads}`];
  return start(threads > 1 ? '0,1' : '0', [...NODE, '--expose-gc', local('proxied-vm.ts'), ...where]);
}

function start(cores: string, argv: readonly string[]): ChildProcess {
  const child = spawn('taskset', ['-c', cores, ...argv], { stdio: ['ignore', 'pipe', 'inherit'] });
  children.push(child);
  return child;
}

async function ready(child: ChildProcess): Promise<void> {
  if ((await said(child)) !== 'ready') throw new Error('it did not say that it is ready');
}

/** The next line a child says. */
async function said(child: ChildProcess, ask: () => unknown = () => undefined): Promise<string> {
  if (!child.stdout) throw new Error('its output is not ours');
  const lines = createInterface(child.stdout);
  const line = once(lines, 'line', { signal: AbortSignal.timeout(120_000) }) as Promise<[string]>;
  ask();
  const [text] = await line;
  lines.close();
  return text;
}

async function serveBackend(): Promise<void> {
  // Its workers are another user's.
  await chmod(folder, 0o755);
  await mkdir(join(folder, 'files'));
  await writeFile(join(folder, 'files/64k'), Buffer.alloc(64 * KIB));
  await writeFile(join(folder, 'files/4m'), Buffer.alloc(4 * KIB * KIB));
  const conf = (name: string, http: string, workers = 1): string =>
    `worker_processes ${workers}; daemon off; pid ${folder}/${name}.pid; error_log ${folder}/${name}.log;
     events { worker_connections 4096; }
     http { access_log off; keepalive_requests 10000000; ${http} }`;
  const backend = `server { listen ${GUEST.ip}:${GUEST.port} backlog=4096; listen 127.0.0.1:${PORTS.direct}; root ${folder};
    location = / { return 200 "some words that are an answer\\n"; } }`;
  const proxy = (
    port: number,
  ): string => `upstream guest { server ${GUEST.ip}:${GUEST.port}; keepalive 64; keepalive_requests 10000000; }
    server { listen 127.0.0.1:${port} backlog=4096; location / { proxy_pass http://guest; proxy_http_version 1.1;
    proxy_set_header Connection ""; proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr;
    proxy_set_header X-Forwarded-Proto http; proxy_set_header X-Forwarded-Host $host; } }`;
  await writeFile(join(folder, 'backend.conf'), conf('backend', backend));
  await writeFile(join(folder, 'proxy.conf'), conf('proxy', proxy(PORTS.nginx)));
  await writeFile(join(folder, 'proxy2.conf'), conf('proxy2', proxy(PORTS.nginx2), 2));
  start('1', ['nginx', '-p', folder, '-c', join(folder, 'backend.conf')]);
}

function local(name: string): string {
  return join(import.meta.dirname, 'lib', name);
}
