import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { availableParallelism, loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Snapshot } from '../src/contract/snapshot.ts';
import type { Vm } from '../src/contract/vm.ts';
import { commandLine } from '../src/host/process.ts';
import { run } from '../src/host/run.ts';
import type { QmpEvent } from '../src/vmm/qemu/qmp.ts';
import { qemuOf, startHatchd, type Hatchd } from '../test/support/hatchd.ts';
import {
  BareQemu,
  connectQmp,
  layOut,
  makeTap,
  stoodStill,
  timeline,
  type SavedGuest,
} from './lib/bare-qemu.ts';
import { ECHO_SERVER, whileCalling } from './lib/echo.ts';
import { quantile } from './lib/figures.ts';
import { inOwnNetns } from './lib/own-netns.ts';
import { bytesIn, filesOf, gzipBytes, type SavedFiles } from './lib/saved-files.ts';

/**
 * `node bench/snapshots.ts [pauses|wakes|forks|sizes...]`, as root: what saving, waking and copying a real guest costs through hatchd, each figure beside a bare
 * QEMU or a plain tool in the same run. The guests are of the built image with 512 MiB and rest. Times are medians of pairs taken in
 * turn; a bare load is from the start of QEMU, its tap and its overlay being there, to the agent's answer.
 */
const RUNS = 5;
/** Of wakes, which are quick, and whose figure is near its limit. */
const WAKES = 8;
const FORKS = 10;
const MEM_MIB = 512;
const MIB = 2 ** 20;
const REST_MS = 10_000;
const TIMEOUT_MS = 300_000;
const TAP = 'bare0';
/** A monitor besides hatchd's two: whoever connects to it hears when the guest stands still. */
const WRAPPER = `#!/bin/sh
case " $* " in
  *' -name '*) set -- "$@" -chardev socket,id=bench,path=bench.sock,server=on,wait=off -mon chardev=bench,mode=control ;;
esac
exec qemu-system-x86_64 "$@"
`;

interface Row {
  readonly figure: string;
  readonly unit: 'ms' | 'MiB';
  readonly ours: number;
  readonly reference: number;
  readonly what: string;
  readonly limit: number;
}

await inOwnNetns(import.meta.filename, async () => {
  const folder = await mkdtemp(join(tmpdir(), 'bench-'));
  await chmod(folder, 0o755);
  const wrapper = join(folder, 'qemu');
  await writeFile(wrapper, WRAPPER, { mode: 0o755 });
  const began = loadavg()[0] ?? 0;
  const hatchd = await startHatchd(folder, { HATCH_VMM: 'qemu', HATCH_QEMU_BIN: wrapper });
  try {
    const bench = { hatchd, folder };
    const rows = await measure(bench);
    say(`| figure | ours | reference | ratio | limit | holds |\n|---|---|---|---|---|---|`);
    for (const row of rows) say(asLine(row));
    say(`\n${availableParallelism()} processors; the load was ${began.toFixed(2)} when this began`);
  } finally {
    await hatchd.down();
    await rm(folder, { recursive: true });
  }
});

interface Bench {
  readonly hatchd: Hatchd;
  readonly folder: string;
}

async function measure(bench: Bench): Promise<readonly Row[]> {
  note('two guests boot');
  const [first, second] = await Promise.all([bootGuest(bench, 'first'), bootGuest(bench, 'second')]);
  const argv = await argvOf(first);
  await rest();
  const given = process.argv.slice(2);
  const part = async (name: string, work: () => Promise<readonly Row[]>): Promise<readonly Row[]> => {
    if (given.length > 0 && !given.includes(name)) return [];
    note(name);
    try {
      return await work();
    } catch (error) {
      // The others' figures are worth having.
      console.error(`${name} failed:`, error);
      process.exitCode = 1;
      return [];
    }
  };
  const sizes = await part('sizes', () => measureSizes(bench, first, second));
  const { saved } = await sleep(bench, first, argv);
  const forks = await part('forks', () => measureForks(bench, first, saved));
  const pauses = await part('pauses', () => measurePauses(bench, second, first, saved));
  await bench.hatchd.client.vms.delete(second.id);
  const wakes = await part('wakes', () => measureWakes(bench, first, saved));
  return [...pauses, ...wakes, ...forks, ...sizes];
}

