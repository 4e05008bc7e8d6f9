import { chmod, mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { systemClock } from '../src/base/clock.ts';
import { CommandFailed, run } from '../src/host/run.ts';
import { leaks, lookAtHost, processesOf } from '../test/support/leaks.ts';
import { makeNetns, type Netns } from '../test/support/netns.ts';
import { typescriptFiles } from './lib/arrows.ts';
import { describeFile, FILE_MS, summarise, type FileResult } from './lib/test-run.ts';

/**
 * `npm run test:system -- [part of a file's name...]`: real guests, bridges, rules and databases; `--long` takes the files of
 * test/long/ (`npm run test:long`). Two files at a time, as a rule one with guests and one without, and a third that mostly waits, each in a
 * network namespace and with a temporary folder of its own. More at a time take longer: the processors of an emulated guest wait for each
 * other, and a guest that has half of a processor needs more of it. Whatever a file leaves in them is a failure of it; what all of
 * them leave elsewhere on the machine is a failure of the run.
 */
const root = join(import.meta.dirname, '..');
// Test files start in half the time; what they start does too.
process.env['NODE_COMPILE_CACHE'] ??= join(root, 'node_modules/.cache/compiled');
/** Each boots a guest of which the others have copies: they are begun when it has ended. */
const COPIES: Readonly<Record<string, readonly string[]>> = {
  booted: ['vmm-qemu', 'guest-agent', 'guest-life', 'snapshots', 'hatchd-restart', 'idle'],
};
/** The longest before all, so that none of them is what everything else has to wait for at the end. */
const WITH_GUESTS = [
  ...Object.keys(COPIES),
  'seed-replay',
  ...Object.values(COPIES)
    .flat()
    .filter((name) => name !== 'idle'),
];
/** These wait most of their time, for guests to fall asleep and for connections to time out: they go beside the others. */
const WAITING = ['idle', 'crowds'];
const long = process.argv.includes('--long');
const wanted = process.argv.slice(2).filter((word) => word !== '--long');

if (process.getuid?.() !== 0) refuse('The system tests must run as root: they make bridges and guests.');
const missing = await missingPrograms();
if (missing.length > 0)
  refuse(`These programs are missing: ${missing.join(', ')}. "npm test" installs what the tests need.`);

const all = (await typescriptFiles(root, long ? 'test/long' : 'test/system')).filter((file) =>
  file.endsWith('.test.ts'),
);
const files = all.filter((file) => wanted.length === 0 || wanted.some((part) => file.includes(part)));
const is = (file: string, name: string): boolean => file.endsWith(`/${name}.test.ts`);
/** Of the guests that were booted for others. */
const shared = await mkdtemp(join(tmpdir(), 'ht-booted-'));
const booted = new Map(
  Object.keys(COPIES)
    .filter((name) => files.some((file) => is(file, name)))
    .map((name) => [name, Promise.withResolvers<void>()]),
);
const started = performance.now();
const before = await lookAtHost();
const results: FileResult[] = [];
const named = (names: readonly string[]): string[] =>
  names.flatMap((name) => files.filter((file) => is(file, name)));
const [guests, waiting] = [named(WITH_GUESTS), named(WAITING)];
const others = files.filter((file) => ![...guests, ...waiting].includes(file));
/** Runs files one after the other, from the first of its queues that holds one. */
const worker = async (...queues: readonly string[][]): Promise<void> => {
  const next = (): string | undefined => queues.find((queue) => queue.length > 0)?.shift();
  for (let file = next(); file !== undefined; file = next()) {
    for (const [name, { promise }] of booted)
      if (COPIES[name]?.some((copy) => is(file, copy)) === true) await promise;
    const result = await runAlone(file);
    for (const [name, { resolve }] of booted) if (is(file, name)) resolve();
    results.push(result);
    console.log(describeFile(result));
  }
};
await Promise.all([worker(guests, others), worker(others, guests), worker(waiting)]);
await rm(shared, { recursive: true, force: true });
const left = await whatStays(async () => leaks(before, await lookAtHost()));
for (const thing of left) console.error(`left behind: ${thing}`);
const { good, line } = summarise(results);
console.log(`${line} (${((performance.now() - started) / 1000).toFixed(1)} s)`);
process.exitCode = good && left.length === 0 ? 0 : 1;

/** Runs one file with $TMPDIR a folder of its own, and adds to its problems what it left behind. */
async function runAlone(file: string): Promise<FileResult> {
  // Short, for the names of Unix sockets; open to enter, for PostgreSQL and QEMU, which do not run as root.
  const folder = await mkdtemp(join(tmpdir(), 'ht-'));
  await chmod(folder, 0o755);
  const namespace = await makeNetns('hatch-test');
  try {
    const from = performance.now();
    const result = await runInside(namespace, file, folder);
    const left = await whatStays(async () => [
      ...(await namespace.contents()),
      ...(await processesOf(folder)).map((line) => `process ${line}`),
      ...(await readdir(folder)).map((name) => `file ${join(folder, name)}`),
    ]);
    return {
      ...result,
      seconds: (performance.now() - from) / 1000,
      problems: [...result.problems, ...left.map((thing) => `left behind: ${thing}`)],
    };
  } finally {
    await namespace.dispose();
    await rm(folder, { recursive: true, force: true });
  }
}

/** Runs one file in the namespace, as it would run anywhere else, and gives what came of it. */
async function runInside(namespace: Netns, file: string, folder: string): Promise<FileResult> {
  const own = Object.entries(process.env).filter(
    (entry): entry is [string, string] => entry[1] !== undefined,
  );
  const one = join(root, 'scripts/test-one.ts');
  // Out of the namespace leads only this, for what a test has to fetch.
  const outside = `/proc/${process.pid}/ns/net`;
  try {
    const { stdout } = await run(
      namespace.enter([process.execPath, '--disable-warning=ExperimentalWarning', one, file]),
      {
        cwd: root,
        env: {
          ...Object.fromEntries(own),
          TMPDIR: folder,
          HATCH_TEST_OUTSIDE: outside,
          HATCH_TEST_BOOTED: shared,
        },
        timeoutMs: FILE_MS + 60_000,
      },
    );
    // What test-one.ts prints.
    return JSON.parse(stdout) as FileResult;
  } catch (error) {
    if (!(error instanceof CommandFailed)) throw error;
    return { file, passed: 0, seconds: 0, notes: [], problems: [`${error.message}\n${error.stderrTail}`] };
  }
}

/** What is there and should not be, some seconds later too, since a killed process takes a moment to go. */
async function whatStays(look: () => Promise<readonly string[]>): Promise<readonly string[]> {
  for (let tries = 1; ; tries += 1) {
    const left = await look();
    if (left.length === 0 || tries === 6) return left;
    await systemClock.sleep(500);
  }
}

/** The programs of scripts/lib/debian-packages.json that are not to be found. */
async function missingPrograms(): Promise<readonly string[]> {
  const list: unknown = JSON.parse(await readFile(join(root, 'scripts/lib/debian-packages.json'), 'utf8'));
  const programs = Object.values(list ?? {})
    .flat()
    .map((entry: unknown) =>
      typeof entry === 'object' && entry !== null && 'binary' in entry ? entry.binary : undefined,
    )
    .filter((binary) => typeof binary === 'string');
  const found = await Promise.all(
    programs.map(async (program) => (await run(['which', program], { okExitCodes: [0, 1] })).exitCode === 0),
  );
  return programs.filter((_, index) => !found[index]);
}

function refuse(sentence: string): never {
  console.error(sentence);
  process.exit(1);
}
