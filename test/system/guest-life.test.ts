import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { systemClock } from '../../src/base/clock.ts';
import { until } from '../../src/base/until.ts';
import type { Vm } from '../../src/contract/vm.ts';
import { exists } from '../../src/host/files.ts';
import { run } from '../../src/host/run.ts';
import { takesAndGivesFiles } from '../support/guest-files.ts';
import { mustBeConfined, openTo, openToStrangers, PUBLIC, whereSeen } from '../support/confined.ts';
import { bootedVm } from '../support/booted-vm.ts';
import { eventsOf, qemuOf, startHatchd, untilVm, type Hatchd } from '../support/hatchd.ts';

/**
 * The life of real guests, from the API's side: two VMs side by side, each through every way a guest can end and come back.
 * Booting is what is tested here: one is booted; the other, and what comes after it, copies of one that was, go down in every way there is.
 */
let folder: string;
let hatchd: Hatchd;
/** Secrets that nobody is to see: of the operator, and in what a VM was made with. */
const S3_SECRET = 'canary-of-the-operator';
const PASSWORD = 'canary-in-user-data';

before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'life-'));
  hatchd = await startHatchd(folder, {
    HATCH_S3_ACCESS_KEY: 'canary-access',
    HATCH_S3_SECRET_KEY: S3_SECRET,
  });
});
after(async () => {
  await hatchd.down();
  await rm(folder, { recursive: true, force: true });
});

/**
 * The agent as the image starts it where there is a vsock device (Firecracker's way in): by the unit's own command, over the
 * kernel's loopback, since this hypervisor has no such device here.
 */
const VSOCK_AGENT = `set -e
sudo modprobe vsock_loopback
sudo systemd-run --quiet --unit=try-vsock $(sed -n 's/^ExecStart=//p' /etc/systemd/system/hatch-agent-vsock.service)
sudo systemctl is-active --quiet try-vsock
python3 - <<'END'
import socket, time
for _ in range(100):
    try:
        s = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        s.connect((1, 1024))
        break
    except OSError:
        time.sleep(0.1)
s.sendall(b'{"execute": "guest-ping"}\\n')
print(s.recv(100).decode().strip())
END
sudo systemctl stop try-vsock`;

const READY = { wait: 'ready', timeout: 300 } as const;

async function refuses(port: number | undefined): Promise<boolean> {
  const socket = connect(port ?? 0, '127.0.0.1');
  try {
    await once(socket, 'connect');
    return false;
  } catch {
    return true;
  } finally {
    socket.destroy();
  }
}