/** How long a guest that is saved and goes on stands still. */
async function measurePauses(bench: Bench, vm: Vm, asleep: Vm, saved: SavedGuest): Promise<readonly Row[]> {
  const { hatchd, folder } = bench;
  const address = asleep.guest_ip ?? '';
  await makeTap(TAP, address);
  const bare = await BareQemu.load(
    await layOut(saved, { folder: join(folder, 'bare'), tap: TAP, memory: 'own' }),
  );
  const events: QmpEvent[] = [];
  const pid = (await qemuOf(vm.id)) ?? 0;
  const monitor = await connectQmp(`/proc/${pid}/cwd/bench.sock`, (event) => events.push(event));
  const ours: Pause[] = [];
  const theirs: Pause[] = [];
  try {
    for (let i = 0; i < RUNS; i++) {
      await rest();
      const { result, gapMs } = await whileCalling(address, () => bare.saveAndGoOn(`save-${i}`));
      theirs.push({ ...result, gap: gapMs });
      await rest();
      const from = events.length;
      const heard = await whileCalling(vm.guest_ip ?? '', () =>
        hatchd.client.vms.snapshot(vm.id, { keep_running: true }),
      );
      const said = events.slice(from);
      ours.push({ still: stoodStill(said), said: timeline(said), gap: heard.gapMs });
      await stored(bench, heard.result);
    }
  } finally {
    monitor.close();
    await bare.kill();
  }
  note(`pauses: ${JSON.stringify({ ours, theirs }, null, 1)}`);
  const row = (figure: string, of: 'still' | 'gap'): Row => ({
    figure,
    unit: 'ms',
    ours: median(ours.map((pause) => pause[of])),
    reference: median(theirs.map((pause) => pause[of])),
    what: 'QEMU by hand, the same save',
    limit: 1.5,
  });
  return [
    row('pause of a save, STOP to RESUME', 'still'),
    row('the longest silence of an echo meanwhile', 'gap'),
  ];
}

interface Pause {
  readonly still: number;
  readonly gap: number;
  readonly said: string;
}

/** From the call to the agent's answer, of a VM that sleeps; it sleeps again afterwards. */
async function measureWakes(bench: Bench, vm: Vm, asleep: SavedGuest): Promise<readonly Row[]> {
  const { vms } = bench.hatchd.client;
  const ours: number[] = [];
  const theirs: number[] = [];
  let saved = asleep;
  for (let i = 0; i < WAKES; i++) {
    theirs.push(await bareLoad(bench, saved));
    ours.push(await timed(() => vms.restore(vm.id, {}, { wait: 'ready', timeout: 60 })));
    await inside(bench, vm, 'true');
    ({ saved } = await sleep(bench, vm, saved.argv));
  }
  note(`wakes: ${JSON.stringify({ ours, theirs })}`);
  return [
    {
      figure: 'wake on the same host',
      unit: 'ms',
      ours: median(ours),
      reference: median(theirs),
      what: 'bare load of the same files',
      limit: 1.3,
    },
  ];
}

