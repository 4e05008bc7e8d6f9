import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { systemClock } from '../src/base/clock.ts';
import { CommandFailed, run } from '../src/host/run.ts';
import { leaks, lookAtHost, processesOf } from '../test/support/leaks.ts';
import { makeNetns } from '../test/support/netns.ts';

/**
 * `npm run test:soak -- [rounds]`: a real guest that counts sleeps and wakes, 100 times unless told; beside it twenty callers make and delete
 * VMs for five minutes while guests, DHCP server and rules are killed (`-- churn [seconds]`: that alone). Each in a network namespace of its
 * own; what of it stays on the machine is a failure too. Bounded: a quarter of an hour to boot and settle, and half a minute for each round.
 */
const ROUNDS = 100;
const CHURN_SECONDS = 300;
const root = join(import.meta.dirname, '..');
const words = process.argv.slice(2).filter((word) => word !== '--soak');
const churnOnly = words[0] === 'churn';
const [asked, ...more] = churnOnly ? words.slice(1) : words;
const rounds = asked === undefined || churnOnly ? ROUNDS : Number(asked);
const churnSeconds = asked === undefined || !churnOnly ? CHURN_SECONDS : Number(asked);
if (!Number.isInteger(rounds) || rounds < 2 || rounds > 100_000 || more.length > 0)
  refuse('npm run test:soak takes the number of rounds: 2 to 100000, or "churn" and seconds.');
if (!Number.isInteger(churnSeconds) || churnSeconds < 10 || churnSeconds > 86_400)
  refuse('npm run test:soak -- churn takes seconds: 10 to 86400.');
if (process.getuid?.() !== 0) refuse('The soak test must run as root: it makes a bridge and guests.');

const churn = {
  program: 'churn.ts',
  amount: churnSeconds,
  timeoutMs: 900_000 + churnSeconds * 1000,
  what: `${churnSeconds} s of VMs made and deleted while things are killed`,
};
const counting = {
  program: 'soak.ts',
  amount: rounds,
  timeoutMs: 900_000 + rounds * 30_000,
  what: `${rounds} rounds of sleeping and waking`,
};
// Side by side: whoever sleeps and wakes does so beside others, too.
await soak(churnOnly ? [churn] : [counting, churn]);

interface Soaked {
  /** In test/soak. */
  readonly program: string;
  /** What it is given. */
  readonly amount: number;
  readonly timeoutMs: number;
  readonly what: string;
}

/** Runs programs of test/soak, each with its number and a folder, and looks at what they leave. */
async function soak(all: readonly Soaked[]): Promise<void> {
  const before = await lookAtHost();
  const good = await Promise.all(all.map(runOne));
  const left = leaks(before, await lookAtHost());
  for (const thing of left) console.error(`left behind: ${thing}`);
  if (left.length > 0 || good.includes(false)) process.exitCode = 1;
}

/** Runs one of them; false when it failed or left something. */
async function runOne({ program, amount, timeoutMs, what }: Soaked): Promise<boolean> {
  const folder = await mkdtemp(join(tmpdir(), 'hs-'));
  await chmod(folder, 0o755);
  const namespace = await makeNetns('hatch-soak');
  const started = performance.now();
  const name = basename(program, '.ts');
  let good = true;
  try {
    await run(
      namespace.enter([
        process.execPath,
        '--disable-warning=ExperimentalWarning',
        join(root, 'test/soak', program),
        String(amount),
        join(folder, 'soak'),
      ]),
      {
        cwd: root,
        env: { ...ownEnvironment(), TMPDIR: folder },
        timeoutMs,
        onLine: (line) => console.log(`${name}: ${line}`),
      },
    );
  } catch (error) {
    if (!(error instanceof CommandFailed)) throw error;
    console.error(`${name}: ${error.message}`);
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
  for (const thing of left) console.error(`${name} left behind: ${thing}`);
  good &&= left.length === 0;
  const seconds = ((performance.now() - started) / 1000).toFixed(0);
  console.log(`${good ? '✓' : '✗'} ${what} (${seconds} s)`);
  return good;
}

function ownEnvironment(): Record<string, string> {
  return Object.fromEntries(
    Object.entries(process.env).filter((entry): entry is [string, string] => entry[1] !== undefined),
  );
}

function refuse(sentence: string): never {
  console.error(sentence);
  process.exit(1);
}
