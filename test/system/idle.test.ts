import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { once } from 'node:events';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { Agent, WebSocket } from 'undici';
import { systemClock } from '../../src/base/clock.ts';
import { deadline } from '../../src/base/deadline.ts';
import { until } from '../../src/base/until.ts';
import type { Vm } from '../../src/contract/vm.ts';
import { run } from '../../src/host/run.ts';
import { bootedVm } from '../support/booted-vm.ts';
import { eventsOf, qemuOf, startHatchd, untilVm, type Hatchd } from '../support/hatchd.ts';
import { get, heldConnections, openRequests, Poll, whyOf } from '../support/open-requests.ts';
import { START_SERVING } from '../support/page-server.ts';

/**
 * One guest that serves a page, left alone until it sleeps, and touched in every way there is. At last it and copies of it go down in every
 * way there is, while requests are open to them.
 */
const TIMEOUT_S = 15;
/** A VM that was just woken stays awake for a minute, and what is looked at each second is carried out in some more. */
const ASLEEP_MS = 150_000;
const HOST = 'page.hatch.localhost';
const PAGE = /^<h1>request (\d+)<\/h1>$/;

let folder: string;
let hatchd: Hatchd;
let vm: Vm;
let boot: string;

before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'idle-'));
  hatchd = await startHatchd(folder, { HATCH_IDLE_CHECK_INTERVAL: '1s' });
  vm = await bootedVm(hatchd, {
    name: 'page',
    idle: { timeout_seconds: TIMEOUT_S, action: 'snapshot' },
  });
  boot = await inside(`${START_SERVING} && cat ${BOOT_ID}`);
  await hatchd.client.routes.create(vm.id, { subdomain: 'page', target_port: 8000 });
  await until({ clock: systemClock, signal: AbortSignal.timeout(60_000) }, async () =>
    PAGE.test((await curl()).stdout) ? true : undefined,
  );
});
after(async () => {
  await hatchd?.down();
  await rm(folder, { recursive: true, force: true });
});

const BOOT_ID = '/proc/sys/kernel/random/boot_id';

async function inside(command: string): Promise<string> {
  const { exit_code, stdout, stderr } = await hatchd.client.vms.exec(vm.id, {
    command,
    timeout_seconds: 120,
  });
  assert.equal(exit_code, 0, stderr);
  return stdout.trim().split('\n').at(-1) ?? '';
}

function curl(
  ...options: readonly string[]
): Promise<{ readonly stdout: string; readonly exitCode: number }> {
  return run(
    [
      'curl',
      '-sS',
      '--max-time',
      '60',
      '--resolve',
      `${HOST}:9090:127.0.0.1`,
      ...options,
      `http://${HOST}:9090/`,
    ],
    { okExitCodes: [0, 7, 28, 52], timeoutMs: 90_000 },
  );
}

async function untilAsleep(): Promise<void> {
  await untilVm(
    hatchd,
    vm.id,
    ({ state, operation }) => state === 'snapshotted' && operation === undefined,
    ASLEEP_MS,
  );
}

async function wakesBy(way: string): Promise<number> {
  return (await eventsOf(hatchd, vm.id, 'vm.woken')).filter(({ data }) => data?.['by'] === way).length;
}

/** What hatch says of why the VM is as it is. */
async function why(): Promise<string> {
  const { stdout, stderr, exitCode } = await hatchd.hatch('vm', 'why', 'page');
  assert.equal(exitCode, 0, stderr);
  return stdout;
}

test('a guest nobody asks for falls asleep by its policy, and its memory is free', async () => {
  assert.notEqual(await qemuOf(vm.id), undefined);
  await untilAsleep();
  assert.equal(await qemuOf(vm.id), undefined);
  const [slept] = await eventsOf(hatchd, vm.id, 'vm.slept');
  assert.match(slept?.message ?? '', /nobody/i);
});

test('a scan of its ports does not wake it', async () => {
  for (const says of ['', 'GET / HTTP/1.1\r\n\r\n']) {
    const scan = connect({ host: '127.0.0.1', port: vm.ssh_port ?? 0 });
    scan.end(says);
    assert.deepEqual(await scan.toArray(), []);
  }
  assert.equal((await hatchd.client.vms.get(vm.id)).state, 'snapshotted');
});

