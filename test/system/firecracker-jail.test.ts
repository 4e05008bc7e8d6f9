import assert from 'node:assert/strict';
import { mkdtemp, readdir, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import type { Vm } from '../../src/contract/vm.ts';
import { exists } from '../../src/host/files.ts';
import { run } from '../../src/host/run.ts';
import { FIRECRACKER_DOUBLE, JAILER_DOUBLE } from '../../src/vmm/firecracker/testing/wrapper.ts';
import { smallImage } from '../support/firecracker-double.ts';
import { firecrackerOf, startHatchd, untilVm, type Hatchd } from '../support/hatchd.ts';

/** Jailed VMs through the public API: hatchd, network, disks and the jails are real; Firecracker and its jailer are doubles. */
let folder: string;
let hatchd: Hatchd;

before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'fcj-'));
  hatchd = await startHatchd(folder, {
    ...(await smallImage(folder)),
    HATCH_VMM: 'firecracker',
    HATCH_FIRECRACKER_BIN: FIRECRACKER_DOUBLE,
    HATCH_JAILER: 'on',
    HATCH_JAILER_BIN: JAILER_DOUBLE,
  });
});
after(async () => {
  await hatchd.down();
  await rm(folder, { recursive: true, force: true });
});

const folderOf = (id: string): string => join(hatchd.data, 'vms', id);
const rootOf = (id: string): string => join(folderOf(id), 'jail', 'firecracker-double', id, 'root');

async function mustRun(id: string): Promise<number> {
  const pid = await firecrackerOf(id);
  assert.ok(pid !== undefined, `no Firecracker of ${id} runs`);
  return pid;
}

async function userOf(pid: number): Promise<number> {
  return Number(/^Uid:\t(\d+)/m.exec(await readFile(`/proc/${pid}/status`, 'utf8'))?.[1]);
}

/** Whether a process works in a VM's jail, as the host sees it. */
async function livesIn(pid: number, id: string): Promise<boolean> {
  return (await stat(`/proc/${pid}/cwd/`)).ino === (await stat(rootOf(id))).ino;
}

async function tapOwner(id: string): Promise<unknown> {
  const { stdout } = await run(['ip', '-json', '-details', 'link', 'show', 'dev', id]);
  const [link] = JSON.parse(stdout) as { linkinfo?: { info_data?: { user?: unknown } } }[];
  return link?.linkinfo?.info_data?.user;
}

const say = async (id: string, word: string): Promise<string> =>
  (await hatchd.client.vms.exec(id, { command: ['echo', word] })).stdout.trim();

let first: Vm;

test('a VM boots in a jail as a user of its own, who owns its tap; stopped, the jail is gone; started, it is the same user', async () => {
  const { client } = hatchd;
  first = await client.vms.create({ name: 'one' }, { wait: 'ready', timeout: 60 });
  const pid = await mustRun(first.id);
  const uid = await userOf(pid);
  assert.ok(uid >= 61_000 && uid <= 64_999);
  assert.ok(await livesIn(pid, first.id));
  assert.equal(await tapOwner(first.id), uid);
  assert.equal(await say('one', 'hello'), 'hello');
  assert.match(await client.vms.console('one'), /Linux version/);
  const { block, net, memory } = await client.vms.metrics('one');
  assert.ok(block.read_bytes > 0 && net && memory.resident_bytes > 1024 * 1024);
  assert.match(await hatchd.log(), /"msg":"guests are jailed"/);

  assert.equal((await client.vms.stop('one')).state, 'stopped');
  assert.equal(await firecrackerOf(first.id), undefined);
  assert.equal(await exists(join(folderOf(first.id), 'jail')), false);
  await client.vms.start('one', { wait: 'ready', timeout: 60 });
  assert.equal(await userOf(await mustRun(first.id)), uid);
  assert.equal(await tapOwner(first.id), uid);
});

