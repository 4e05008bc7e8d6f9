import assert from 'node:assert/strict';
import { mkdir, mkdtemp, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { silent } from '../../src/base/logger.ts';
import { systemClock } from '../../src/base/clock.ts';
import type { SnapshotId } from '../../src/base/ids.ts';
import type { Vm } from '../../src/contract/vm.ts';
import { localFiles } from '../../src/ops/local-snapshot.ts';
import { openStore } from '../../src/store/db/open.ts';
import { AGENT_SEED } from '../support/agent-cases.ts';
import { keepForOthers } from '../support/booted-guest.ts';
import { comesToRest, shareBooted } from '../support/booted-vm.ts';
import { mustBeConfined, openTo, openToStrangers, PUBLIC, whereSeen } from '../support/confined.ts';
import { eventsOf, qemuOf, startHatchd, type Hatchd } from '../support/hatchd.ts';

/**
 * A guest's first boot, and the VM that other suites have copies of: booted, put to sleep, exported. They find it in $HATCH_TEST_BOOTED, and
 * beside it the machine in it, for those that know no hatchd.
 */
let folder: string;
let hatchd: Hatchd;
let vm: Vm;
/** Secrets that nobody is to see: of the operator, and in what the VM is made with. */
const S3_SECRET = 'canary-of-the-operator';
const PASSWORD = 'canary-in-user-data';

before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'boot-'));
  hatchd = await startHatchd(folder, {
    HATCH_S3_ACCESS_KEY: 'canary-access',
    HATCH_S3_SECRET_KEY: S3_SECRET,
  });
});
after(async () => {
  await hatchd.down();
  await rm(folder, { recursive: true, force: true });
});

test('a guest boots, is ready, and comes to rest with nothing to complain of', async (t) => {
  const { client, publicKey } = hatchd;
  assert.ok(AGENT_SEED.userData.includes(PASSWORD));
  vm = await client.vms.create(
    {
      name: AGENT_SEED.hostname,
      vcpu_count: 2,
      disk_mib: 4096,
      ssh_authorized_keys: [...AGENT_SEED.sshAuthorizedKeys, publicKey],
      user_data: AGENT_SEED.userData,
      labels: { role: 'test' },
    },
    { wait: 'ready', timeout: 300 },
  );
  assert.deepEqual([vm.state, vm.ready], ['running', true]);
  await comesToRest(client, vm.id);
  const { stdout } = await client.vms.exec(vm.id, {
    command: 'systemctl list-units --failed --plain -q; cloud-init status --wait --long',
  });
  assert.match(stdout, /^status: done$/m);
  t.diagnostic(`agent answered after ${(await readyAfterSeconds(vm)).toFixed(1)} s`);
});

test('it is what it was made to be', async () => {
  const ssh = (command: string): Promise<string> => hatchd.ssh(vm, 'debian', command);
  // The image's file system has grown to the disk that was asked for.
  const size = Number(await ssh('df --output=size -BM / | tail -n 1 | tr -d "M "'));
  assert.ok(size > 3500, `the root file system has ${size} MiB`);
  assert.equal(await ssh('hostname; cat /var/lib/ran'), 'booted\nonce');
  assert.match(await hatchd.client.vms.console(vm.id), /login:|Reached target/);
});

test('its hypervisor has no rights but its own, and no secret shows', () => isConfined(vm));

test('what it uses is counted', () => tellsWhatItUses(vm));

test('it sleeps as a snapshot, which is exported as a file', async () => {
  const shared = process.env['HATCH_TEST_BOOTED'] ?? join(folder, 'shared');
  await mkdir(shared, { recursive: true });
  await hatchd.client.vms.exec(vm.id, { command: 'sync' });
  const { id } = await hatchd.client.vms.snapshot(vm.id, { name: 'golden' });
  assert.equal(await qemuOf(vm.id), undefined);
  await shareBooted(hatchd, 'golden', shared);
  assert.ok((await stat(join(shared, 'booted.hatch'))).size > 16 * 1024 ** 2);
  assert.equal((await eventsOf(hatchd, vm.id, 'vm.slept')).length, 1);
  await shareMachine(id, shared);
});

/** How long it took from when the VM was made until its agent answered. */
async function readyAfterSeconds({ id, created_at }: Vm): Promise<number> {
  const [ready] = await eventsOf(hatchd, id, 'vm.ready');
  assert.deepEqual(ready?.data, { by: 'agent' });
  return (Date.parse(ready.at) - Date.parse(created_at)) / 1000;
}