test('fifty requests at once for its page wake it once, and all get it from the guest that slept', async () => {
  const answers = await Promise.all(Array.from({ length: 50 }, () => curl()));
  const numbers = answers.map(({ stdout }) => Number(PAGE.exec(stdout)?.[1])).toSorted((a, b) => a - b);
  // One after another on the counter of the process that had answered before.
  assert.deepEqual(
    numbers,
    Array.from({ length: 50 }, (_, i) => (numbers[0] ?? 0) + i),
  );
  assert.ok((numbers[0] ?? 0) > 1);
  assert.equal(await wakesBy('http'), 1);
});

test('a WebSocket held open for longer than the timeout keeps it awake, and when it has closed it sleeps', async () => {
  const dispatcher = new Agent({
    connect: { lookup: (_name, _options, done) => done(null, [{ address: '127.0.0.1', family: 4 }]) },
  });
  const socket = new WebSocket(`ws://${HOST}:9090/ws`, { dispatcher });
  try {
    await once(socket, 'open');
    const woken = (await eventsOf(hatchd, vm.id, 'vm.woken'))[0];
    const awakeFrom = Date.parse(woken?.at ?? '');
    // Past its minute awake and its timeout, which would both have been over.
    await systemClock.sleep(Math.max(0, awakeFrom + 60_000 - systemClock.now()) + (TIMEOUT_S + 5) * 1000);
    assert.equal((await hatchd.client.vms.get(vm.id)).state, 'running');
    assert.match(await why(), /in use by a WebSocket/);
    const heard = once(socket, 'message') as Promise<[{ readonly data: unknown }]>;
    socket.send('still here?');
    assert.equal((await heard)[0].data, 'still here?');
  } finally {
    socket.close();
    await dispatcher.destroy();
  }
  await untilAsleep();
  assert.equal(await qemuOf(vm.id), undefined);
});

test('ssh wakes it where it was, and hatch vm why tells all of it', async () => {
  assert.equal(await hatchd.ssh(vm, 'debian', `cat ${BOOT_ID}`), boot);
  assert.deepEqual([await wakesBy('http'), await wakesBy('ssh')], [1, 1]);
  const told = await why();
  for (const word of [/slept|asleep/i, /http/i, /ssh/i, /127\.0\.0\.1/, /GiB/]) assert.match(told, word);
});

/** Why there is no answer: a guest that shuts down ends its server first, then takes no connections, and then has no network. */
const WHY_NONE =
  /^The machine was stopped or put to sleep before|^The guest ended the connection|^Port 8000 of the guest (refuses|does not)/;
/** What is open to a guest ends so soon after it is gone; what was just about to connect to it does so for five seconds. */
const CUT_MS = 10_000;

/** Has requests of every kind open to a VM while it goes down, and sees each of them end as it should, with nothing left of it. */
async function goDownInUse(
  { host, ip }: { readonly host: string; readonly ip: string },
  goDown: () => Promise<unknown>,
  { serverEnds = false }: { readonly serverEnds?: boolean } = {},
): Promise<void> {
  const { begun, unanswered, upgraded } = await openRequests(host);
  await goDown();
  await deadline('the ends of what was open', CUT_MS, async () => {
    for (const [path, over] of Object.entries(begun)) {
      // An answer that goes on until its server ends the connection is whole when its server has.
      if (!(serverEnds && path === '/endless')) assert.equal((await over).whole, false, path);
    }
    for (const answer of unanswered) {
      const got = await answer;
      assert.deepEqual([got.status, got.whole], [502, true]);
      assert.match(whyOf(got), WHY_NONE);
    }
    await upgraded;
  });
  await until({ clock: systemClock, signal: AbortSignal.timeout(CUT_MS) }, async () =>
    (await heldConnections('dst', ip)).length === 0 ? true : undefined,
  );
}

/** As `goDownInUse`, with more requests coming all the while: each is answered, and refused with a sentence from some moment on. */
async function goDownAsked(
  copy: Vm,
  goDown: () => Promise<unknown>,
  refusals: readonly number[],
  how: { readonly serverEnds?: boolean } = {},
): Promise<void> {
  const host = `${copy.name}.hatch.localhost`;
  let poll: Poll | undefined;
  await goDownInUse(
    { host, ip: copy.guest_ip ?? '' },
    async () => {
      poll = new Poll(host);
      await goDown();
      await poll.end();
    },
    how,
  );
  for (const { status, why, ms } of poll?.got ?? []) {
    assert.ok(status === 200 || refusals.includes(status), `${status}: ${why}`);
    assert.ok(ms < CUT_MS, `${status} took ${Math.round(ms)} ms`);
  }
}

