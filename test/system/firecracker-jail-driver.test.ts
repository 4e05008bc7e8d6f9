import assert from 'node:assert/strict';
import { mkdir, mkdtemp, readdir, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { systemClock } from '../../src/base/clock.ts';
import { until } from '../../src/base/until.ts';
import { exists } from '../../src/host/files.ts';
import { signalProcess, spawnDetached, type ProcessIdentity } from '../../src/host/process.ts';
import { run } from '../../src/host/run.ts';
import { VmmError, type Machine, type MachineSpec } from '../../src/vmm/driver.ts';
import { findCgroups, removeGroup } from '../../src/vmm/cgroups.ts';
import { THIS_HOST } from '../../src/vmm/firecracker/cages.ts';
import { JAILER_DOUBLE, wrapDouble } from '../../src/vmm/firecracker/testing/wrapper.ts';
import type { DriverHost } from '../../src/vmm/suite/bench.ts';
import { firecrackerHost } from '../support/firecracker-host.ts';

/** The jail by itself: its user, its limits, what it holds against, what is left over. Jailer and Firecracker are doubles. */
let folder: string;
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'fcj-'));
});
after(async () => {
  for (const identity of strangers) await signalProcess(identity, 'SIGKILL');
  await rm(folder, { recursive: true });
});
/** What a test started besides, for when it fails. */
const strangers = new Set<ProcessIdentity>();

const UIDS = { min: 61_000, max: 64_999 };
const patience = (): AbortSignal => AbortSignal.timeout(30_000);

async function withHost(
  more: Parameters<typeof firecrackerHost>[0],
  body: (host: DriverHost) => Promise<void>,
): Promise<void> {
  const host = await firecrackerHost(more);
  try {
    await body(host);
  } finally {
    for (const { process } of await host.driver.observe()) await host.driver.reap(process);
    await host.dispose();
  }
}

const jailed = (uids = UIDS): Parameters<typeof firecrackerHost>[0] => ({
  jail: { mode: 'on', jailerBin: JAILER_DOUBLE, uids },
});

const rootOf = ({ vmId, folder: own }: MachineSpec): string =>
  join(own, 'jail', 'firecracker-double', vmId, 'root');

/** Of a process: its real user, its group and how many groups besides. */
async function userOf({
  process: { pid },
}: Pick<Machine, 'process'>): Promise<readonly [number, number, string]> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8');
  const field = (name: string): string => new RegExp(`^${name}:[ \\t]*(.*)$`, 'm').exec(status)?.[1] ?? '?';
  return [parseInt(field('Uid')), parseInt(field('Gid')), field('Groups').trim()];
}

/** `OWNER:GROUP MODE` of a file, in octal. */
async function rights(path: string): Promise<string> {
  const { uid, gid, mode } = await stat(path);
  return `${uid}:${gid} ${(mode & 0o7777).toString(8)}`;
}

async function end(machine: Machine): Promise<void> {
  await machine.kill();
  await machine.exited;
  await machine.release();
}

test("each VM's Firecracker is a user of its own, without other groups, and what it may write is that user's", () =>
  withHost(jailed(), async (host) => {
    const { driver } = host;
    const specs = [await host.fresh(), await host.fresh()] as const;
    const machines = await Promise.all(specs.map((spec) => driver.launch(spec, patience())));
    const users: number[] = [];
    for (const [i, machine] of machines.entries()) {
      const spec = specs[i] ?? specs[0];
      const [uid, gid, groups] = await userOf(machine);
      assert.deepEqual([gid, groups], [uid, '']);
      assert.ok(uid >= UIDS.min && uid <= UIDS.max);
      assert.equal(await driver.tapOwner(spec), uid);
      const root = rootOf(spec);
      assert.equal(await rights(root), `${uid}:${uid} 700`);
      for (const name of ['disk.raw', 'fc.log', 'fc.metrics'])
        assert.equal(await rights(join(root, name)), `${uid}:${uid} 600`, name);
      for (const name of ['vmlinux', 'initrd', 'seed.iso'])
        assert.equal(await rights(join(root, name)), `0:${uid} 440`, name);
      // The disk in there is the VM's own, not a copy.
      assert.equal((await stat(join(root, 'disk.raw'))).ino, (await stat(join(spec.folder, 'disk.raw'))).ino);
      users.push(uid);
    }
    assert.notEqual(users[0], users[1]);
    for (const machine of machines) await end(machine);
  }));

