import { randomBytes } from 'node:crypto';
import { chmod, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { systemClock } from '../src/base/clock.ts';
import { until } from '../src/base/until.ts';
import type { Vm } from '../src/contract/vm.ts';
import { run } from '../src/host/run.ts';
import { startHatchd, type Hatchd } from '../test/support/hatchd.ts';
import { START_SERVING } from '../test/support/page-server.ts';
import { quantile } from './lib/figures.ts';
import { firstByteOfPage, firstByteOfSsh, type FirstByte } from './lib/first-byte.ts';
import { inOwnNetns } from './lib/own-netns.ts';
import { SMALL_SERVER } from './lib/small-server.ts';
import { knock, openLine, type SshLine, type SshTarget } from './lib/ssh-line.ts';

/**
 * `node bench/ways-in.ts [scp|wake...]`, as root: what the ways into a real guest cost. Files over SSH by the VM's port stand beside the
 * same files over SSH to the guest's own address; the first byte of a page or a banner from a VM that slept stands beside the same VM's
 * wake by the API. All of a comparison are asked in turn, medians of the rounds. The guest is of the built image, with 512 MiB.
 */
const COPIES = 7;
const WAKES = 8;
const MEM_MIB = 512;
const MIB = 2 ** 20;
/** A transfer is to take about so long: then its beginning and its end do not matter. */
const COPY_SECONDS = 4;
const TRIAL_MIB = 4;
/** It lies in the guest's memory, which has to have room for it. */
const MOST_MIB = 96;
const REST_MS = 1500;
const PAGE_PORT = 8000;
const PROXY = { host: '127.0.0.1', port: 9090 } as const;

interface Bench {
  readonly hatchd: Hatchd;
  readonly folder: string;
  readonly vm: Vm;
}

/** A figure and what it stands beside, of the rounds that count. */
interface Pair {
  readonly figure: string;
  readonly unit: string;
  readonly ours: readonly number[];
  readonly theirs: readonly number[];
  readonly what: string;
  /** null: it is told for what it tells of the others. */
  readonly limit: string | null;
}

/** A way to wake a VM, and the times it took. */
interface Way {
  readonly by: string;
  readonly come: () => Promise<FirstByte & { readonly thenMs?: number }>;
  readonly times: number[];
  /** With what was waited for afterwards. */
  readonly withPage?: number[];
}

const asked = process.argv.slice(2);
const wanted = (part: string): boolean => asked.length === 0 || asked.includes(part);

await inOwnNetns(import.meta.filename, async () => {
  const folder = await mkdtemp(join(tmpdir(), 'bench-'));
  await chmod(folder, 0o755);
  const hatchd = await startHatchd(folder, { HATCH_VMM: 'qemu' });
  try {
    const bench = { hatchd, folder, vm: await bootGuest(hatchd) };
    await rest();
    if (wanted('scp')) for (const pair of await measureCopies(bench)) print(pair);
    if (wanted('wake')) for (const pair of await measureWakes(bench)) print(pair);
  } finally {
    await hatchd.down();
    await rm(folder, { recursive: true });
  }
});

async function bootGuest(hatchd: Hatchd): Promise<Vm> {
  const { vms, routes } = hatchd.client;
  const vm = await vms.create(
    { name: 'page', mem_mib: MEM_MIB, ssh_authorized_keys: [hatchd.publicKey] },
    { wait: 'ready', timeout: 300 },
  );
  const serve = `${START_SERVING} && ${SMALL_SERVER.start} && sync`;
  await inside({ hatchd, vm }, `systemctl is-system-running --wait; ${serve}`);
  await routes.create(vm.id, { subdomain: 'page', target_port: PAGE_PORT });
  await routes.create(vm.id, { subdomain: 'small', target_port: SMALL_SERVER.port });
  for (const name of ['page', 'small'] as const)
    await until({ clock: systemClock, signal: AbortSignal.timeout(60_000) }, () =>
      askProxy(name).catch(() => undefined),
    );
  return vm;
}

/** How fast a file goes in and out, over connections that are open; and how long one takes to be opened. */
async function measureCopies(bench: Bench): Promise<readonly Pair[]> {
  const { hatchd, folder, vm } = bench;
  const as = { user: 'debian', keyFile: hatchd.keyFile };
  const gateway: SshTarget = { ...as, host: '127.0.0.1', port: vm.ssh_port ?? 0 };
  const direct: SshTarget = { ...as, host: vm.guest_ip ?? '', port: 22 };
  const opened = await inTurn(
    COPIES,
    () => timed(() => knock(gateway)),
    () => timed(() => knock(direct)),
  );
  const line = await openLine(gateway, folder, 'gateway');
  const other = await openLine(direct, folder, 'direct');
  const file = join(folder, 'file');
  const back = join(folder, 'back');
  const there = '/dev/shm/bench';
  await writeFile(file, randomBytes(TRIAL_MIB * MIB));
  await other.upload(file, there);
  const trialMs = await timed(() => other.upload(file, there));
  const mib = Math.min(
    MOST_MIB,
    Math.max(TRIAL_MIB, Math.round((TRIAL_MIB * COPY_SECONDS * 1000) / trialMs)),
  );
  const content = randomBytes(mib * MIB);
  await writeFile(file, content);
  const speed = async (work: () => Promise<unknown>): Promise<number> => (mib * 1000) / (await timed(work));
  const up = (over: SshLine) => () => speed(() => over.upload(file, there));
  const down = (over: SshLine) => () => speed(() => over.download(there, back));
  const uploads = await inTurn(COPIES, up(line), up(other));
  const downloads = await inTurn(COPIES, down(line), down(other));
  if (!content.equals(await readFile(back))) throw new Error('what came back is not what was sent');
  await Promise.all([line.close(), other.close()]);
  await inside(bench, `rm ${there}`);
  const what = "the guest's own address";
  const speeds = { unit: 'MiB/s', what, limit: 'at least 0.7' } as const;
  return [
    { figure: `scp of ${mib} MiB into the guest`, ...speeds, ...uploads },
    { figure: `scp of ${mib} MiB out of the guest`, ...speeds, ...downloads },
    { figure: 'an SSH connection that runs `true`', unit: 'ms', what, limit: null, ...opened },
  ];
}

/** From somebody's coming to the first byte, of a VM that sleeps; it sleeps again before the next comes. */
async function measureWakes(bench: Bench): Promise<readonly Pair[]> {
  const { hatchd, vm } = bench;
  const guest = { host: vm.guest_ip ?? '', port: PAGE_PORT };
  const wakeThenPage = async (): Promise<FirstByte & { readonly thenMs: number }> => {
    const ms = await timed(() => hatchd.client.vms.restore(vm.id, {}, { wait: 'ready', timeout: 60 }));
    const page = await firstByteOfPage(guest);
    return { ms, wakeMs: undefined, thenMs: page.ms };
  };
  const api: number[] = [];
  const apiThenPage: number[] = [];
  const page: number[] = [];
  const small: number[] = [];
  const banner: number[] = [];
  const ways: readonly Way[] = [
    { by: 'api', come: wakeThenPage, times: api, withPage: apiThenPage },
    { by: 'page', come: () => askProxy('page'), times: page },
    { by: 'small', come: () => askProxy('small'), times: small },
    {
      by: 'banner',
      come: () => firstByteOfSsh({ host: '127.0.0.1', port: vm.ssh_port ?? 0 }),
      times: banner,
    },
  ];
  for (let i = -1; i < WAKES; i++) {
    // There and back: each comes as often before each other as after it.
    for (const { by, come, times, withPage } of i % 2 === 0 ? ways : ways.toReversed()) {
      await sleep(bench);
      const before = (await hatchd.log()).length;
      const came = await come();
      await inside(bench, 'true');
      note({ by, ...came, steps: stepsIn((await hatchd.log()).slice(before)) });
      if (i < 0) continue;
      times.push(came.ms);
      withPage?.push(came.ms + (came.thenMs ?? 0));
    }
  }
  const what = 'restore by the API, until it is ready';
  const beside = { unit: 'ms', theirs: api, what } as const;
  const figure = 'first byte of a page of Python, by the proxy';
  const limit = 'at most 1.2';
  return [
    { figure: 'first byte of the smallest server, by the proxy', ...beside, ours: small, limit },
    { figure, ...beside, ours: page, limit },
    {
      figure,
      unit: 'ms',
      ours: page,
      theirs: apiThenPage,
      what: `${what}, and then the same page from the guest's own address`,
      limit: null,
    },
    { figure: "first byte of sshd's banner, by the VM's port", ...beside, ours: banner, limit: null },
  ];
}

function askProxy(name: 'page' | 'small'): Promise<FirstByte> {
  return firstByteOfPage(PROXY, `${name}.hatch.localhost`);
}

/** Puts the VM to sleep, and waits until nothing is left to do for that. Of its snapshots only the last is kept. */
async function sleep({ hatchd, folder, vm }: Bench): Promise<void> {
  const { vms, snapshots } = hatchd.client;
  await rest();
  const { id } = await vms.snapshot(vm.id);
  await snapshots.get(id, { wait: 'stored', timeout: 120 });
  for (const old of await snapshots.list()) if (old.id !== id) await snapshots.delete(old.id);
  await run(['sync', '-f', folder], { timeoutMs: 120_000 });
}

/** How long the steps of operations took, by hatchd's log. */
function stepsIn(log: string): Readonly<Record<string, number>> {
  const lines = log.split('\n').filter((line) => line.includes('"step done"'));
  const steps = lines.map((line) => JSON.parse(line) as { readonly step: string; readonly ms: number });
  return Object.fromEntries(steps.map(({ step, ms }) => [step, ms]));
}

async function inside({ hatchd, vm }: Pick<Bench, 'hatchd' | 'vm'>, command: string): Promise<void> {
  const said = await hatchd.client.vms.exec(vm.id, { command, timeout_seconds: 120 });
  if (said.exit_code !== 0) throw new Error(`${command}: ${said.stderr}`);
}

/** Measures both in turn, so many times after one that does not count; who is first alternates. */
async function inTurn(
  rounds: number,
  ours: () => Promise<number>,
  theirs: () => Promise<number>,
): Promise<Pick<Pair, 'ours' | 'theirs'>> {
  const values: { readonly ours: number; readonly theirs: number }[] = [];
  for (let i = -1; i < rounds; i++) {
    const first = i % 2 === 0 ? await ours() : undefined;
    const other = await theirs();
    values.push({ ours: first ?? (await ours()), theirs: other });
  }
  const counted = values.slice(1);
  return { ours: counted.map((one) => one.ours), theirs: counted.map((one) => one.theirs) };
}

async function timed(work: () => Promise<unknown>): Promise<number> {
  const from = performance.now();
  await work();
  return performance.now() - from;
}

function rest(): Promise<void> {
  return systemClock.sleep(REST_MS);
}

function print({ figure, unit, ours, theirs, what, limit }: Pair): void {
  note({ figure, ours, theirs });
  const [one, other] = [quantile(ours, 0.5), quantile(theirs, 0.5)];
  const line = { figure, unit, ours: round(one), reference: round(other), what, ratio: round(one / other) };
  console.log(JSON.stringify({ ...line, limit, load: loadavg()[0] }));
}

/** To whoever waits; the figures stand alone on standard output. */
function note(told: object): void {
  console.error(
    JSON.stringify(told, (_key, value: unknown) => (typeof value === 'number' ? round(value) : value)),
  );
}

function round(value: number): number {
  return Math.round(value * 100) / 100;
}
