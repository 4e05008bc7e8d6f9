import { join } from 'node:path';
import { CommandFailed, run, type Argv } from '../src/host/run.ts';

/** `npm run check`: types, lint, format and arrows, two at a time, one line each. Ends with 1 when any of them fails. */
const root = join(import.meta.dirname, '..');
const bin = (path: string): Argv => [process.execPath, join(root, 'node_modules', path)];

// The slowest first. Lint keeps no cache: what a typed rule says of a file depends on other files too.
const checks: readonly { readonly name: string; readonly argv: Argv }[] = [
  {
    name: 'types, lint',
    argv: [process.execPath, '--max-semi-space-size=64', join(root, 'scripts/check-code.ts')],
  },
  {
    name: 'format',
    argv: [...bin('prettier/bin/prettier.cjs'), '--check', '.', '--log-level', 'warn', '--cache'],
  },
  { name: 'arrows', argv: [process.execPath, join(root, 'scripts/check-arrows.ts')] },
];

let failed = 0;
const started = performance.now();
const seconds = (from: number): string => `${((performance.now() - from) / 1000).toFixed(1)} s`;

/** Runs one check; what it says is shown only when it fails. */
async function check(name: string, argv: Argv): Promise<void> {
  const from = performance.now();
  const output: string[] = [];
  try {
    await run(argv, { cwd: root, timeoutMs: 300_000, onLine: (line) => output.push(line) });
    console.log(`✓ ${name.padEnd(11)} ${seconds(from)}`);
  } catch (error) {
    if (!(error instanceof CommandFailed)) throw error;
    failed += 1;
    console.log(`✗ ${name.padEnd(11)} ${seconds(from)}`);
    for (const line of output.length > 0 ? output : [error.message]) console.log(`    ${line}`);
  }
}

const queue = [...checks];
const worker = async (): Promise<void> => {
  for (let next = queue.shift(); next; next = queue.shift()) await check(next.name, next.argv);
};
await Promise.all([worker(), worker()]);
console.log(
  failed === 0
    ? `all checks passed in ${seconds(started)}`
    : `${failed} of ${checks.length} checks failed (${seconds(started)}); "npm run format" mends the format`,
);
process.exitCode = failed === 0 ? 0 : 1;
