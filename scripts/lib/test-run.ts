import { relative } from 'node:path';
import { run } from 'node:test';
import { pathToFileURL } from 'node:url';
import { inspect } from 'node:util';

export interface FileResult {
  /** Relative to the root. */
  readonly file: string;
  readonly passed: number;
  readonly seconds: number;
  /** What went wrong, each with all a person needs to see; empty when the file is good. */
  readonly problems: readonly string[];
  /** What its tests say of the run (`t.diagnostic`): what they ran on, what was left out. */
  readonly notes: readonly string[];
}

interface Tally {
  readonly problems: string[];
  readonly notes: string[];
  output: string;
  passed: number;
  ms: number;
  /** How many problems had been told of; -1: not yet told of at all. */
  told: number;
}

const KEEP = 64 * 1024;
/** How long one file of system tests may take, in milliseconds. */
export const FILE_MS = 25 * 60_000;

/**
 * Runs test files, each in a process of its own, and tells what came of each as it ends. A test that is skipped or put
 * off, and a file without a test, are problems like any failure: nothing may be green that did not run.
 */
export async function runTestFiles(
  files: readonly string[],
  options: {
    readonly root: string;
    readonly concurrency: number;
    /** Of one test, in milliseconds. */
    readonly timeoutMs: number;
    /** Of one file, in milliseconds: its process is ended then. As long as it likes unless told. */
    readonly fileMs?: number;
    /** Absolute paths of modules that are loaded before each file. */
    readonly preload?: readonly string[];
    readonly onFile: (result: FileResult) => void;
  },
): Promise<readonly FileResult[]> {
  const tallies = new Map<string, Tally>();
  const tallyOf = (file: string): Tally => {
    const tally = tallies.get(file) ?? { problems: [], notes: [], output: '', passed: 0, ms: 0, told: -1 };
    tallies.set(file, tally);
    return tally;
  };
  for (const file of files) tallyOf(file);
  const resultOf = (file: string, { passed, problems, notes, output, ms }: Tally): FileResult => ({
    file: relative(options.root, file),
    passed,
    seconds: ms / 1000,
    notes,
    problems: [
      ...problems,
      ...(passed === 0 && problems.length === 0 ? ['the file ran no test'] : []),
      ...(problems.length > 0 && output.trim() !== '' ? [`what it printed:\n${output.trimEnd()}`] : []),
    ],
  });
  const tell = (file: string): void => {
    const tally = tallyOf(file);
    if (tally.told === tally.problems.length) return;
    tally.told = tally.problems.length;
    options.onFile(resultOf(file, tally));
  };

  const modules = (options.preload ?? []).map((path) => pathToFileURL(path).href);
  if (options.fileMs !== undefined)
    modules.push(new URL(`./end-in-time.ts?ms=${options.fileMs}`, import.meta.url).href);
  const stream = run({
    files: [...files],
    concurrency: options.concurrency,
    timeout: options.timeoutMs,
    execArgv: ['--disable-warning=ExperimentalWarning', ...modules.flatMap((module) => ['--import', module])],
  });
  const keepOutput = (data: { readonly message: string }): void => {
    const file = entryFile(data);
    if (file === undefined) return;
    const tally = tallyOf(file);
    tally.output = (tally.output + data.message).slice(-KEEP);
  };
  stream.on('test:stdout', keepOutput);
  stream.on('test:stderr', keepOutput);
  stream.on('test:diagnostic', (data) => {
    // Those of the whole run are of no file.
    const file = entryFile(data);
    if (file !== undefined) tallyOf(file).notes.push(data.message);
  });
  stream.on('test:pass', (data) => {
    const file = entryFile(data);
    // A file that holds no test is reported as a test itself.
    if (file === undefined || data.name === file || data.details.type === 'suite') return;
    const tally = tallyOf(file);
    if (isSaid(data.skip)) tally.problems.push(`"${data.name}" was skipped`);
    else if (isSaid(data.todo)) tally.problems.push(`"${data.name}" was put off`);
    else tally.passed += 1;
  });
  stream.on('test:fail', (data) => {
    const file = entryFile(data);
    if (file === undefined || failureType(data.details.error) === 'subtestsFailed') return;
    const what = data.name === file ? 'the file' : `"${data.name}"`;
    tallyOf(file).problems.push(`${what} failed: ${explain(data.details.error)}`);
  });
  stream.on('test:summary', (data) => {
    const file = entryFile(data);
    if (file === undefined) return;
    tallyOf(file).ms = data.duration_ms;
    tell(file);
  });
  await new Promise<void>((resolve, reject) => {
    stream.once('end', resolve);
    stream.once('error', reject);
    stream.resume();
  });
  // Those without a summary of their own: no test in it, or it fell over.
  for (const file of tallies.keys()) tell(file);
  return [...tallies].map(([file, tally]) => resultOf(file, tally));
}

/** One line for a good file, and what it says of itself; all its problems for a bad one. */
export function describeFile({ file, passed, seconds, problems, notes }: FileResult): string {
  const line = `${problems.length === 0 ? '✓' : '✗'} ${file.padEnd(44)} ${String(passed).padStart(3)} passed  ${seconds.toFixed(1)} s`;
  return [
    line,
    ...notes.map((note) => `  · ${note}`),
    ...problems.map((problem) => problem.replaceAll(/^/gm, '    ')),
  ].join('\n');
}

/** The last line of a run, and whether it was good. */
export function summarise(results: readonly FileResult[]): { readonly good: boolean; readonly line: string } {
  const passed = results.reduce((sum, result) => sum + result.passed, 0);
  const bad = results.filter((result) => result.problems.length > 0);
  if (results.length === 0 || passed === 0) return { good: false, line: 'no test was run' };
  return {
    good: bad.length === 0,
    line:
      bad.length === 0
        ? `${passed} tests in ${results.length} files passed, none was skipped`
        : `${bad.length} of ${results.length} files failed: ${bad.map((result) => result.file).join(', ')}`,
  };
}

/** `skip` and `todo` are true or a reason; an empty reason counts too. */
function isSaid(flag: boolean | string | undefined): boolean {
  return flag !== undefined && flag !== false;
}

/** The error of the test itself, without node:test's wrapping. */
function explain(error: Error): string {
  return inspect(error.cause ?? error, { depth: 4 });
}

/** The test file an event belongs to: `file` alone is where test() was called, which may be a suite shared by several. */
function entryFile(data: object): string | undefined {
  if ('entryFile' in data && typeof data.entryFile === 'string') return data.entryFile;
  return 'file' in data && typeof data.file === 'string' ? data.file : undefined;
}

function failureType(error: Error): unknown {
  return 'failureType' in error ? error.failureType : undefined;
}
