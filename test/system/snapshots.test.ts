import assert from 'node:assert/strict';
import { CreateBucketCommand, S3Client } from '@aws-sdk/client-s3';
import { randomBytes } from 'node:crypto';
import { mkdir, mkdtemp, readdir, rename, rm, writeFile } from 'node:fs/promises';
import { once } from 'node:events';
import { request, type IncomingMessage } from 'node:http';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { systemClock } from '../../src/base/clock.ts';
import { until } from '../../src/base/until.ts';
import type { Vm } from '../../src/contract/vm.ts';
import { isAlive, signalProcess, spawnDetached } from '../../src/host/process.ts';
import { readIfThere } from '../../src/host/files.ts';
import { run, type Argv } from '../../src/host/run.ts';
import { bootedVm } from '../support/booted-vm.ts';
import { START_COUNTING } from '../support/counter.ts';
import { eventsOf, qemuOf, startHatchd, type Hatchd } from '../support/hatchd.ts';
import { makeNetns, type Netns } from '../support/netns.ts';
import { makePostgres, type Postgres } from '../support/postgres.ts';
import { makeSwift, type Swift } from '../support/swift.ts';

/**
 * One guest that counts, up to its last snapshot: it sleeps through the end of its daemon, is copied five times while it runs,
 * and goes from one host to another, two daemons after each other with one database and one bucket.
 */
let folder: string;
let database: Postgres;
let swift: Swift;
let first: Hatchd;
let second: Hatchd;
/** The one that has to be taken down at the end. */
let current: Hatchd | undefined;
let apart: Netns;
let vm: Vm;
let boot: string;

/** What a guest says of itself; `off`: by how many seconds its clock is wrong. */
interface Who {
  readonly hostname: string | undefined;
  readonly machine: string | undefined;
  readonly mac: string | undefined;
  readonly counted: number;
  readonly off: number;
  readonly addresses: string;
  readonly key: string;
}

const HATCHD = join(import.meta.dirname, '../../bin/hatchd');
/** Half a gigabyte on a machine that emulates a guest beside it. */
const STORED_MS = 300_000;

function settings(host: string): Record<string, string> {
  return {
    HATCH_HOST_NAME: host,
    DATABASE_URL: database.url('hatch'),
    HATCH_SNAPSHOT_STORE: 's3://snapshots/of-both',
    HATCH_S3_ENDPOINT: swift.endpoint,
    HATCH_S3_ACCESS_KEY: swift.accessKey,
    HATCH_S3_SECRET_KEY: swift.secretKey,
    HATCH_SNAPSHOT_KEY_FILE: join(folder, 'snapshot-key'),
  };
}

/** Runs a line in a guest through the agent; throws when it fails. */
async function inside({ client }: Hatchd, id: string, command: string): Promise<string> {
  const { exit_code, stdout, stderr } = await client.vms.exec(id, { command, timeout_seconds: 120 });
  assert.equal(exit_code, 0, `${command}: ${stderr}`);
  return stdout.trim();
}

async function count(hatchd: Hatchd, id: string): Promise<number> {
  return Number(await inside(hatchd, id, 'cat /root/count || echo 0'));
}

/** The SSH host key a VM shows through its port. */
async function hostKey({ ssh_port }: Vm): Promise<string> {
  return until({ clock: systemClock, signal: AbortSignal.timeout(60_000) }, async () => {
    const { stdout } = await run(
      ['ssh-keyscan', '-T', '10', '-t', 'ed25519', '-p', String(ssh_port), '127.0.0.1'],
      { okExitCodes: [0, 1] },
    );
    return stdout.split(' ')[2]?.trim();
  });
}

before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'snap-'));
  [database, swift, apart] = await Promise.all([makePostgres(), makeSwift(), makeNetns('hatch-apart')]);
  await database.createDatabase('hatch');
  await writeFile(join(folder, 'snapshot-key'), `${randomBytes(32).toString('base64')}\n`, { mode: 0o600 });
  await makeBucket('snapshots');
  await mkdir(join(folder, 'first'));
  first = await startHatchd(join(folder, 'first'), settings('first'));
  current = first;
  vm = await bootedVm(first, { name: 'counter' });
  await inside(first, vm.id, START_COUNTING);
  await untilItCounts(first, vm.id, 0);
  boot = await bootOf(first, vm.id);
});
after(async () => {
  await current?.down();
  await apart.dispose();
  await database.dispose();
  await swift.dispose();
  await rm(folder, { recursive: true, force: true });
});

