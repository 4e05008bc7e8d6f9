import assert from 'node:assert/strict';
import { readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { systemClock } from '../../src/base/clock.ts';
import { until } from '../../src/base/until.ts';
import { ApiError } from '../../src/clients/http.ts';
import { commandLine, identify } from '../../src/host/process.ts';
import { run } from '../../src/host/run.ts';
import { startHatchd, type Hatchd } from '../support/hatchd.ts';
import { processesIn } from '../support/netns.ts';

/**
 * `churn.ts SECONDS FOLDER`: twenty callers make and delete VMs at once for so long, some of which are stopped, started or saved in between,
 * while every few seconds a guest's QEMU or the DHCP server is killed, or the guests' rules are removed. Whatever fails must fail in one of the ways
 * the contract has for it, and when all is deleted nothing may be left: no process, link, rule, reservation, folder or row. Guests
 * are started and not waited for. Prints a line now and then; fails by exit code.
 */
const [seconds, folder] = [Number(process.argv[2]), process.argv[3]];
if (!(seconds > 0) || folder === undefined)
  throw new Error('churn.ts needs a number of seconds and a folder');

const CALLERS = 20;
const TROUBLE_MS = 5000;
/** What a guest that is killed, or a network that is being made again, may answer with. */
const FAILURES: ReadonlySet<string> = new Set([
  'vmm_failed',
  'wrong_state',
  'unavailable',
  'busy',
  'no_guest_agent',
  'timeout',
]);

const hatchd = await startHatchd(folder, {
  HATCH_VMM: 'qemu',
  HATCH_MAX_VMS_PER_ACCOUNT: '100',
  HATCH_LOG_LEVEL: 'warn',
});
try {
  await churn(hatchd);
} finally {
  await hatchd.down();
  await rm(folder, { recursive: true, force: true });
}

async function churn({ client, data }: Hatchd): Promise<void> {
  const end = performance.now() + seconds * 1000;
  const done = { made: 0, deleted: 0, refused: new Map<string, number>() };
  const trying = async (work: () => Promise<unknown>): Promise<void> => {
    try {
      await work();
    } catch (error) {
      if (!(error instanceof ApiError) || !FAILURES.has(error.code)) throw error;
      done.refused.set(error.code, (done.refused.get(error.code) ?? 0) + 1);
    }
  };
  const caller = async (n: number): Promise<void> => {
    for (let round = 0; performance.now() < end; round++) {
      const name = `churn-${n}-${round}`;
      await trying(() => client.vms.create({ name, mem_mib: 128 }));
      done.made++;
      const turn = (n + round) % 4;
      if (turn === 1) await trying(() => client.vms.stop(name, { grace_seconds: 0 }));
      if (turn === 1) await trying(() => client.vms.start(name));
      if (turn === 2) await trying(() => client.vms.snapshot(name));
      // A deletion never fails: it cuts short whatever is under way.
      await client.vms.delete(name);
      done.deleted++;
    }
  };
  const trouble = new AbortController();
  const troubled = makeTrouble(trouble.signal);
  try {
    await Promise.all(Array.from({ length: CALLERS }, (_, n) => caller(n)));
  } finally {
    trouble.abort();
    await troubled;
  }
  console.log(
    `made ${done.made}, deleted ${done.deleted}; refused: ${[...done.refused].map(([code, n]) => `${code} ${n}`).join(', ') || 'none'}`,
  );
  assert.ok(done.deleted >= CALLERS, 'hardly anything was made');
  await until({ clock: systemClock, signal: AbortSignal.timeout(90_000) }, async () => {
    await client.ready();
    return (await left(data)).length === 0 ? true : undefined;
  }).catch(async () => assert.deepEqual(await left(data), []));
  assert.deepEqual(await client.vms.list(), []);
  assert.deepEqual(await client.snapshots.list(), []);
  const { use } = await client.accounts.own();
  assert.equal(use.vms, 0);
}

/** Kills something every few seconds until it is told to end. */
async function makeTrouble(signal: AbortSignal): Promise<void> {
  for (let turn = 0; !signal.aborted; turn++) {
    await systemClock.sleep(TROUBLE_MS, signal).catch(() => undefined);
    if (signal.aborted) return;
    const found = await programs();
    const [guests, servers] = ['qemu-system', 'dnsmasq'].map((name) =>
      found.filter(({ program }) => program.includes(name)),
    );
    const victim = turn % 3 === 0 ? servers?.[0] : guests?.[turn % Math.max(1, guests.length)];
    if (turn % 3 === 2) await run(['nft', 'flush', 'ruleset']);
    else if (victim) await run(['kill', '-KILL', String(victim.pid)], { okExitCodes: [0, 1] });
    console.log(
      `trouble: ${turn % 3 === 2 ? 'the rules are gone' : `killed ${victim?.program ?? 'nobody'}`}`,
    );
  }
}

async function programs(): Promise<readonly { readonly pid: number; readonly program: string }[]> {
  const pids = await processesIn('/proc/self/ns/net');
  return Promise.all(pids.map(async (pid) => ({ pid, program: (await commandLine(pid))?.[0] ?? '' })));
}

/** What there is of VMs on the host, a line each. */
async function left(data: string): Promise<readonly string[]> {
  const { stdout: links } = await run(['ip', '-o', 'link']);
  const { stdout: rules } = await run(['nft', 'list', 'ruleset']);
  const hosts = await readFile(await hostsFile(data), 'utf8').catch(() => '');
  const guests = (await programs()).filter(({ program }) => program.includes('qemu-system'));
  const alive = await Promise.all(guests.map(({ pid }) => identify(pid)));
  return [
    ...alive.filter((one) => one !== undefined).map(({ pid }) => `process ${pid}`),
    ...[links, rules, hosts].flatMap((text) => [...text.matchAll(/vm-[a-z0-9]{12}/g)].map(([id]) => id)),
    ...(await readdir(join(data, 'vms'))),
    ...(await readdir(join(data, 'layers'))),
  ];
}

async function hostsFile(data: string): Promise<string> {
  const conf = await readFile(join(data, 'net/dnsmasq.conf'), 'utf8').catch(() => '');
  return /^dhcp-hostsfile=(.+)$/m.exec(conf)?.[1] ?? join(data, 'none');
}