/** From the call to the copy's answer as somebody of its own, of one copy and of several at once. */
async function measureForks(bench: Bench, vm: Vm, saved: SavedGuest): Promise<readonly Row[]> {
  const ours: number[] = [];
  const theirs: number[] = [];
  const told: number[] = [];
  const identity: number[] = [];
  for (let i = 0; i < RUNS; i++) {
    theirs.push(await bareLoad(bench, saved));
    told.push(await bareLoad(bench, saved, (bare) => bare.giveIdentity(`bare-${i}`, '02:fc:00:00:00:01')));
    const one = await fork(bench, vm, 1);
    ours.push(one.ms);
    identity.push(await stepMs(bench, one.copies[0] ?? vm, 'identity'));
    await drop(bench, one.copies);
  }
  const many = await fork(bench, vm, FORKS);
  await drop(bench, many.copies);
  note(`forks: ${JSON.stringify({ ours, theirs, told, identity, many: many.ms })}`);
  const bare = { unit: 'ms', reference: median(theirs), what: 'bare load of the same files' } as const;
  return [
    { figure: 'fork', ours: median(ours), limit: 1.3, ...bare },
    {
      figure: 'fork',
      ours: median(ours),
      limit: 1.3,
      ...bare,
      reference: median(told),
      what: 'bare load of the same files, told the same identity by hand',
    },
    {
      figure: 'fork, without its step "identity"',
      ours: median(ours.map((ms, i) => ms - (identity[i] ?? 0))),
      limit: 1.3,
      ...bare,
    },
    {
      figure: `${FORKS} forks at once`,
      unit: 'ms',
      ours: many.ms,
      reference: median(ours),
      what: 'one fork',
      limit: 4,
    },
  ];
}

/** What snapshots of two idle guests of one image add to the store. */
async function measureSizes(bench: Bench, first: Vm, second: Vm): Promise<readonly Row[]> {
  const one = await bytesStored(bench, () => snapshot(bench, first));
  await rest();
  const two = await bytesStored(bench, () => snapshot(bench, first));
  const other = await bytesStored(bench, () => snapshot(bench, second));
  const gzip = await gzipBytes(bench.folder, two.files);
  note(`sizes: ${JSON.stringify({ first: one.bytes, again: two.bytes, other: other.bytes, gzip })}`);
  const mib = (bytes: number): number => bytes / MIB;
  const again = { unit: 'MiB', ours: mib(two.bytes) } as const;
  return [
    {
      figure: 'second snapshot of an idle guest',
      ...again,
      reference: MEM_MIB,
      what: 'its memory',
      limit: 0.03,
    },
    {
      figure: 'second snapshot of an idle guest',
      ...again,
      reference: mib(gzip.memory + gzip.disk),
      what: `gzip -1 of its memory (${Math.round(mib(gzip.memory))} MiB) and of its disk's used clusters (${Math.round(mib(gzip.disk))} MiB)`,
      limit: 1 / 15,
    },
    {
      figure: 'first snapshot of a second VM of the image',
      unit: 'MiB',
      ours: mib(other.bytes),
      reference: mib(one.bytes),
      what: 'first snapshot of the first VM',
      limit: 0.5,
    },
  ];
}

async function bootGuest(bench: Bench, name: string): Promise<Vm> {
  const { vms } = bench.hatchd.client;
  const vm = await vms.create({ name, mem_mib: MEM_MIB }, { wait: 'ready', timeout: 300 });
  await inside(bench, vm, `systemctl is-system-running --wait; ${ECHO_SERVER}; sync`);
  return vm;
}

async function inside({ hatchd }: Bench, { id }: Pick<Vm, 'id'>, command: string): Promise<string> {
  const said = await hatchd.client.vms.exec(id, { command, timeout_seconds: 120 });
  if (said.exit_code !== 0) throw new Error(`${command}: ${said.stderr}`);
  return said.stdout.trim();
}

async function argvOf({ id }: Vm): Promise<readonly string[]> {
  const argv = await commandLine((await qemuOf(id)) ?? 0);
  if (!argv) throw new Error(`${id} does not run`);
  const monitor = argv.findIndex((word) => word.includes('bench.sock'));
  return argv.toSpliced(monitor - 1, 4);
}

/** Saves a VM that goes on, and waits until that is in the store; gives the files it made. */
async function snapshot(bench: Bench, vm: Vm): Promise<SavedFiles> {
  return filesOf(join(bench.hatchd.data, 'layers'), async () =>
    stored(bench, await bench.hatchd.client.vms.snapshot(vm.id, { keep_running: true })),
  );
}