test('a VM sleeps with its process counting, and wakes under another hatchd, still counting, at the right time', async () => {
  const { vms } = first.client;
  const counted = await count(first, vm.id);
  // A copy of the guest that was booted for all has been woken before.
  const woken = (await eventsOf(first, vm.id, 'vm.restored')).length;
  const snapshot = await vms.snapshot(vm.id, { name: 'asleep' });
  assert.deepEqual([snapshot.vm_id, snapshot.kind, snapshot.name], [vm.id, 'manual', 'asleep']);
  const sleeping = await vms.get(vm.id);
  assert.deepEqual([sleeping.state, sleeping.operation, sleeping.ready], ['snapshotted', undefined, false]);
  assert.deepEqual(placeOf(sleeping), placeOf(vm));
  assert.equal(await qemuOf(vm.id), undefined, 'its memory is free');
  assert.doesNotMatch((await run(['ip', 'link'])).stdout, new RegExp(vm.id), 'its tap is gone');

  await first.end('SIGKILL');
  await systemClock.sleep(3000);
  await first.start();
  assert.equal((await vms.get(vm.id)).state, 'snapshotted');
  const awake = await vms.restore(vm.id, {}, { wait: 'ready', timeout: 60 });
  assert.equal(awake.state, 'running');
  await goesOnFrom(first, counted);
  assert.equal(await first.ssh(awake, 'debian', 'echo here'), 'here');
  assert.equal((await eventsOf(first, vm.id, 'vm.restored')).length, woken + 1);
});

test('five forks of a running guest answer on five addresses as five machines, while it goes on counting', async () => {
  const counted = await count(first, vm.id);
  const pid = await qemuOf(vm.id);
  const forks = await first.client.vms.fork(
    vm.id,
    { count: 5, name: 'copy' },
    { wait: 'ready', timeout: 120 },
  );
  assert.ok(pid !== undefined && (await qemuOf(vm.id)) === pid, 'the same process goes on');
  assert.deepEqual(
    forks.map(({ name }) => name),
    ['copy-1', 'copy-2', 'copy-3', 'copy-4', 'copy-5'],
  );
  const all = [await first.client.vms.get(vm.id), ...forks];
  const seen = await Promise.all(all.map(async (one) => [one, await whoIs(one)] as const));
  for (const field of ['hostname', 'machine', 'mac', 'key', 'addresses'] as const)
    assert.equal(new Set(seen.map(([, who]) => who[field])).size, 6, `${field}: ${JSON.stringify(seen)}`);
  for (const [one, who] of seen) {
    assert.deepEqual([who.hostname, who.mac], [one.name, one.guest_mac]);
    assert.match(who.addresses, new RegExp(`inet ${one.guest_ip ?? ''}/`));
    assert.ok(who.counted >= counted, 'each goes on counting from where the first was');
    assert.ok(who.off < 3, `the clock of ${one.name ?? ''} is off by ${who.off} s`);
    assert.equal(await first.ssh(one, 'debian', 'hostname'), one.name);
  }
  for (const one of forks) await first.client.vms.delete(one.id);
  assert.ok((await count(first, vm.id)) > counted);
  assert.deepEqual(
    (await first.client.snapshots.list()).map(({ kind }) => kind),
    ['manual'],
    'a fork leaves no snapshot',
  );
});

test('commands that may wake it find it awake, once for all of them, where it was', async () => {
  const { vms, snapshots } = first.client;
  const counted = await count(first, vm.id);
  const { id } = await vms.snapshot(vm.id, {});
  const command = 'cat /root/count';
  await assert.rejects(vms.exec(vm.id, { command }), /wake=true/);
  const said = await Promise.all(
    [1, 2, 3].map(() => vms.exec(vm.id, { command, timeout_seconds: 120 }, { wake: true })),
  );
  for (const { stdout, stderr } of said) assert.ok(Number(stdout) >= counted, stderr);
  const woken = (await eventsOf(first, vm.id, 'vm.woken')).filter(({ data }) => data?.['by'] === 'exec');
  assert.deepEqual(
    woken.map(({ data }) => data?.['was']),
    ['snapshotted'],
  );
  await snapshots.delete(id);
});

