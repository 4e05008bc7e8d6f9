import { chmod, mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { systemClock } from '../src/base/clock.ts';
import { run } from '../src/host/run.ts';
import { leaks, lookAtHost, type HostSnapshot } from '../test/support/leaks.ts';
import { typescriptFiles } from './lib/arrows.ts';
import { describeFile, runTestFiles, summarise, type FileResult } from './lib/test-run.ts';

/**
 * `npm run test:system -- [part of a file's name...]`: real guests, bridges, rules and databases. One file at a time, each
 * with a temporary folder of its own; whatever a file leaves on the machine is a failure of it.
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
  const outer = process.env['TMPDIR'];
  process.env['TMPDIR'] = folder;
  try {
    const before = await lookAtHost(folder);
    const from = performance.now();
    const [result] = await runTestFiles([join(root, file)], {
      root,
      concurrency: 1,
      timeoutMs: 15 * 60_000,
      onFile: () => undefined,
    });
    if (!result) throw new Error(`${file} has no result`);
    const left = await whatStays(before, folder);
    return {
      ...result,
      seconds: (performance.now() - from) / 1000,
      problems: [...result.problems, ...left.map((thing) => `left behind: ${thing}`)],
    };
  } finally {
    if (outer === undefined) delete process.env['TMPDIR'];
    else process.env['TMPDIR'] = outer;
    await rm(folder, { recursive: true, force: true });
  }
}

/** What the file left behind: what still is there some seconds later, since a killed process takes a moment to go. */
async function whatStays(before: HostSnapshot, folder: string): Promise<readonly string[]> {
  for (let tries = 1; ; tries += 1) {
    const left = [
      ...leaks(before, await lookAtHost(folder)),
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