test('a kernel that VMs share is linked where all may read it, and copied where not; its own rights stay', () =>
  withHost(jailed(), async (host) => {
    const { driver } = host;
    for (const [name, mode] of [
      ['open', 0o644],
      ['closed', 0o600],
    ] as const) {
      const shared = join(folder, name);
      await writeFile(shared, '\x7fELF', { mode });
      const spec = await host.fresh();
      await rm(join(spec.folder, 'vmlinux'));
      await symlink(shared, join(spec.folder, 'vmlinux'));
      const machine = await driver.launch(spec, patience());
      const [uid] = await userOf(machine);
      const inside = join(rootOf(spec), 'vmlinux');
      assert.equal((await stat(inside)).ino === (await stat(shared)).ino, name === 'open');
      assert.equal(await rights(inside), name === 'open' ? '0:0 644' : `0:${uid} 440`);
      assert.equal(await rights(shared), `0:0 ${mode.toString(8)}`);
      await end(machine);
    }
  }));

test('a jail left over is cleared before the next start, which has the same user; clearing removes it', () =>
  withHost(jailed(), async (host) => {
    const { driver } = host;
    const spec = await host.fresh();
    const machine = await driver.launch(spec, patience());
    const [uid] = await userOf(machine);
    await signalProcess(machine.process, 'SIGKILL');
    assert.equal((await machine.exited).kind, 'crashed');
    await writeFile(join(rootOf(spec), 'left'), '');
    assert.equal(await exists(join(rootOf(spec), 'dev/kvm')), true);
    const next = await host.reopen();
    const again = await next.launch(spec, patience());
    assert.deepEqual(await userOf(again), [uid, uid, '']);
    assert.equal(await exists(join(rootOf(spec), 'left')), false);
    await end(again);
    await next.clear(spec);
    await next.clear(spec);
    assert.equal(await exists(join(spec.folder, 'jail')), false);
    const stays = ['disk.raw', 'initrd', 'seed.iso', 'vmlinux'];
    for (const name of stays) assert.equal(await exists(join(spec.folder, name)), true, name);
    await rm(spec.folder, { recursive: true });
    await next.clear(spec);
  }));

test('a VM whose Firecracker still runs is not started a second time, and the one that runs is not harmed', () =>
  withHost(jailed(), async (host) => {
    const { driver } = host;
    const spec = await host.fresh();
    const machine = await driver.launch(spec, patience());
    await assert.rejects(driver.launch(spec, patience()), {
      name: 'VmmError',
      message: `an earlier Firecracker of this VM still runs (pid ${machine.process.pid})`,
    });
    const client = host.agent(machine);
    await client.ping(patience());
    client.close();
    await end(machine);
  }));

/** A process of another user; gives what ends it. */
async function stranger(uid: number): Promise<() => Promise<void>> {
  const { identity, exited } = await spawnDetached(
    ['setpriv', '--reuid', String(uid), '--regid', String(uid), '--clear-groups', 'sleep', '300'],
    { cwd: '/', log: join(folder, 'stranger.log') },
  );
  strangers.add(identity);
  await until({ clock: systemClock, signal: patience() }, async () =>
    (await userOf({ process: identity }))[0] === uid ? true : undefined,
  );
  return async () => {
    await signalProcess(identity, 'SIGKILL');
    await exited;
  };
}

test('a user that somebody else has is passed over, and that none is left is said in a sentence', () =>
  withHost(jailed({ min: 61_010, max: 61_011 }), async (host) => {
    const { driver } = host;
    const endStranger = await stranger(61_010);
    const spec = await host.fresh();
    const machine = await driver.launch(spec, patience());
    assert.deepEqual(await userOf(machine), [61_011, 61_011, '']);
    const other = await host.fresh();
    await assert.rejects(driver.launch(other, patience()), {
      name: 'VmmError',
      message: /^no user is free for the VM: all from 61010 to 61011 are taken; widen HATCH_VM_UID_MIN and/,
    });
    await endStranger();
    const second = await driver.launch(other, patience());
    assert.deepEqual(await userOf(second), [61_010, 61_010, '']);
    await end(machine);
    await end(second);
  }));

/** A host whose cgroups are plain folders: the jailer's double writes into them what the jailer would. */
async function pretendedCgroups(
  name: string,
  controllers: string,
): Promise<{ mounts: string; mount: string }> {
  const mount = join(folder, name);
  await mkdir(mount);
  await writeFile(join(mount, 'cgroup.controllers'), `${controllers}\n`);
  const mounts = join(folder, `${name}.mounts`);
  await writeFile(mounts, `cgroup2 ${mount} cgroup2 rw 0 0\n`);
  return { mounts, mount };
}

