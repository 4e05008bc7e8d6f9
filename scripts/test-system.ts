import { chmod, mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { systemClock } from '../src/base/clock.ts';
import { CommandFailed, run } from '../src/host/run.ts';
import { leaks, lookAtHost, type HostSnapshot } from '../test/support/leaks.ts';
import { makeNetns, type Netns } from '../test/support/netns.ts';
import { typescriptFiles } from './lib/arrows.ts';
import { describeFile, FILE_MS, summarise, type FileResult } from './lib/test-run.ts';

/**
 * `npm run test:system -- [part of a file's name...]`: real guests, bridges, rules and databases. One file at a time, each
 * in a network namespace and with a temporary folder of its own; whatever a file leaves in them or on the machine is a
 * failure of it.
 */
const root = join(import.meta.dirname, '..');
const wanted = process.argv.slice(2);

if (process.getuid?.() !== 0) refuse('The system tests must run as root: they make bridges and guests.');
const missing = await missingPrograms();
if (missing.length > 0)
  refuse(`These programs are missing: ${missing.join(', ')}. "npm test" installs what the tests need.`);

const all = (await typescriptFiles(root, 'test/system')).filter((file) => file.endsWith('.test.ts'));
const files = all.filter((file) => wanted.length === 0 || wanted.some((part) => file.includes(part)));
const started = performance.now();
const results: FileResult[] = [];
for (const file of files) {
  const result = await runAlone(file);
  results.push(result);
  console.log(describeFile(result));
}
const { good, line } = summarise(results);
console.log(`${line} (${((performance.now() - started) / 1000).toFixed(1)} s)`);
process.exitCode = good ? 0 : 1;

/** Runs one file with $TMPDIR a folder of its own, and adds to its problems what it left behind. */
async function runAlone(file: string): Promise<FileResult> {
  // Short, for the names of Unix sockets; open to enter, for PostgreSQL and QEMU, which do not run as root.
  const folder = await mkdtemp(join(tmpdir(), 'ht-'));
  await chmod(folder, 0o755);
  const namespace = await makeNetns('hatch-test');
  try {
    const before = await lookAtHost(folder);
    const from = performance.now();
    const result = await runInside(namespace, file, folder);
    const left = await whatStays(before, folder, namespace);
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
  try {
    const { stdout } = await run(
      namespace.enter([process.execPath, '--disable-warning=ExperimentalWarning', one, file]),
      { cwd: root, env: { ...Object.fromEntries(own), TMPDIR: folder }, timeoutMs: FILE_MS + 60_000 },
    );
    // What test-one.ts prints.
    return JSON.parse(stdout) as FileResult;
  } catch (error) {
    if (!(error instanceof CommandFailed)) throw error;
    return { file, passed: 0, seconds: 0, problems: [`${error.message}\n${error.stderrTail}`] };
  }
}

/** What the file left behind: what still is there some seconds later, since a killed process takes a moment to go. */
async function whatStays(before: HostSnapshot, folder: string, namespace: Netns): Promise<readonly string[]> {
  for (let tries = 1; ; tries += 1) {
    const left = [
      ...leaks(before, await lookAtHost(folder)),
      ...(await namespace.contents()),
      ...(await readdir(folder)).map((name) => `file ${join(folder, name)}`),
    ];
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
