import assert from 'node:assert/strict';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { systemClock } from '../../src/base/clock.ts';
import { newId } from '../../src/base/ids.ts';
import { until } from '../../src/base/until.ts';
import type { Vm } from '../../src/contract/vm.ts';
import { exists } from '../../src/host/files.ts';
import { identify } from '../../src/host/process.ts';
import { run } from '../../src/host/run.ts';
import { bootedVm } from '../support/booted-vm.ts';
import { mustBeConfined, rightsOf } from '../support/confined.ts';
import { eventsOf, qemuOf, startHatchd, untilVm, type Hatchd } from '../support/hatchd.ts';

/** Guests outlive hatchd: one booted guest, and a hatchd that is ended, killed and started again around it. */
let folder: string;
let hatchd: Hatchd;
let vm: Vm;
/** The guest is started as root, as by a hatchd of before QEMUs had users of their own. */
const BEFORE = { HATCH_QEMU_USERS: 'off' };
const NOW = { HATCH_QEMU_USERS: 'on' };

before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'again-'));
  hatchd = await startHatchd(folder, BEFORE);
  vm = await bootedVm(hatchd, { name: 'steady' });
});
after(async () => {
  await hatchd.down();
  await rm(folder, { recursive: true, force: true });
});

/** Who the guest's QEMU is, so that another with the same pid would not pass for it. */
async function whoRuns(): Promise<unknown> {
  const pid = await qemuOf(vm.id);
  return pid === undefined ? undefined : identify(pid);
}

for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
  test(`after ${signal} the guest runs on, and the next hatchd goes on with it as if nothing had been`, async () => {
    const before = await hatchd.client.vms.get(vm.id);
    const process = await whoRuns();
    const boot = await hatchd.ssh(vm, 'debian', 'cat /proc/sys/kernel/random/boot_id');
    const { code } = await hatchd.end(signal);
    // 0: every part has let go in time; it would have left with 1 after its last deadline.
    if (signal === 'SIGTERM') assert.equal(code, 0, await hatchd.log());
    assert.deepEqual(await whoRuns(), process);
    await assert.rejects(hatchd.ssh(vm, 'debian', 'true'), /refused/, 'nobody leads to the guest meanwhile');

    await hatchd.start(NOW);
    assert.deepEqual(await whoRuns(), process);
    // When it was last used is written down by whichever hatchd looks next.
    const lasting = ({ updated_at: _, last_active_at: __, ...rest }: Vm): Partial<Vm> => rest;
    assert.deepEqual(lasting(await hatchd.client.vms.get(vm.id)), lasting(before));
    assert.equal(await hatchd.ssh(vm, 'debian', 'cat /proc/sys/kernel/random/boot_id'), boot);
    assert.equal((await hatchd.client.vms.exec(vm.id, { command: ['echo', 'here'] })).stdout, 'here\n');
  });
}

test('what nobody claims is taken away at the next start; what the guest has is put back', async () => {
  await hatchd.end('SIGKILL');
  const stranger = newId('vm');
  await run(['ip', 'tuntap', 'add', 'dev', stranger, 'mode', 'tap']);
  await run(['ip', 'link', 'set', 'dev', stranger, 'master', 'hatch0']);
  await mkdir(join(hatchd.data, 'vms', stranger));
  await run(['nft', 'delete', 'table', 'bridge', 'hatch']);
  await hatchd.start(NOW);
  assert.doesNotMatch((await run(['ip', 'link'])).stdout, new RegExp(stranger));
  assert.equal(await exists(join(hatchd.data, 'vms', stranger)), false);
  assert.match((await run(['nft', 'list', 'table', 'bridge', 'hatch'])).stdout, new RegExp(vm.id));
  assert.equal(await hatchd.ssh(vm, 'debian', 'echo still here'), 'still here');
});

test('a guest that runs as root since before is saved while it goes on', async () => {
  const pid = await qemuOf(vm.id);
  assert.ok(pid !== undefined);
  assert.deepEqual((await rightsOf(pid)).uids, [0, 0, 0, 0]);
  const kept = await hatchd.client.vms.snapshot(vm.id, { keep_running: true });
  assert.equal(await qemuOf(vm.id), pid);
  assert.equal(await hatchd.ssh(vm, 'debian', 'echo still here'), 'still here');
  await hatchd.client.snapshots.delete(kept.id);
});

test('a reboot that hatchd was killed in is carried to its end by the next one', async () => {
  const asked = hatchd.client.vms.reboot(vm.id).catch(() => 'cut off');
  await untilVm(hatchd, vm.id, (now) => now.operation === 'rebooting' || now.ready !== true);
  await hatchd.end('SIGKILL');
  assert.equal(await asked, 'cut off');
  await hatchd.start(NOW);
  const again = await untilVm(hatchd, vm.id, (now) => now.state === 'running' && now.operation === undefined);
  assert.deepEqual([again.guest_ip, again.ssh_port], [vm.guest_ip, vm.ssh_port]);
  assert.equal((await eventsOf(hatchd, vm.id, 'vm.rebooted')).length, 1);
  await mustBeConfined((await qemuOf(vm.id)) ?? assert.fail());
  // That it boots to its end is tried in guest-life.
  await until({ clock: systemClock, signal: AbortSignal.timeout(240_000) }, async () =>
    /Linux version [^]*systemd\[1\]/.test(await hatchd.client.vms.console(vm.id)) ? true : undefined,
  );
});

test('a guest that ended while no hatchd was there is told of as lost, and can be started again', async () => {
  await hatchd.end('SIGTERM');
  const pid = await qemuOf(vm.id);
  assert.ok(pid !== undefined);
  process.kill(pid, 'SIGKILL');
  await hatchd.start(NOW);
  const lost = await hatchd.client.vms.get(vm.id);
  assert.deepEqual([lost.state, lost.state_reason?.code], ['error', 'lost']);
  assert.doesNotMatch((await run(['ip', 'link'])).stdout, new RegExp(vm.id));
  assert.equal((await hatchd.client.vms.start(vm.id)).state, 'running');
  assert.deepEqual(await hatchd.client.vms.delete(vm.id), { status: 'deleted' });
  assert.equal(await exists(join(hatchd.data, 'vms', vm.id)), false);
});