/** Puts the machine in a snapshot where the suites of driver and agent look for it. */
async function shareMachine(snapshotId: string, shared: string): Promise<void> {
  const store = await openStore(`sqlite:${join(hatchd.data, 'hatch.db')}`, {
    clock: systemClock,
    log: silent,
  });
  try {
    const snapshot = await store.snapshots.get(snapshotId as SnapshotId);
    assert.ok(snapshot);
    const { disk, saved } = await localFiles({ store }, snapshot);
    const { guest, vcpuCount, memMib } = snapshot;
    await keepForOthers(
      {
        saved,
        spec: {
          vmId: snapshot.vmId,
          folder: join(hatchd.data, 'vms', vm.id),
          vcpuCount,
          memMib,
          kernel: 'kernel',
          initrd: 'initrd',
          bootArgs: guest.bootArgs,
          disks: [
            { path: 'disk.qcow2', format: guest.diskFormat, readOnly: false, over: [] },
            { path: 'seed.iso', format: 'raw', readOnly: true },
          ],
          network: { tap: vm.id, mac: guest.mac ?? '' },
          machineType: saved.machineType,
        },
        answered: { by: 'agent', seconds: await readyAfterSeconds(vm) },
        authorizedKeys: [...AGENT_SEED.sshAuthorizedKeys, hatchd.publicKey],
      },
      { disk: disk.path, shared },
    );
  } finally {
    await store.close();
  }
}

/** What a guest writes and sends is counted, by the API and by the command. */
async function tellsWhatItUses({ id, mem_mib }: Vm): Promise<void> {
  const { client } = hatchd;
  const before = await client.vms.metrics(id);
  const [mib, datagrams] = [8, 20];
  const { exit_code, stderr } = await client.vms.exec(id, {
    command: [
      'bash',
      '-ec',
      `dd if=/dev/urandom of=/var/tmp/written bs=1M count=${mib} conv=fsync status=none
      for i in {1..${datagrams}}; do head -c 1000 /dev/zero > /dev/udp/192.168.241.1/9; done`,
    ],
  });
  assert.equal(exit_code, 0, stderr);
  const after = await client.vms.metrics(id);
  assert.ok(before.net && after.net);
  const grew = {
    written: after.block.written_bytes - before.block.written_bytes,
    packets: after.net.sent_packets - before.net.sent_packets,
    sent: after.net.sent_bytes - before.net.sent_bytes,
  };
  const words = JSON.stringify({ before, after });
  assert.ok(grew.written >= mib * 1024 * 1024, words);
  assert.ok(grew.packets >= datagrams && grew.sent >= datagrams * 1000, words);
  assert.ok(before.block.read_bytes > 1024 * 1024 && before.net.received_packets > 0, words);
  assert.ok(after.cpu_seconds > before.cpu_seconds && after.uptime_seconds > before.uptime_seconds, words);
  const life = (Date.parse(after.at) - Date.parse(before.at)) / 1000;
  assert.ok(Math.abs(after.uptime_seconds - before.uptime_seconds - life) < 1, words);
  const { mem_mib: given, resident_bytes: held } = after.memory;
  assert.equal(given, mem_mib);
  // The guest has touched some of it; QEMU has its own memory besides.
  assert.ok(held > 64 * 1024 ** 2 && held < (mem_mib + 1024) * 1024 ** 2, words);
  assert.match((await hatchd.hatch('vm', 'metrics', id)).stdout, /^Disk written +[\d.]+M$/m);
}

/** A guest's QEMU has its own rights alone, its files are nobody else's, and no secret shows. */
async function isConfined({ id }: Vm): Promise<void> {
  const pid = await qemuOf(id);
  assert.ok(pid !== undefined);
  const uid = await mustBeConfined(pid);
  // It works in its folder, and comes to nothing else there by name.
  const [own, ...more] = await openTo(uid, join(hatchd.data, 'vms', id));
  assert.match(own ?? '', /^disk\.(qcow2|raw)$/);
  assert.deepEqual(more, []);
  assert.deepEqual(await openTo(uid, hatchd.data), [...PUBLIC]);
  assert.deepEqual(await openToStrangers(hatchd.data), [...PUBLIC]);
  const user_data = `#cloud-config\n# ${PASSWORD}\n`;
  await assert.rejects(
    hatchd.client.vms.create({ image_id: 'img-none', user_data }),
    (error) => error instanceof Error && !/canary/.test(`${error.message} ${JSON.stringify(error)}`),
  );
  assert.deepEqual(await whereSeen([S3_SECRET, PASSWORD, hatchd.key], hatchd), []);
}