/** The process that listens for the guests' routes. */
async function proxyPid(): Promise<string | undefined> {
  return /pid=(\d+)/.exec((await run(['ss', '-tlnpH', 'sport', '=', ':9090'])).stdout)?.[1];
}

test('VMs go down while requests are open to them, and a neighbour is served all the while', async (t) => {
  const { vms, routes } = hatchd.client;
  const pid = await proxyPid();
  const copies = await vms.fork(vm.id, { count: 4, name: 'copy' }, { wait: 'ready', timeout: 120 });
  for (const { id, name } of copies) {
    await routes.create(id, { subdomain: name ?? '', target_port: 8000 });
    // It is still asking for its address.
    await until({ clock: systemClock, signal: AbortSignal.timeout(60_000) }, async () =>
      (await get(`${name}.hatch.localhost`)).status === 200 ? true : undefined,
    );
  }
  const [neighbour, stopped, killed, deleted] = copies as [Vm, Vm, Vm, Vm];
  const refusedNow = async ({ name }: Vm, status: number, why: RegExp): Promise<void> => {
    const got = await get(`${name}.hatch.localhost`);
    assert.deepEqual([got.status, got.whole], [status, true]);
    assert.match(whyOf(got), why);
  };
  const beside = new Poll(`${neighbour.name}.hatch.localhost`);

  await t.test('one that is put to sleep is woken by the next request, where it was', async () => {
    const numbered = async (): Promise<number> => Number(PAGE.exec((await get(HOST)).body)?.[1]);
    const before = await numbered();
    await goDownInUse({ host: HOST, ip: vm.guest_ip ?? '' }, () => vms.snapshot(vm.id));
    assert.deepEqual([(await vms.get(vm.id)).state, await qemuOf(vm.id)], ['snapshotted', undefined]);
    const woken = await get(HOST);
    assert.ok(Number(woken.headers['hatch-wake-ms']) > 0);
    assert.equal(Number(PAGE.exec(woken.body)?.[1]), before + 1);
  });
  await t.test('one that a person stops is not started by who comes', async () => {
    await goDownAsked(stopped, () => vms.stop(stopped.id), [502, 503], { serverEnds: true });
    assert.equal((await vms.get(stopped.id)).state, 'stopped');
    await refusedNow(stopped, 503, /is stopped, and only a start by its owner brings it up/);
  });
  await t.test('one whose hypervisor is killed is in error, and says so', async () => {
    const kill = async (): Promise<void> => {
      process.kill((await qemuOf(killed.id)) ?? assert.fail('it does not run'), 'SIGKILL');
      await untilVm(hatchd, killed.id, ({ state }) => state === 'error');
    };
    await goDownAsked(killed, kill, [502, 503]);
    await refusedNow(killed, 503, /is in error: The hypervisor was killed by SIGKILL/);
  });
  await t.test('one that is deleted is not found any more', async () => {
    await goDownAsked(deleted, () => vms.delete(deleted.id), [404, 502, 503]);
    await refusedNow(deleted, 404, /Nothing is published under this host name/);
  });

  await beside.end();
  const times = beside.got.map(({ ms }) => ms).toSorted((a, b) => a - b);
  assert.deepEqual(
    beside.got.filter(({ status }) => status !== 200),
    [],
  );
  assert.ok((times.at(-1) ?? 0) < CUT_MS, `its slowest answer took ${times.at(-1)} ms`);
  const [middle = 0, slowest = 0] = [times[times.length >> 1], times.at(-1)];
  t.diagnostic(
    `${times.length} answers of the neighbour: half of them within ${middle.toFixed()} ms, all ${slowest.toFixed()} ms`,
  );
  assert.equal(await proxyPid(), pid);
  assert.deepEqual(await heldConnections('sport', '=', ':9090'), []);
  assert.doesNotMatch(await hatchd.log(), /a proxied request failed/);
});
