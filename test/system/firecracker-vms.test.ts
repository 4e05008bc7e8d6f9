import assert from 'node:assert/strict';
import { mkdtemp, rm, symlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { ApiError } from '../../src/clients/http.ts';
import type { Vm } from '../../src/contract/vm.ts';
import { run } from '../../src/host/run.ts';
import { firecrackerOf, startHatchd, untilVm, type Hatchd } from '../support/hatchd.ts';
import { builtImage } from '../support/built-image.ts';

/** VMs on Firecracker through the public API: hatchd, network and disks are real, the Firecracker is its double. */
let folder: string;
let hatchd: Hatchd;
const DOUBLE = join(import.meta.dirname, '../../src/vmm/firecracker/testing/firecracker-double');

before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'fcvm-'));
  hatchd = await startHatchd(folder, {
    HATCH_VMM: 'firecracker',
    HATCH_FIRECRACKER_BIN: DOUBLE,
    HATCH_IMAGE_DIRS: (await builtImage()).dir,
  });
});
after(async () => {
  await hatchd.down();
  await rm(folder, { recursive: true, force: true });
});

test('a VM is created, stopped, started, taken up after kill -9 of hatchd, killed and removed', async () => {
  const { client } = hatchd;
  const made = await client.vms.create({ name: 'fc' }, { wait: 'ready', timeout: 60 });
  assert.deepEqual([made.state, made.vmm, made.accel], ['running', 'firecracker', 'kvm']);
  const identity = ({ id, guest_ip, guest_mac, ssh_port }: Vm): unknown[] => [
    id,
    guest_ip,
    guest_mac,
    ssh_port,
  ];
  assert.equal((await client.vms.exec('fc', { command: ['echo', 'hello'] })).stdout, 'hello\n');
  assert.match(await client.vms.console('fc'), /Linux version/);

  const stopped = await client.vms.stop('fc');
  assert.deepEqual([stopped.state, stopped.state_reason], ['stopped', undefined]);
  assert.equal(await firecrackerOf(made.id), undefined);
  const back = await client.vms.start('fc', { wait: 'ready', timeout: 60 });
  assert.deepEqual(identity(back), identity(made));

  const pid = await firecrackerOf(made.id);
  assert.ok(pid !== undefined);
  await hatchd.end('SIGKILL');
  await hatchd.start();
  assert.equal(await firecrackerOf(made.id), pid);
  assert.equal((await client.vms.get('fc')).state, 'running');
  assert.equal((await client.vms.exec('fc', { command: ['echo', 'again'] })).stdout, 'again\n');

  const rebooted = await client.vms.reboot('fc', { wait: 'ready', timeout: 60 });
  assert.deepEqual(identity(rebooted), identity(made));
  const other = await firecrackerOf(made.id);
  assert.ok(other !== undefined && other !== pid);
  process.kill(other, 'SIGKILL');
  const killed = await untilVm(hatchd, made.id, (vm) => vm.state === 'error');
  assert.equal(killed.state_reason?.code, 'vmm_died');

  assert.equal((await client.vms.start('fc')).state, 'running');
  assert.deepEqual(await client.vms.delete('fc'), { status: 'deleted' });
  assert.equal(await firecrackerOf(made.id), undefined);
  assert.doesNotMatch((await run(['ip', 'link'])).stdout, new RegExp(made.id));
});

test('what a VM uses is told through FlushMetrics, over a restart of hatchd; a silent Firecracker is waited for in vain', async () => {
  const { client } = hatchd;
  const { id } = await client.vms.create({ name: 'counted', mem_mib: 256 }, { wait: 'ready', timeout: 60 });
  const first = await client.vms.metrics('counted');
  assert.ok(first.block.read_bytes > 0, 'the boot reads the disk');
  assert.equal(first.memory.mem_mib, 256);
  assert.ok(first.memory.resident_bytes > 1024 * 1024 && first.cpu_seconds > 0);
  assert.ok(first.uptime_seconds > 0 && first.uptime_seconds < 300);
  assert.ok(first.net);

  await hatchd.end('SIGKILL');
  await hatchd.start();
  const second = await client.vms.metrics('counted');
  assert.deepEqual(second.block, first.block, 'what was flushed before is not lost, nor counted twice');
  assert.ok(second.uptime_seconds > first.uptime_seconds);

  const pid = await firecrackerOf(id);
  assert.ok(pid !== undefined);
  process.kill(pid, 'SIGSTOP');
  try {
    await refused(client.vms.metrics('counted'), 504, 'timeout');
  } finally {
    process.kill(pid, 'SIGCONT');
  }
  assert.deepEqual((await client.vms.metrics('counted')).block, first.block);

  await client.vms.stop('counted');
  const { message } = await refused(client.vms.metrics('counted'), 409, 'wrong_state');
  assert.match(message, /is stopped/);
  await client.vms.delete('counted');
  const alone = await client.vms.create({ enable_network: false });
  assert.equal((await client.vms.metrics(alone.id)).net, undefined);
  await client.vms.delete(alone.id);
});

test('an image whose kernel is compressed is refused by name, saying what to register, and nothing is made', async () => {
  const { client } = hatchd;
  const built = await builtImage();
  const files = { rootfs_path: built.rootfs, initrd_path: built.initrd };
  await client.images.create({ name: 'packed', kernel_path: built.vmlinuz, ...files });
  const before = (await client.vms.list()).length;
  const error = await refused(client.vms.create({ image_id: 'img-packed' }), 400, 'invalid_request');
  assert.match(error.message, /"img-packed".*compressed.*"kernel_path".*vmlinux/);
  assert.deepEqual([error.details?.['field'], error.details?.['image_id']], ['image_id', 'img-packed']);
  assert.equal((await client.vms.list()).length, before);
  await client.images.delete('img-packed');
  // What it says to do helps.
  await client.images.create({ name: 'packed', kernel_path: built.vmlinux, ...files });
  const vm = await client.vms.create({ image_id: 'img-packed' }, { wait: 'ready', timeout: 60 });

  // A VM that was made under another hypervisor is told the same when it is started.
  await client.vms.stop(vm.id);
  const kernel = join(hatchd.data, 'vms', vm.id, 'vmlinux');
  await rm(kernel);
  await symlink(built.vmlinuz, kernel);
  const late = await refused(client.vms.start(vm.id), 400, 'invalid_request');
  assert.match(late.message, /"img-packed".*compressed/);
  assert.equal(late.details?.['id'], vm.id);
  assert.equal((await client.vms.get(vm.id)).state, 'error');
  assert.equal(await firecrackerOf(vm.id), undefined);
  await rm(kernel);
  assert.equal((await client.vms.start(vm.id)).state, 'running');
  await client.vms.delete(vm.id);
  await client.images.delete('img-packed');
});

async function refused(asking: Promise<unknown>, status: number, code: string): Promise<ApiError> {
  const error: unknown = await asking.then(
    () => assert.fail('it was answered'),
    (failed: unknown) => failed,
  );
  assert.ok(error instanceof ApiError, String(error));
  assert.deepEqual([error.status, error.code], [status, code], error.message);
  return error;
}