describe('two guests', { concurrency: 2 }, () => {
  test('one is configured, looked into, and powers itself off', async () => {
    const { client, ssh } = hatchd;
    const made = await client.vms.create(
      {
        name: 'alpha',
        ssh_authorized_keys: [hatchd.publicKey],
        user_data: `#cloud-config\n# ${PASSWORD}\nruncmd:\n  - echo once >> /var/lib/ran\n`,
        labels: { role: 'test' },
        disk_mib: 4096,
      },
      READY,
    );
    assert.equal(made.ready, true);
    await waitsForCloudInit(made);
    await isConfined(made);

    const { stdout } = await client.vms.exec('alpha', {
      command: ['sh', '-c', 'echo "$PWD $GREETING"; cat; exit 7'],
      cwd: '/tmp',
      env: { GREETING: 'hello' },
      stdin: 'from outside',
    });
    assert.equal(stdout, '/tmp hello\nfrom outside');
    const slow = await client.vms.exec('alpha', { command: 'echo begun; sleep 60', timeout_seconds: 2 });
    assert.deepEqual([slow.timed_out, slow.stdout], [true, 'begun\n']);
    const much = await client.vms.exec('alpha', { command: 'head -c 2000000 /dev/zero | tr "\\0" x' });
    assert.deepEqual([much.truncated, much.stdout.length, much.exit_code], [true, 1024 * 1024, 0]);

    await tellsWhatItUses(made);
    await takesAndGivesFiles(hatchd, 'alpha');

    // The image's file system has grown to the disk that was asked for.
    const size = Number(await ssh(made, 'debian', 'df --output=size -BM / | tail -n 1 | tr -d "M "'));
    assert.ok(size > 3500, `the root file system has ${size} MiB`);
    assert.equal(await ssh(made, 'debian', 'hostname; cat /var/lib/ran'), 'alpha\nonce');
    assert.equal(await ssh(made, 'debian', VSOCK_AGENT), '{"return": {}}');
    assert.match(await client.vms.console('alpha'), /login:|Reached target/);

    await ssh(made, 'debian', 'sudo systemctl poweroff').catch(() => 'the connection ends with the guest');
    const off = await untilVm(hatchd, made.id, (vm) => vm.state === 'stopped');
    assert.equal(off.state_reason, undefined);
    assert.match((await eventsOf(hatchd, made.id, 'vm.stopped'))[0]?.message ?? '', /powered itself off/);
    assert.equal(await refuses(made.ssh_port), true);
    assert.equal(await qemuOf(made.id), undefined);

    // That it comes up again as itself, and goes down when it is told to, is tried in seed-replay.
    const back = await client.vms.start('alpha');
    const identity = (vm: Vm): unknown[] => [vm.id, vm.guest_ip, vm.guest_mac, vm.ssh_port];
    assert.deepEqual(identity(back), identity(made));
    const stopped = await client.vms.stop('alpha', { grace_seconds: 0 });
    assert.equal(stopped.state, 'stopped');
    assert.equal((await client.vms.stop('alpha')).state, 'stopped', 'stopping twice is fine');
    assert.deepEqual(await client.vms.delete('alpha'), { status: 'deleted' });
    assert.equal(await exists(join(hatchd.data, 'vms', made.id)), false);
    assert.doesNotMatch((await run(['ip', 'link'])).stdout, new RegExp(made.id));
    assert.doesNotMatch((await run(['nft', 'list', 'ruleset'])).stdout, new RegExp(made.id));
  });

  test('the other reboots and is killed, and each is told apart', async () => {
    const { client, ssh } = hatchd;
    const made = await bootedVm(hatchd, { name: 'beta' });
    const firstPid = await qemuOf(made.id);

    await ssh(made, 'debian', 'sudo systemctl reboot').catch(() => 'the connection ends with the guest');
    await untilVm(hatchd, made.id, (vm) => vm.state !== 'running' || vm.ready !== true);
    await untilVm(hatchd, made.id, (vm) => vm.state === 'running' && vm.operation === undefined);
    await until({ clock: systemClock, signal: AbortSignal.timeout(240_000) }, async () =>
      /Linux version [^]*systemd\[1\]/.test(await client.vms.console(made.id)) ? true : undefined,
    );
    assert.match((await eventsOf(hatchd, made.id, 'vm.rebooted'))[0]?.message ?? '', /rebooted itself/);
    assert.equal((await eventsOf(hatchd, made.id, 'vm.stopped')).length, 0, 'a reboot is no stop');
    const pid = await qemuOf(made.id);
    assert.ok(pid !== undefined && pid !== firstPid);
    process.kill(pid, 'SIGKILL');
    const killed = await untilVm(hatchd, made.id, (vm) => vm.state === 'error');
    assert.equal(killed.state_reason?.code, 'vmm_died');
    assert.match(killed.state_reason?.message ?? '', /SIGKILL|signal/);
    await client.vms.delete('beta');
  });

  test('one that panics, and one that does not hear, are told apart too', async () => {
    const { client, ssh } = hatchd;
    const made = await bootedVm(hatchd, { name: 'gamma' });
    await ssh(made, 'debian', 'sudo sh -c "echo 1 > /proc/sys/kernel/sysrq; echo c > /proc/sysrq-trigger"', {
      timeoutMs: 20_000,
    }).catch(() => 'the connection ends with the guest');
    const panicked = await untilVm(hatchd, made.id, (vm) => vm.state === 'error');
    assert.equal(panicked.state_reason?.code, 'guest_panic');
    assert.match(panicked.state_reason?.message ?? '', /sysrq triggered crash/i);
    assert.equal(await refuses(made.ssh_port), true);

    // From an error it starts again, its disk being whole; here it does not come far.
    // A guest that does not hear is cut off at the end of its grace, and that is said.
    assert.equal((await client.vms.start('gamma')).state, 'running');
    const cutOff = await client.vms.stop('gamma', { grace_seconds: 1 });
    assert.deepEqual([cutOff.state, cutOff.state_reason?.code], ['stopped', 'forced_stop']);
    assert.deepEqual(await client.vms.delete('gamma'), { status: 'deleted' });
  });
});

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
  assert.match((await hatchd.hatch('vm', 'metrics', 'alpha')).stdout, /^Disk written +[\d.]+M$/m);
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

/** Waits for the end of cloud-init in a guest, which must have nothing to complain of. */
async function waitsForCloudInit(vm: Vm): Promise<void> {
  const status = await hatchd.ssh(vm, 'debian', 'cloud-init status --wait --long', { timeoutMs: 180_000 });
  assert.match(status, /^status: done$/m);
}
