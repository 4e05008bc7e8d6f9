import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { systemClock } from '../src/base/clock.ts';
import { CommandFailed, run } from '../src/host/run.ts';
import { leaks, lookAtHost, processesOf } from '../test/support/leaks.ts';
import { makeNetns } from '../test/support/netns.ts';

/**
 * `npm run test:soak -- [rounds]`: a real guest that counts sleeps and wakes, 100 times unless told; then twenty callers make and delete VMs
 * for five minutes while guests, DHCP server and rules are killed (`-- churn [seconds]`: that alone). Each in a network namespace of its own;
 * what of it stays on the machine is a failure too. Bounded: a quarter of an hour to boot and settle, and half a minute for each round.
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

if (!churnOnly)
  await soak('soak.ts', rounds, 900_000 + rounds * 30_000, `${rounds} rounds of sleeping and waking`);
await soak(
  'churn.ts',
  churnSeconds,
  900_000 + churnSeconds * 1000,
  `${churnSeconds} s of VMs made and deleted while things are killed`,
);

/** Runs a program of test/soak with a number and a folder, and looks at what it leaves. */
async function soak(program: string, amount: number, timeoutMs: number, what: string): Promise<void> {
  const before = await lookAtHost();
  const folder = await mkdtemp(join(tmpdir(), 'hs-'));
  await chmod(folder, 0o755);
  const namespace = await makeNetns('hatch-soak');
  const started = performance.now();
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
  console.log(`${good ? '✓' : '✗'} ${what} (${seconds} s)`);
  if (!good) process.exitCode = 1;
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
