import assert from 'node:assert/strict';
import { CreateBucketCommand, S3Client } from '@aws-sdk/client-s3';
import { randomBytes } from 'node:crypto';
import { mkdir, mkdtemp, readdir, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { systemClock } from '../../src/base/clock.ts';
import { until } from '../../src/base/until.ts';
import type { Vm } from '../../src/contract/vm.ts';
import { isAlive, signalProcess, spawnDetached } from '../../src/host/process.ts';
import { readIfThere } from '../../src/host/files.ts';
import { run, type Argv } from '../../src/host/run.ts';
import { eventsOf, startHatchd, type Hatchd } from '../support/hatchd.ts';
import { makeNetns, type Netns } from '../support/netns.ts';
import { makePostgres, type Postgres } from '../support/postgres.ts';
import { makeSwift, type Swift } from '../support/swift.ts';

/** Two hosts, one after the other, with one database and one bucket: a guest that counts goes from the one to the other. */
let folder: string;
let database: Postgres;
let swift: Swift;
let first: Hatchd;
let second: Hatchd;
let apart: Netns;

const COUNTER = 'i=0; while :; do i=$((i+1)); echo $i > /root/count; sleep 0.1; done';
const HATCHD = join(import.meta.dirname, '../../bin/hatchd');
/** Half a gigabyte on a machine that emulates a guest beside it. */
const STORED_MS = 300_000;

before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'away-'));
  database = await makePostgres();
  swift = await makeSwift();
  apart = await makeNetns('hatch-apart');
});
after(async () => {
  await second.down();
  await apart.dispose();
  await database.dispose();
  await swift.dispose();
  await rm(folder, { recursive: true, force: true });
});

async function settings(host: string): Promise<Record<string, string>> {
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

test('a guest that sleeps on one host wakes on another, still counting, and the first leaves it alone', async () => {
  await database.createDatabase('hatch');
  await writeFile(join(folder, 'snapshot-key'), `${randomBytes(32).toString('base64')}\n`, { mode: 0o600 });
  await makeBucket('snapshots');
  const firstFolder = join(folder, 'first');
  await mkdir(firstFolder);
  first = await startHatchd(firstFolder, await settings('first'));
  const vm = await first.client.vms.create(
    { name: 'counter', ssh_authorized_keys: [first.publicKey] },
    { wait: 'ready', timeout: 300 },
  );
  await inside(first, vm.id, 'systemctl is-system-running --wait || true');
  await inside(first, vm.id, `systemd-run --unit=counter sh -c '${COUNTER.replaceAll('$', '$$$$')}'`);
  await until({ clock: systemClock, signal: AbortSignal.timeout(60_000) }, async () =>
    (await count(first, vm.id)) > 0 ? true : undefined,
  );
  const key = await hostKey(vm);
  const boot = await inside(first, vm.id, 'cat /proc/sys/kernel/random/boot_id');
  const counted = await count(first, vm.id);

  const { id } = await first.client.vms.snapshot(vm.id, {});
  const snapshot = await until({ clock: systemClock, signal: AbortSignal.timeout(STORED_MS) }, async () => {
    const now = await first.client.snapshots.get(id);
    return now.state === 'durable' ? now : undefined;
  });
  assert.ok((snapshot.stored_bytes ?? 0) > 1_000_000, JSON.stringify(snapshot));

  // The first host is gone, with all it had.
  await first.down();
  await rename(join(firstFolder, 'data'), join(folder, 'gone'));

  const secondFolder = join(folder, 'second');
  await mkdir(secondFolder);
  second = await startHatchd(secondFolder, await settings('second'), undefined, first);
  const sleeping = await second.client.vms.get(vm.id);
  assert.deepEqual([sleeping.state, sleeping.host], ['snapshotted', 'first']);
  const awake = await second.client.vms.start(vm.id, { wait: 'ready', timeout: 300 });
  assert.deepEqual(
    [awake.state, awake.host, awake.guest_ip, awake.guest_mac, awake.ssh_port],
    ['running', 'second', vm.guest_ip, vm.guest_mac, vm.ssh_port],
  );
  assert.equal(await inside(second, vm.id, 'cat /proc/sys/kernel/random/boot_id'), boot, 'it did not boot');
  const now = await count(second, vm.id);
  assert.ok(now >= counted && now < counted + 3000, `it counted ${counted}, then ${now}`);
  await until({ clock: systemClock, signal: AbortSignal.timeout(10_000) }, async () =>
    (await count(second, vm.id)) > now ? true : undefined,
  );
  const off = Math.abs(Number(await inside(second, vm.id, 'date +%s')) - Date.now() / 1000);
  assert.ok(off < 3, `its clock is off by ${off} s`);
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
  const later = await count(second, vm.id);
  assert.ok(later > now, 'it goes on counting');

  // On the second it is as at home: it stops, and boots its own kernel.
  await second.client.vms.stop(vm.id, { grace_seconds: 60 });
  const booted = await second.client.vms.start(vm.id, { wait: 'ready', timeout: 300 });
  assert.equal(booted.guest_ip, vm.guest_ip);
  assert.equal(await inside(second, vm.id, 'hostname'), 'counter');
  assert.ok((await count(second, vm.id)) >= later, 'its disk came along');
});

/** Starts the first daemon in a network of its own until it says that it is ready; what it is asked of the VM it refuses. */
async function comeBack(cwd: string): Promise<void> {
  const log = join(cwd, 'back.log');
  const [program, ...args] = apart.enter([HATCHD]);
  const env = { ...(await settings('first')), HATCH_DATA_DIR: join(cwd, 'data'), HATCH_RATE_LIMIT: '0' };
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
