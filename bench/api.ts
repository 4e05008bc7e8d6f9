import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, open, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { HatchClient } from '../src/clients/http.ts';
import { run } from '../src/host/run.ts';
import { quantile } from './lib/figures.ts';
import { line, print, round } from './lib/table.ts';
import { installTools } from './lib/tools.ts';

/**
 * `node bench/api.ts [get|crowd...]`: what the API costs, of a hatchd with pretended guests, its database a SQLite file, its log a file.
 * `get`: `GET /vms/{id}` beside a bare fastify that answers the same bytes; both have one core, wrk the other, and are asked in turn;
 * medians of the rounds. `crowd`: what a thousand VMs cost. wrk is installed where it is missing (Debian, as root).
 */
const ROUNDS = 5;
const ROUND_SECONDS = 4;
const CONNECTIONS = 32;
const PORTS = { ours: 19581, bare: 19582, proxy: 19583, least: 19584 };
const ONE_BY_ONE = 3000;
const CROWD = 1000;
const IDLE_SECONDS = 60;
const NODE = [process.execPath, '--disable-warning=ExperimentalWarning'];

const asked = process.argv.slice(2);
const wanted = (part: string): boolean => asked.length === 0 || asked.includes(part);
const folder = await mkdtemp(join(tmpdir(), 'bench-api-'));
const children: ChildProcess[] = [];
try {
  await installTools(['wrk']);
  const hatchd = await startHatchd();
  if (wanted('get')) await get(hatchd);
  if (wanted('crowd')) await crowd(hatchd);
  await hatchd.client.close();
} finally {
  for (const child of children) child.kill();
  await Promise.all(
    children.map(async (child) => {
      if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
    }),
  );
  await rm(folder, { recursive: true });
}

interface Hatchd {
  readonly client: HatchClient;
  readonly key: string;
  readonly pid: number;
}

async function get({ client, key }: Hatchd): Promise<void> {
  const vm = await client.vms.create({ name: 'asked', labels: { of: 'the benchmark' } });
  const bytes = JSON.stringify(await client.vms.get(vm.id));
  const bare = start('0', [
    ...NODE,
    join(import.meta.dirname, 'lib/bare-fastify.ts'),
    `${PORTS.bare}`,
    bytes,
  ]);
  await saidBy(bare);
  const least = start('0', [
    ...NODE,
    join(import.meta.dirname, 'lib/least-api.ts'),
    ...[`${PORTS.least}`, bytes, key, join(folder, 'least.log')],
  ]);
  await saidBy(least);
  const path = `/vms/${vm.id}`;
  type Round = Readonly<Record<'ours' | 'anew' | 'bare' | 'least', Load>>;
  const rounds: Round[] = [];
  for (let i = -1; i < ROUNDS; i++) {
    const round = {
      ours: await wrk(PORTS.ours, path, key),
      // A header that nobody knows: an answer that is remembered is not given.
      anew: await wrk(PORTS.ours, path, key, 'X-Anew: yes'),
      bare: await wrk(PORTS.bare, path, key),
      least: await wrk(PORTS.least, path, key),
    };
    if (i >= 0) rounds.push(round);
  }
  const median = (of: (round: Round) => number): number => quantile(rounds.map(of), 0.5);
  const what = 'a bare fastify, the same bytes';
  const perSecond = {
    ours: median((pair) => pair.ours.perSecond),
    theirs: median((pair) => pair.bare.perSecond),
  };
  print(line(`GET /vms/{id} a second, ${CONNECTIONS} connections`, perSecond, what, 'at least 0.4'));
  const anew = median((round) => round.anew.perSecond);
  const byRoute = { ours: anew, theirs: perSecond.theirs };
  print(line('the same, each answer made anew', byRoute, what, 'none'));
  const leastPerSecond = median((round) => round.least.perSecond);
  const withLeast = { ours: anew, theirs: leastPerSecond };
  print(line('that', withLeast, 'the least that has a key, a row and a line in the log', 'none'));
  print(line('that least itself', { ours: leastPerSecond, theirs: perSecond.theirs }, what, 'none'));
  const p99 = { ours: median((pair) => pair.ours.p99), theirs: median((pair) => pair.bare.p99) };
  print(line('its p99, ms, as fast as each can', p99, what, 'none'));
  const [ours, theirs] = [await oneByOne(PORTS.ours, path, key), await oneByOne(PORTS.bare, path, key)];
  for (const share of [0.5, 0.99]) {
    const both = { ours: quantile(ours, share), theirs: quantile(theirs, share) };
    print(line(`one request at a time, p${share * 100}, ms`, both, what, 'none'));
  }
  bare.kill();
  least.kill();
}

async function crowd({ client, key, pid }: Hatchd): Promise<void> {
  const there = (await client.vms.list()).length;
  await make(client, 10 - there);
  const paths = ['/vms?limit=10', '/vms?limit=10&label=group%3Da', '/vms?state=running&limit=10'];
  const few = new Map<string, number[]>();
  for (const path of paths) few.set(path, await oneByOne(PORTS.ours, path, key));
  const before = await rssMiB(pid);
  const made = await make(client, CROWD - 10);
  print({
    figure: `ms for each VM made, pretended, up to the ${CROWD}th: the last hundred beside the first`,
    ours: round(quantile(made.slice(-100), 0.5)),
    reference: round(quantile(made.slice(0, 100), 0.5)),
    what: 'the first hundred',
    ratio: round(quantile(made.slice(-100), 0.5) / quantile(made.slice(0, 100), 0.5)),
    limit: 'none',
  });
  for (const path of paths) {
    const both = {
      ours: quantile(await oneByOne(PORTS.ours, path, key), 0.99),
      theirs: quantile(few.get(path) ?? [], 0.99),
    };
    print(line(`p99 of GET ${path} with ${CROWD} VMs, ms`, both, 'the same with 10', 'at most 2'));
  }
  await sleep(5000);
  const from = await cpuSeconds(pid);
  await sleep(IDLE_SECONDS * 1000);
  const idle = (100 * ((await cpuSeconds(pid)) - from)) / IDLE_SECONDS;
  const alone = (figure: string, ours: number, reference: number | null, what: string, limit: string): void =>
    print({
      figure,
      ours: round(ours),
      reference: reference === null ? null : round(reference),
      what,
      ratio: null,
      limit,
    });
  alone(`% of a core with ${CROWD} VMs, nobody asking`, idle, null, 'none', 'at most 2');
  alone(`RSS with ${CROWD} VMs, MiB`, await rssMiB(pid), before, 'with 10', 'at most 238: 250 MB');
}