test("two VMs are two users, and neither can read what is the other's", async () => {
  const { client } = hatchd;
  const second = await client.vms.create({ name: 'two' }, { wait: 'ready', timeout: 60 });
  const [one, two] = [await mustRun(first.id), await mustRun(second.id)];
  const [uid, other] = [await userOf(one), await userOf(two)];
  assert.notEqual(uid, other);
  const as = async (argv: readonly string[]): Promise<string> => {
    const id = String(uid);
    const { exitCode, stderr } = await run(
      ['setpriv', '--reuid', id, '--regid', id, '--clear-groups', ...argv],
      { okExitCodes: [0, 1, 2] },
    );
    assert.notEqual(exitCode, 0, argv.join(' '));
    return stderr;
  };
  for (const path of [rootOf(second.id), join(folderOf(second.id), 'disk.raw'), `/proc/${two}/root/disk.raw`])
    assert.match(await as(['cat', path]), /Permission denied/, path);
  // Also without the folders above, which let nobody pass, its rights are the other user's alone.
  const { uid: owner, mode } = await stat(rootOf(second.id));
  assert.deepEqual([owner, mode & 0o777], [other, 0o700]);
  const disk = await stat(join(folderOf(second.id), 'disk.raw'));
  assert.deepEqual([disk.uid, disk.mode & 0o777], [other, 0o600]);
  // From where the first one stands, there is nothing but its own.
  const seen = await run([
    ...(['nsenter', '--target', String(one), '--mount', '--root', '--wd'] as const),
    ...['--setuid', String(uid), '--setgid', String(uid), '--', '/usr/bin/ls', '/'],
  ]);
  const names = seen.stdout.split('\n');
  for (const name of ['disk.raw', 'seed.iso', 'vmlinux', 'fc.sock', 'dev'])
    assert.ok(names.includes(name), name);
  for (const name of ['etc', 'proc', 'sys', 'home', 'root', 'vms']) assert.ok(!names.includes(name), name);
  await client.vms.delete('two');
  assert.equal(await exists(folderOf(second.id)), false);
});

test('after kill -9 of hatchd the next one takes the guest up in its jail, and also one that jails nobody', async () => {
  const pid = await mustRun(first.id);
  for (const mode of ['on', 'off']) {
    await hatchd.end('SIGKILL');
    await hatchd.start({ HATCH_JAILER: mode });
    assert.equal(await mustRun(first.id), pid);
    assert.equal((await hatchd.client.vms.get('one')).state, 'running');
    assert.equal(await say('one', mode), mode);
  }
  assert.match(await hatchd.log(), /"why":"HATCH_JAILER=off".*"msg":"GUESTS ARE NOT JAILED"/);
  await hatchd.client.vms.reboot('one', { wait: 'ready', timeout: 60 });
  assert.equal(await userOf(await mustRun(first.id)), 0);
  await hatchd.end('SIGKILL');
  await hatchd.start();
  await hatchd.client.vms.reboot('one', { wait: 'ready', timeout: 60 });
  assert.ok((await userOf(await mustRun(first.id))) >= 61_000);
});

test('a jail left over by a crash of both is cleared, and the VM starts again', async () => {
  const pid = await mustRun(first.id);
  const uid = await userOf(pid);
  await hatchd.end('SIGKILL');
  process.kill(pid, 'SIGKILL');
  assert.equal(await exists(rootOf(first.id)), true);
  await hatchd.start();
  const lost = await untilVm(hatchd, first.id, (vm) => vm.state === 'error');
  assert.equal(lost.state_reason?.code, 'lost');
  assert.equal(await exists(join(folderOf(first.id), 'jail')), false);
  await hatchd.client.vms.start('one', { wait: 'ready', timeout: 60 });
  assert.equal(await userOf(await mustRun(first.id)), uid);
  assert.equal(await say('one', 'again'), 'again');
});

test('a deleted VM leaves no process, no folder, no tap and no mount', async () => {
  await hatchd.client.vms.delete('one');
  assert.equal(await firecrackerOf(first.id), undefined);
  assert.deepEqual(await readdir(join(hatchd.data, 'vms')), []);
  assert.doesNotMatch((await run(['ip', 'link'])).stdout, new RegExp(first.id));
  const mounts = await readFile('/proc/self/mountinfo', 'utf8');
  assert.doesNotMatch(mounts, new RegExp(first.id));
});