test('requests for its route wake it, once for all of them, and a crawler does not', async () => {
  const { vms, snapshots, routes } = first.client;
  await inside(first, vm.id, 'systemd-run --unit=web --working-directory=/root python3 -m http.server 8000');
  const { url } = await routes.create(vm.id, { subdomain: 'counter', target_port: 8000 });
  assert.equal(url, 'http://counter.hatch.localhost:9090');
  const served = await until({ clock: systemClock, signal: AbortSignal.timeout(60_000) }, async () => {
    const got = await visit('/count');
    return got.status === 200 ? got : undefined;
  });
  assert.equal(served.wakeMs, undefined, 'it is awake');
  const { id } = await vms.snapshot(vm.id, {});
  assert.equal((await visit('/count', { 'user-agent': 'Googlebot/2.1' })).status, 503);
  assert.equal((await vms.get(vm.id)).state, 'snapshotted');
  for (const got of await Promise.all([visit('/count'), visit('/count'), visit('/count')])) {
    assert.equal(got.status, 200, got.body);
    assert.ok(Number(got.body) >= Number(served.body), 'it counts on');
    assert.ok(Number(got.wakeMs) > 0);
  }
  const woken = (await eventsOf(first, vm.id, 'vm.woken')).filter(({ data }) => data?.['by'] === 'http');
  assert.equal(woken.length, 1);
  await snapshots.delete(id);
});

test('ssh wakes it, once for all who come, and who only looks at its port does not', async () => {
  const { vms, snapshots } = first.client;
  const counted = await count(first, vm.id);
  const { id } = await vms.snapshot(vm.id, {});
  for (const says of ['', 'GET / HTTP/1.1\r\n\r\n']) {
    const scan = connect({ host: '127.0.0.1', port: vm.ssh_port ?? 0 });
    scan.end(says);
    assert.deepEqual(await scan.toArray(), []);
  }
  assert.equal((await vms.get(vm.id)).state, 'snapshotted');
  const [said, also] = await Promise.all([1, 2].map(() => first.ssh(vm, 'debian', 'hostname')));
  assert.deepEqual([said, also], ['counter', 'counter']);
  await goesOnFrom(first, counted);
  const woken = (await eventsOf(first, vm.id, 'vm.woken')).filter(({ data }) => data?.['by'] === 'ssh');
  assert.equal(woken.length, 1);
  await snapshots.delete(id);
});

/** Asks the proxy for a path of the guest's. */
async function visit(
  path: string,
  headers: Record<string, string> = {},
): Promise<{ readonly status: number | undefined; readonly body: string; readonly wakeMs: unknown }> {
  const host = 'counter.hatch.localhost';
  const sent = request({ host: '127.0.0.1', port: 9090, path, agent: false, headers: { host, ...headers } });
  sent.end();
  const [answer] = (await once(sent, 'response')) as [IncomingMessage];
  answer.setEncoding('utf8');
  const body = (await answer.toArray()).join('');
  return { status: answer.statusCode, body, wakeMs: answer.headers['hatch-wake-ms'] };
}

test('it sleeps on one host and wakes on another, still counting, and the first leaves it alone', async () => {
  // The files of a snapshot with a name would stay with the first.
  await first.client.snapshots.delete('asleep');
  const key = await hostKey(vm);
  const counted = await count(first, vm.id);
  const { id } = await first.client.vms.snapshot(vm.id, {});
  const snapshot = await until({ clock: systemClock, signal: AbortSignal.timeout(STORED_MS) }, async () => {
    const now = await first.client.snapshots.get(id);
    return now.state === 'durable' ? now : undefined;
  });
  assert.ok((snapshot.stored_bytes ?? 0) > 100_000, JSON.stringify(snapshot));

  // The first host is gone, with all it had.
  const firstFolder = join(folder, 'first');
  await first.down();
  current = undefined;
  await rename(join(firstFolder, 'data'), join(folder, 'gone'));

  await mkdir(join(folder, 'second'));
  second = await startHatchd(join(folder, 'second'), settings('second'), undefined, first);
  current = second;
  const sleeping = await second.client.vms.get(vm.id);
  assert.deepEqual([sleeping.state, sleeping.host], ['snapshotted', 'first']);
  const awake = await second.client.vms.start(vm.id, { wait: 'ready', timeout: 300 });
  assert.deepEqual([awake.state, awake.host, ...placeOf(awake)], ['running', 'second', ...placeOf(vm)]);
  const now = await goesOnFrom(second, counted);
  assert.match(await inside(second, vm.id, 'ip -4 addr'), new RegExp(`inet ${vm.guest_ip ?? ''}/`));
  assert.equal(await hostKey(awake), key);
  assert.equal(await second.ssh(awake, 'debian', 'hostname'), 'counter');
  assert.equal((await eventsOf(second, vm.id, 'vm.moved')).length, 1);

  // The first comes back, on its own machine, while the VM runs on the second.
  await rename(join(folder, 'gone'), join(firstFolder, 'data'));
  await comeBack(firstFolder);
  for (const part of ['vms', 'layers'])
    assert.deepEqual(await readdir(join(firstFolder, 'data', part)), [], `what the first had in ${part}`);
  assert.equal((await second.client.vms.get(vm.id)).state, 'running');
  assert.ok((await count(second, vm.id)) > now, 'it goes on counting');
});