/** Puts a VM to sleep, and waits until its snapshot is in the store: what follows is not disturbed by that. */
async function sleep(bench: Bench, vm: Vm, argv: readonly string[]): Promise<{ readonly saved: SavedGuest }> {
  const files = await filesOf(join(bench.hatchd.data, 'layers'), async () =>
    stored(bench, await bench.hatchd.client.vms.snapshot(vm.id)),
  );
  return { saved: { ...files, argv, folder: join(bench.hatchd.data, 'vms', vm.id) } };
}

async function stored({ hatchd, folder }: Bench, { id }: Snapshot): Promise<void> {
  await hatchd.client.snapshots.get(id, { wait: 'stored', timeout: 300 });
  await run(['sync', '-f', folder], { timeoutMs: TIMEOUT_MS });
}

async function bytesStored(
  { hatchd }: Bench,
  work: () => Promise<SavedFiles>,
): Promise<{ readonly bytes: number; readonly files: SavedFiles }> {
  const home = join(hatchd.data, 'snapshots');
  const before = await bytesIn(home);
  const files = await work();
  return { bytes: (await bytesIn(home)) - before, files };
}

async function bareLoad(
  { folder }: Bench,
  saved: SavedGuest,
  then: (bare: BareQemu) => Promise<void> = async () => undefined,
): Promise<number> {
  const laid = await layOut(saved, { folder: join(folder, 'bare'), tap: TAP, memory: 'private' });
  await makeTap(TAP);
  let bare: BareQemu | undefined;
  const ms = await timed(async () => {
    bare = await BareQemu.load(laid);
    await then(bare);
  });
  await bare?.kill();
  return ms;
}

async function fork(
  bench: Bench,
  vm: Vm,
  count: number,
): Promise<{ readonly ms: number; readonly copies: readonly Vm[] }> {
  let copies: readonly Vm[] = [];
  const ms = await timed(async () => {
    copies = await bench.hatchd.client.vms.fork(vm.id, { count }, { wait: 'ready', timeout: 300 });
  });
  for (const copy of copies) {
    const name = await inside(bench, copy, 'hostname');
    if (name !== copy.id) throw new Error(`the copy ${copy.id} says that it is ${name}`);
  }
  return { ms, copies };
}

async function drop({ hatchd }: Bench, copies: readonly Vm[]): Promise<void> {
  for (const { id } of copies) await hatchd.client.vms.delete(id);
}

/** How long a step of a VM took, by hatchd's log. */
async function stepMs({ hatchd }: Bench, { id }: Vm, step: string): Promise<number> {
  const lines = (await hatchd.log())
    .split('\n')
    .filter((line) => line.includes(id) && line.includes('step done'));
  const said = lines
    .map((line) => JSON.parse(line) as { readonly step: string; readonly ms: number })
    .find((line) => line.step === step);
  if (!said) throw new Error(`hatchd's log has no step "${step}" of ${id}`);
  return said.ms;
}

async function timed(work: () => Promise<unknown>): Promise<number> {
  const from = performance.now();
  await work();
  return performance.now() - from;
}

function rest(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, REST_MS));
}

function median(values: readonly number[]): number {
  return quantile(values, 0.5);
}

function asLine({ figure, unit, ours, reference, what, limit }: Row): string {
  const digits = unit === 'ms' ? 0 : 1;
  const ratio = ours / reference;
  return `| ${figure} | ${ours.toFixed(digits)} ${unit} | ${reference.toFixed(digits)} ${unit}: ${what} | ${ratio.toFixed(3)} | ${limit.toFixed(3)} | ${ratio <= limit ? 'yes' : 'no'} |`;
}

function say(line: string): void {
  console.log(line);
}

/** To whoever waits; the table stands alone on standard output. */
function note(line: string): void {
  console.error(line);
}
