import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { systemClock } from '../src/base/clock.ts';
import { CommandFailed, run } from '../src/host/run.ts';
import { leaks, lookAtHost, processesOf } from '../test/support/leaks.ts';
import { makeNetns } from '../test/support/netns.ts';

/**
 * `npm run test:soak -- [rounds]`: a real guest that counts sleeps and wakes, 100 times unless told, in a network namespace of its own.
 * What of it stays on the machine is a failure too. Bounded: a quarter of an hour to boot and settle, and half a minute for each round.
 */
const ROUNDS = 100;
const root = join(import.meta.dirname, '..');
const [asked, ...more] = process.argv.slice(2).filter((word) => word !== '--soak');
const rounds = asked === undefined ? ROUNDS : Number(asked);
if (!Number.isInteger(rounds) || rounds < 2 || rounds > 100_000 || more.length > 0)
  refuse('npm run test:soak takes the number of rounds: 2 to 100000.');
if (process.getuid?.() !== 0) refuse('The soak test must run as root: it makes a bridge and guests.');

const before = await lookAtHost();
const folder = await mkdtemp(join(tmpdir(), 'hs-'));
await chmod(folder, 0o755);
const namespace = await makeNetns('hatch-soak');
const started = performance.now();
let good = true;
try {
  const soak = join(root, 'test/soak/soak.ts');
  await run(
    namespace.enter([
      process.execPath,
      '--disable-warning=ExperimentalWarning',
      soak,
      String(rounds),
      join(folder, 'soak'),
    ]),
    {
      cwd: root,
      env: { ...ownEnvironment(), TMPDIR: folder },
      timeoutMs: 900_000 + rounds * 30_000,
      onLine: (line) => console.log(line),
    },
  );
} catch (error) {
  if (!(error instanceof CommandFailed)) throw error;
  console.error(error.message);
  good = false;
}
// A killed process takes a moment to go.
await systemClock.sleep(1000);
const left = [
  ...(await namespace.contents()),
  ...(await processesOf(folder)).map((line) => `process ${line}`),
];
await namespace.dispose();
await rm(folder, { recursive: true, force: true });
left.push(...leaks(before, await lookAtHost()));
for (const thing of left) console.error(`left behind: ${thing}`);
good &&= left.length === 0;
const seconds = ((performance.now() - started) / 1000).toFixed(0);
console.log(`${good ? '✓' : '✗'} ${rounds} rounds of sleeping and waking (${seconds} s)`);
process.exitCode = good ? 0 : 1;

function ownEnvironment(): Record<string, string> {
  return Object.fromEntries(
    Object.entries(process.env).filter((entry): entry is [string, string] => entry[1] !== undefined),
  );
}

function refuse(sentence: string): never {
  console.error(sentence);
  process.exit(1);
}