/** Where a VM is reached: its address, its MAC and its SSH port. */
function placeOf({ guest_ip, guest_mac, ssh_port }: Vm): readonly unknown[] {
  return [guest_ip, guest_mac, ssh_port];
}

/** That the guest did not boot, counts on from what it had counted, and knows the time; gives what it has counted now. */
async function goesOnFrom(hatchd: Hatchd, counted: number): Promise<number> {
  const before = Date.now() / 1000;
  const there = Number(await inside(hatchd, vm.id, 'date +%s'));
  assert.ok(there > before - 3 && there < Date.now() / 1000 + 3, `its clock says ${there}`);
  assert.equal(await bootOf(hatchd, vm.id), boot, 'it did not boot');
  const now = await count(hatchd, vm.id);
  assert.ok(now >= counted && now < counted + 3000, `it counted ${counted}, then ${now}`);
  await untilItCounts(hatchd, vm.id, now);
  return now;
}

async function bootOf(hatchd: Hatchd, id: string): Promise<string> {
  return inside(hatchd, id, 'cat /proc/sys/kernel/random/boot_id');
}

async function untilItCounts(hatchd: Hatchd, id: string, from: number): Promise<void> {
  await until({ clock: systemClock, signal: AbortSignal.timeout(60_000) }, async () =>
    (await count(hatchd, id)) > from ? true : undefined,
  );
}

/** Who a guest takes itself for, in one command: a program costs an emulated guest some 50 ms. */
async function whoIs(one: Vm): Promise<Who> {
  const from = Date.now() / 1000;
  const said = await inside(
    first,
    one.id,
    'hostname; cat /etc/machine-id /sys/class/net/e*/address /root/count; date +%s; ip -4 -o addr',
  );
  const [hostname, machine, mac, counted, seconds, ...addresses] = said.split('\n');
  const off = Math.max(from - Number(seconds), Number(seconds) - Date.now() / 1000);
  const key = await hostKey(one);
  return { hostname, machine, mac, counted: Number(counted), off, addresses: addresses.join('\n'), key };
}

/** Starts the first daemon in a network of its own until it says that it is ready; what it is asked of the VM it refuses. */
async function comeBack(cwd: string): Promise<void> {
  const log = join(cwd, 'back.log');
  const [program, ...args] = apart.enter([HATCHD]);
  const env = { ...settings('first'), HATCH_DATA_DIR: join(cwd, 'data'), HATCH_RATE_LIMIT: '0' };
  const daemon = await spawnDetached([program, ...args], { cwd, log, env });
  try {
    await until({ clock: systemClock, signal: AbortSignal.timeout(60_000) }, async () => {
      if (!(await isAlive(daemon.identity))) throw new Error(`it ended: ${(await readIfThere(log)) ?? ''}`);
      return /"msg":"ready"/.test((await readIfThere(log)) ?? '') ? true : undefined;
    });
    const ask: Argv = apart.enter([join(HATCHD, '../hatch'), 'vm', 'stop', 'counter']);
    const { exitCode, stderr } = await run(ask, {
      env: { HATCH_URL: 'http://127.0.0.1:8080', HATCH_API_KEY: first.key },
      okExitCodes: [0, 1, 2, 3, 4, 5, 6],
      timeoutMs: 60_000,
    });
    assert.notEqual(exitCode, 0);
    assert.match(stderr, /is running on host "second"/);
  } finally {
    await signalProcess(daemon.identity, 'SIGTERM');
    await daemon.exited;
  }
  // Its bridge and rules are its own to remove.
  await run(apart.enter([HATCHD, 'down', '--grace', '0']), { env, timeoutMs: 120_000 });
}

async function makeBucket(name: string): Promise<void> {
  const s3 = new S3Client({
    endpoint: swift.endpoint,
    region: 'us-east-1',
    forcePathStyle: true,
    credentials: { accessKeyId: swift.accessKey, secretAccessKey: swift.secretKey },
  });
  try {
    await s3.send(new CreateBucketCommand({ Bucket: name }));
  } finally {
    s3.destroy();
  }
}
