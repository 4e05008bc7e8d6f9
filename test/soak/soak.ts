import assert from 'node:assert/strict';
import { once } from 'node:events';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { connect } from 'node:net';
import { systemClock } from '../../src/base/clock.ts';
import { until } from '../../src/base/until.ts';
import { run } from '../../src/host/run.ts';
import { startHatchd, untilVm, type Hatchd } from '../support/hatchd.ts';
import { compare, describe, measure, type Measure } from './measure.ts';

/**
 * `soak.ts ROUNDS FOLDER`: a real guest that counts, put to sleep and woken again and again: one round in three by a snapshot through
 * the API, which is deleted afterwards but for the last that was stored, and two as one that nobody uses, of which the second saves a
 * machine that runs in its own memory. No count is lost, and when all is quiet there is no more of hatchd's memory, files, rows, rules
 * and stored bytes than there was after 20 rounds and a few (which takes 40 at least). Prints a line a round; fails by exit code.
 */
const [rounds, folder] = [Number(process.argv[2]), process.argv[3]];
if (!(rounds >= 2) || folder === undefined)
  throw new Error('soak.ts needs a number of rounds, 2 or more, and a folder');

/** So often a snapshot is waited for until it is in the store, and kept: the next such one builds on it. */
const KEPT_EVERY = 12;
/** After so many rounds nothing may grow any more: until then chains of disks get longer, and hatchd takes what memory it needs. */
const SETTLED = 20;
/** Every count is written down twice: in memory and on the disk. */
const LISTS = ['/run/counted', '/root/counted'];
const COUNTER = `i=0; while :; do i=$((i+1)); for f in ${LISTS.join(' ')}; do echo $i >> $f; done; sleep 0.1; done`;
const socket = join(folder, 'soak.sock');
const hatchd = await startHatchd(folder, {}, [
  '--expose-gc',
  join(import.meta.dirname, '../support/soak-hatchd.ts'),
  socket,
]);
try {
  await soak(hatchd);
} finally {
  await hatchd.down();
  await rm(folder, { recursive: true, force: true });
}

async function soak({ client }: Hatchd): Promise<void> {
  const vm = await client.vms.create({ name: 'counter' }, { wait: 'ready', timeout: 300 });
  const inside = async (command: string): Promise<string> => {
    const { exit_code, stdout, stderr } = await client.vms.exec(vm.id, { command, timeout_seconds: 120 });
    assert.equal(exit_code, 0, `${command}: ${stderr}${stdout}`);
    return stdout.trim();
  };
  const counted = async (): Promise<number> => Number(await inside(`tail -n1 ${LISTS[0] ?? ''}`));
  await inside('systemctl is-system-running --wait || true');
  await inside(`systemd-run --unit=counter sh -c '${COUNTER.replaceAll('$', '$$$$')}'`);
  await moved(counted, 0);
  const boot = await inside('cat /proc/sys/kernel/random/boot_id');

  // When what takes some rounds to fill has filled, and as far from the last stored snapshot as the end is.
  const early = rounds < 2 * SETTLED ? undefined : SETTLED + ((rounds - SETTLED) % KEPT_EVERY);
  let before: Measure | undefined;
  let kept: string | undefined;
  for (let round = 1; round <= rounds; round++) {
    const idle = round % 3 !== 1;
    const from = performance.now();
    const asleep = idle
      ? await sleepIdle(vm.id, counted)
      : await sleepSaved(client, vm.id, counted, round % KEPT_EVERY === 1);
    const saved = performance.now();
    await client.vms.start(vm.id, { wait: 'ready', timeout: 120 });
    const woken = performance.now();
    const now = await counted();
    assert.ok(now >= asleep.counted, `round ${round}: it had counted to ${asleep.counted}, then to ${now}`);
    await moved(counted, now);
    const over = asleep.stored ? kept : asleep.snapshot;
    if (over !== undefined) await client.snapshots.delete(over);
    if (asleep.stored) kept = asleep.snapshot;
    const ms = (since: number, to: number): string => `${Math.round(to - since)} ms`;
    console.log(
      `round ${round} of ${rounds}: ${idle ? 'idle' : asleep.stored ? 'stored' : 'saved'} in ${ms(from, saved)}, awake in ${ms(saved, woken)}, counted ${now}`,
    );
    if (round === early || round === rounds) {
      const found = await quiet(client, vm.id);
      console.log(`after round ${round}: ${describe(found)}`);
      if (before && early !== undefined) compare(before, found, { rounds: rounds - early });
      before = found;
    }
  }
  assert.equal(await inside('cat /proc/sys/kernel/random/boot_id'), boot, 'it never booted again');
  for (const list of LISTS) {
    const wrong = 'awk \'$1 != NR { print "line " NR " is " $1; exit 1 } END { print NR }\'';
    console.log(`${list}: every count from 1 to ${await inside(`${wrong} ${list}`)}, once`);
  }
  const skew = Math.abs(Number(await inside('date +%s')) - Date.now() / 1000);
  assert.ok(skew < 3, `the guest's clock is ${skew} s off`);
}

interface Asleep {
  /** What it had counted to just before. */
  readonly counted: number;
  readonly snapshot?: string;
  /** Whether that is in the store, and is kept until the next one that is. */
  readonly stored: boolean;
}

async function sleepSaved(
  client: Hatchd['client'],
  id: string,
  counted: () => Promise<number>,
  stored: boolean,
): Promise<Asleep> {
  const before = await counted();
  const snapshot = await client.vms.snapshot(id, {}, stored ? { wait: 'stored', timeout: 300 } : {});
  assert.equal((await client.vms.get(id)).state, 'snapshotted');
  return { counted: before, snapshot: snapshot.id, stored };
}

async function sleepIdle(id: string, counted: () => Promise<number>): Promise<Asleep> {
  const before = await counted();
  await ask(`sleep ${id}`);
  await untilVm(hatchd, id, ({ state }) => state === 'snapshotted');
  return { counted: before, stored: false };
}

/** Waits until it has counted on. */
async function moved(counted: () => Promise<number>, from: number): Promise<void> {
  await until({ clock: systemClock, signal: AbortSignal.timeout(60_000) }, async () =>
    (await counted().catch(() => 0)) > from ? true : undefined,
  );
}

/** What there is once nothing is on its way to the store or out of it, and what nobody needs was removed. */
async function quiet(client: Hatchd['client'], id: string): Promise<Measure> {
  let last = '';
  const signal = AbortSignal.timeout(300_000);
  return until(
    { clock: systemClock, signal },
    async () => {
      const moving = (await client.vms.snapshots(id)).filter(
        ({ state, transfer }) => state !== 'durable' || transfer,
      );
      await ask('settle');
      if (moving.length > 0) return undefined;
      const found = await measure(hatchd, await daemonPid());
      const files = JSON.stringify(found.files);
      const still = files === last;
      last = files;
      return still ? found : undefined;
    },
    { firstMs: 2000, mostMs: 2000 },
  );
}

async function daemonPid(): Promise<number> {
  const { stdout } = await run(['cat', join(hatchd.data, 'hatchd.pid')]);
  const [, pid] = /(\d+)/.exec(stdout) ?? [];
  return Number(pid);
}

/** Asks the daemon for what its API has no call for; throws what it answers but "ok". */
async function ask(line: string): Promise<void> {
  const client = connect(socket);
  client.setEncoding('utf8');
  let answer = '';
  client.on('data', (text: string) => (answer += text));
  client.end(`${line}\n`);
  await once(client, 'close', { signal: AbortSignal.timeout(120_000) });
  if (answer !== 'ok') throw new Error(`${line}: ${answer}`);
}