/** Makes VMs, eight at a time; gives the milliseconds each took. */
async function make(client: HatchClient, count: number): Promise<readonly number[]> {
  const took: number[] = [];
  let left = count;
  const worker = async (): Promise<void> => {
    while (left-- > 0) {
      const from = performance.now();
      await client.vms.create({ labels: { group: left % 2 === 0 ? 'a' : 'b' } });
      took.push(performance.now() - from);
    }
  };
  await Promise.all(Array.from({ length: 8 }, worker));
  return took;
}

async function startHatchd(): Promise<Hatchd> {
  const log = await open(join(folder, 'log'), 'a');
  const env = {
    PATH: process.env['PATH'],
    HATCH_VMM: 'fake',
    HATCH_DATA_DIR: join(folder, 'data'),
    HATCH_HTTP_ADDR: `127.0.0.1:${PORTS.ours}`,
    HATCH_PROXY_ADDR: `127.0.0.1:${PORTS.proxy}`,
    HATCH_SSH_ADDR: '127.91.7.11',
    HATCH_SSH_PORT_MIN: '2200',
    HATCH_SSH_PORT_MAX: '5000',
    HATCH_BRIDGE_CIDR: '10.91.0.1/16',
    HATCH_RATE_LIMIT: '0',
    HATCH_MAX_VMS_PER_ACCOUNT: '100000',
  };
  const hatchd = join(import.meta.dirname, '../bin/hatchd');
  const child = spawn('taskset', ['-c', '0', hatchd], { env, stdio: ['ignore', 'ignore', log.fd] });
  children.push(child);
  await log.close();
  const url = `http://127.0.0.1:${PORTS.ours}`;
  const probe = new HatchClient({ url });
  for (;;) {
    if (child.exitCode !== null) throw new Error(await readFile(join(folder, 'log'), 'utf8'));
    if (
      await probe.ready().then(
        () => true,
        () => false,
      )
    )
      break;
    await sleep(100);
  }
  await probe.close();
  const key = (await readFile(join(folder, 'data/admin-key'), 'utf8')).trim();
  return { client: new HatchClient({ url, apiKey: key }), key, pid: child.pid ?? 0 };
}

interface Load {
  readonly perSecond: number;
  /** Milliseconds. */
  readonly p99: number;
}

async function wrk(port: number, path: string, key: string, header?: string): Promise<Load> {
  const args = [
    '-t1',
    `-c${CONNECTIONS}`,
    `-d${ROUND_SECONDS}s`,
    '--latency',
    '-H',
    `Authorization: Bearer ${key}`,
    ...(header === undefined ? [] : ['-H', header]),
  ];
  const { stdout } = await run(['taskset', '-c', '1', 'wrk', ...args, `http://127.0.0.1:${port}${path}`], {
    timeoutMs: 60_000,
  });
  const perSecond = /Requests\/sec:\s+([\d.]+)/.exec(stdout)?.[1];
  const [, p99, unit] = /99%\s+([\d.]+)(us|ms|s)/.exec(stdout) ?? [];
  if (perSecond === undefined || unit === undefined || /Non-2xx|Socket errors/.test(stdout))
    throw new Error(`wrk said: ${stdout}`);
  const scale = { us: 0.001, ms: 1, s: 1000 }[unit] ?? Number.NaN;
  return { perSecond: Number(perSecond), p99: Number(p99) * scale };
}

/** Asks so many times, one after the other over one connection; gives the milliseconds each took. */
async function oneByOne(port: number, path: string, key: string): Promise<number[]> {
  const { stdout } = await run(
    [
      'taskset',
      '-c',
      '1',
      ...NODE,
      join(import.meta.dirname, 'lib/one-by-one.ts'),
      `${port}`,
      path,
      `${ONE_BY_ONE}`,
    ],
    { timeoutMs: 120_000, env: { HATCH_API_KEY: key } },
  );
  return JSON.parse(stdout) as number[];
}

function start(cores: string, argv: readonly string[]): ChildProcess {
  const child = spawn('taskset', ['-c', cores, ...argv], { stdio: ['ignore', 'pipe', 'inherit'] });
  children.push(child);
  return child;
}

async function saidBy({ stdout }: ChildProcess): Promise<void> {
  if (!stdout) throw new Error('its output is not ours');
  await once(createInterface(stdout), 'line', { signal: AbortSignal.timeout(60_000) });
}

/** CPU time of a process and all its threads, in seconds: fields 14 and 15 of proc(5), in hundredths. */
async function cpuSeconds(pid: number): Promise<number> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return (Number(fields[11]) + Number(fields[12])) / 100;
}

async function rssMiB(pid: number): Promise<number> {
  const kib = /^VmRSS:\s+(\d+) kB$/m.exec(await readFile(`/proc/${pid}/status`, 'utf8'))?.[1];
  return Number(kib) / 1024;
}
