import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import type { Vm } from '../../src/contract/vm.ts';
import { commandLine } from '../../src/host/process.ts';
import { run } from '../../src/host/run.ts';
import { processesIn } from '../support/netns.ts';
import { startHatchd, untilVm, type Hatchd } from '../support/hatchd.ts';

/** VMs on Firecracker through the public API: hatchd, network and disks are real, the Firecracker is its double. */
let folder: string;
let hatchd: Hatchd;
const DOUBLE = join(import.meta.dirname, '../../src/vmm/firecracker/testing/firecracker-double');

before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'fcvm-'));
  hatchd = await startHatchd(folder, { HATCH_VMM: 'firecracker', HATCH_FIRECRACKER_BIN: DOUBLE });
});
after(async () => {
  await hatchd.down();
  await rm(folder, { recursive: true, force: true });
});

async function firecrackerOf(id: string): Promise<number | undefined> {
  for (const pid of await processesIn('/proc/self/ns/net')) {
    const argv = (await commandLine(pid)) ?? [];
    if (argv.includes('--api-sock') && argv.includes(id)) return pid;
  }
  return undefined;
}

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
