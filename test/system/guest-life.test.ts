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
import { bootedVm } from '../support/booted-vm.ts';
import { eventsOf, qemuOf, startHatchd, untilVm, type Hatchd } from '../support/hatchd.ts';

/**
 * The life of real guests, from the API's side: two VMs side by side, copies of one that was booted, each through every way a guest can
 * end and come back.
 */
let folder: string;
let hatchd: Hatchd;

before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'life-'));
  hatchd = await startHatchd(folder);
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
  test('one is looked into, and powers itself off', async () => {
    const { client, ssh } = hatchd;
    const made = await bootedVm(hatchd, { name: 'alpha' });

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

    await takesAndGivesFiles(hatchd, 'alpha');
    assert.equal(await ssh(made, 'debian', VSOCK_AGENT), '{"return": {}}');

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
