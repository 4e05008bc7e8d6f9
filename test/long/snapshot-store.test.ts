import assert from 'node:assert/strict';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { systemClock } from '../../src/base/clock.ts';
import { until } from '../../src/base/until.ts';
import type { Vm } from '../../src/contract/vm.ts';
import { START_COUNTING } from '../support/counter.ts';
import { eventsOf, qemus, startHatchd, type Hatchd } from '../support/hatchd.ts';

/** A guest that counts and sleeps, and whose only copy is the one in the store: it is proven there, and wakes from there. */
let folder: string;
let hatchd: Hatchd;
let vm: Vm;
let counted: number;
let boot: string;

before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'kept-'));
  hatchd = await startHatchd(folder);
  vm = await hatchd.client.vms.create({ name: 'counter' }, { wait: 'ready', timeout: 300 });
  await inside('systemctl is-system-running --wait || true');
  await inside(START_COUNTING);
  await until({ clock: systemClock, signal: AbortSignal.timeout(60_000) }, async () =>
    (await count()) > 0 ? true : undefined,
  );
  counted = await count();
  boot = await inside('cat /proc/sys/kernel/random/boot_id');
});
after(async () => {
  await hatchd.down();
  await rm(folder, { recursive: true, force: true });
});

async function inside(command: string): Promise<string> {
  const { exit_code, stdout, stderr } = await hatchd.client.vms.exec(vm.id, {
    command,
    timeout_seconds: 120,
  });
  assert.equal(exit_code, 0, `${command}: ${stderr}`);
  return stdout.trim();
}

async function count(): Promise<number> {
  return Number(await inside('cat /root/count || echo 0'));
}

test('once a snapshot is stored its local files are forgotten when there is no room for them', async () => {
  const snapshot = await hatchd.client.vms.snapshot(
    vm.id,
    { name: 'kept' },
    { wait: 'stored', timeout: 600 },
  );
  assert.equal(snapshot.state, 'durable');
  assert.equal(snapshot.transfer, undefined);
  assert.ok((snapshot.stored_bytes ?? 0) > 10_000_000, `${snapshot.stored_bytes} bytes`);
  assert.notDeepEqual(await readdir(join(hatchd.data, 'layers')), []);
  await hatchd.end('SIGTERM');
  await hatchd.start({ HATCH_CACHE_MIB: '0' });
  await until({ clock: systemClock, signal: AbortSignal.timeout(60_000) }, async () =>
    (await readdir(join(hatchd.data, 'layers'))).length === 0 ? true : undefined,
  );
  assert.equal((await hatchd.client.snapshots.get('kept')).state, 'durable');
  assert.equal((await hatchd.client.vms.get(vm.id)).state, 'snapshotted');
});

test('it is proven by its durable copy, and nothing of the proof is left', async () => {
  const links = await readdir('/sys/class/net');
  const proven = await hatchd.client.snapshots.verify('kept');
  assert.ok(proven.verified_at);
  assert.equal((await eventsOf(hatchd, vm.id, 'snapshot.verified')).length, 1);
  assert.deepEqual([...(await qemus()).keys()], []);
  assert.deepEqual(await readdir('/sys/class/net'), links);
  assert.deepEqual(await readdir(join(hatchd.data, 'layers')), []);
  assert.deepEqual(await readdir(join(hatchd.data, 'vms')), [vm.id]);
});

test('the VM wakes by download, still counting, at the right time', async () => {
  const awake = await hatchd.client.vms.restore(vm.id, {}, { wait: 'ready', timeout: 300 });
  assert.equal(awake.state, 'running');
  assert.equal(await inside('cat /proc/sys/kernel/random/boot_id'), boot, 'it did not boot');
  const now = await count();
  assert.ok(now >= counted && now < counted + 1000, `it counted ${counted}, then ${now}`);
  await until({ clock: systemClock, signal: AbortSignal.timeout(10_000) }, async () =>
    (await count()) > now ? true : undefined,
  );
  assert.ok(Math.abs(Number(await inside('date +%s')) - Date.now() / 1000) < 3, 'the clock is right');
});