test('a VM has its limits in a cgroup of its own, which is removed; one ended for its memory is told so', async () => {
  const { mounts, mount } = await pretendedCgroups('cgroup', 'cpu io memory pids');
  const jailerBin = await wrapDouble(
    join(folder, 'jailer'),
    { FC_DOUBLE_PROC_MOUNTS: mounts },
    JAILER_DOUBLE,
  );
  const more = {
    jail: { mode: 'on', jailerBin, uids: UIDS },
    jailHost: { ...THIS_HOST, procMounts: mounts },
  } as const;
  await withHost(more, async (host) => {
    const { driver } = host;
    const spec = await host.fresh();
    const machine = await driver.launch(spec, patience());
    const group = join(mount, 'hatch', spec.vmId);
    const read = async (name: string): Promise<string> => (await readFile(join(group, name), 'utf8')).trim();
    assert.equal(await read('cpu.max'), '150000 100000');
    assert.equal(await read('memory.max'), String((128 + 64) * 1024 * 1024));
    assert.equal(await read('pids.max'), '33');
    assert.equal(await read('cgroup.procs'), String(machine.process.pid));
    await writeFile(join(group, 'memory.events'), 'oom 1\noom_kill 1\n');
    await signalProcess(machine.process, 'SIGKILL');
    const exit = await machine.exited;
    assert.equal(exit.kind, 'crashed');
    assert.match(
      exit.kind === 'crashed' ? exit.message : '',
      /took more memory than its limit \(memory\.max/,
    );
    // The kernel's files go with their folder.
    for (const name of await readdir(group)) await rm(join(group, name));
    await driver.clear(spec);
    assert.equal(await exists(group), false);
  });
});

test('on a cgroup hierarchy of the kernel, a group is removed as soon as its process has ended', async () => {
  const tree = await findCgroups();
  assert.ok(tree, 'this machine has no cgroup v2 at all');
  const vmId = 'vm-000000000000' as MachineSpec['vmId'];
  const group = join(tree.mount, 'hatch', vmId);
  await mkdir(group, { recursive: true });
  const { identity } = await spawnDetached(['sleep', '300'], { cwd: '/', log: join(folder, 'sleeper.log') });
  strangers.add(identity);
  await writeFile(join(group, 'cgroup.procs'), String(identity.pid));
  await assert.rejects(
    removeGroup(tree, vmId),
    (error) => error instanceof VmmError && error.kind === 'timeout',
  );
  await signalProcess(identity, 'SIGKILL');
  await removeGroup(tree, vmId);
  assert.equal(await exists(group), false);
  // Stays where guests of another hatchd are in it.
  await run(['rmdir', join(tree.mount, 'hatch')], { okExitCodes: [0, 1] });
});

test('a Firecracker that was taken over leads hatchd to no file and no socket of the host, nor of another VM', () =>
  withHost(jailed(), async (host) => {
    const { driver } = host;
    const [spec, victim] = [await host.fresh(), await host.fresh()];
    const machine = await driver.launch(spec, patience());
    const other = await driver.launch(victim, patience());
    const precious = join(folder, 'precious');
    await writeFile(precious, 'as it was');
    const root = rootOf(spec);
    const turn = async (name: string, target: string): Promise<void> => {
      await rm(join(root, name), { force: true });
      await symlink(target, join(root, name));
    };
    await turn('agent.vsock', join(rootOf(victim), 'agent.vsock'));
    await assert.rejects(machine.agent(patience()), VmmError);
    for (const name of ['fc.metrics', 'fc.log', 'fc.state', 'fc.mem']) await turn(name, precious);
    await machine.counters();
    await machine.pause();
    const [statePath, memoryPath] = [join(spec.folder, 'state'), join(spec.folder, 'memory')];
    const saved = await machine.save({ statePath, memoryPath });
    assert.equal(saved.statePath, statePath);
    assert.deepEqual([await rights(statePath), await rights(memoryPath)], ['0:0 600', '0:0 600']);
    // A folder in the way is no file it could write: the save fails, and the guest goes on.
    await mkdir(join(root, 'fc.mem'));
    await assert.rejects(machine.save({ statePath, memoryPath }), VmmError);
    assert.equal(await machine.status(), 'paused');
    await turn('fc.sock', join(rootOf(victim), 'fc.sock'));
    await machine.release();
    assert.equal(await taken(driver, spec, machine), 'refused');
    assert.equal(await readFile(precious, 'utf8'), 'as it was');
    assert.equal(await other.status(), 'running');
    await driver.reap(machine.process);
    await end(other);
  }));

async function taken(
  driver: DriverHost['driver'],
  spec: MachineSpec,
  { process }: Machine,
): Promise<'refused' | 'adopted'> {
  return driver.adopt(spec, process, patience()).then(
    (machine) => (machine ? 'adopted' : 'refused'),
    () => 'refused',
  );
}
