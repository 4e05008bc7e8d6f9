import assert from 'node:assert/strict';
import { mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { newId } from '../base/ids.ts';
import {
  CONTROLLERS,
  findCgroups,
  limitsOf,
  memoryKills,
  putInto,
  removeEmptyGroups,
  removeGroup,
  shareOut,
} from './cgroups.ts';

let folder: string;
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'hatch-cg-'));
});
after(() => rm(folder, { recursive: true }));

/** A host's mounts, and a hierarchy of plain folders where its version 2 is; null: it has none. */
async function host(name: string, controllers: string | null): Promise<string> {
  const mount = join(folder, name);
  await mkdir(mount);
  if (controllers !== null) await writeFile(join(mount, 'cgroup.controllers'), controllers);
  const mounts = join(folder, `${name}.mounts`);
  const lines = [
    'proc /proc proc rw 0 0',
    'cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0',
    ...(controllers === null ? [] : [`cgroup2 ${mount} cgroup2 rw,nosuid 0 0`]),
  ];
  await writeFile(mounts, `${lines.join('\n')}\n`);
  return mounts;
}

test('what there is of cgroup v2 is found: all of it, some of its controllers, or none of it', async () => {
  const unified = await findCgroups(await host('unified', 'cpuset cpu io memory hugetlb pids rdma misc\n'));
  assert.deepEqual(unified, { mount: join(folder, 'unified'), controllers: ['cpu', 'memory', 'pids'] });
  assert.deepEqual((await findCgroups(await host('hybrid', 'hugetlb\n')))?.controllers, []);
  assert.deepEqual((await findCgroups(await host('some', 'cpu pids\n')))?.controllers, ['cpu', 'pids']);
  assert.equal(await findCgroups(await host('legacy', null)), null);
});

test('the limits are the machine and what its VMM needs besides, of the controllers that are there', () => {
  assert.deepEqual(limitsOf({ vcpuCount: 2, memMib: 512 }, CONTROLLERS), [
    'cpu.max=250000 100000',
    `memory.max=${(512 + 64) * 1024 * 1024}`,
    'pids.max=34',
  ]);
  assert.deepEqual(limitsOf({ vcpuCount: 1, memMib: 65536 }, ['memory']), [
    `memory.max=${(65536 + 4096) * 1024 * 1024}`,
  ]);
  assert.deepEqual(limitsOf({ vcpuCount: 1, memMib: 128 }, []), []);
  // The jailer takes one equals sign in each (its env.rs).
  for (const limit of limitsOf({ vcpuCount: 32, memMib: 128 }, CONTROLLERS))
    assert.match(limit, /^[a-z]+\.max=[0-9 ]+$/);
});

test('processes the kernel has ended for their memory are counted, none where nothing says so', async () => {
  const vmId = newId('vm');
  const tree = { mount: join(folder, 'kills'), controllers: CONTROLLERS };
  const group = join(tree.mount, 'hatch', vmId);
  assert.equal(await memoryKills(tree, vmId), 0);
  await mkdir(group, { recursive: true });
  const events = (kills: number): string =>
    `low 0\nhigh 0\nmax 14\noom 1\noom_kill ${kills}\noom_group_kill 0\n`;
  await writeFile(join(group, 'memory.events'), events(0));
  assert.equal(await memoryKills(tree, vmId), 0);
  await writeFile(join(group, 'memory.events'), events(1));
  assert.equal(await memoryKills(tree, vmId), 1);
});

test('a group is removed; that it is gone already is no failure, one that is not empty stays', async () => {
  const vmId = newId('vm');
  const tree = { mount: join(folder, 'removed'), controllers: CONTROLLERS };
  await removeGroup(tree, vmId);
  const group = join(tree.mount, 'hatch', vmId);
  await mkdir(join(group, 'nested'), { recursive: true });
  await assert.rejects(removeGroup(tree, vmId), { code: 'ENOTEMPTY' });
  await rm(join(group, 'nested'), { recursive: true });
  await removeGroup(tree, vmId);
  await assert.rejects(stat(group), { code: 'ENOENT' });
  await stat(join(tree.mount, 'hatch'));
});

test('the hierarchy is shared out: its controllers are there for the group of all VMs and below it, those that are not yet', async () => {
  const mount = join(folder, 'shared');
  await mkdir(mount);
  await writeFile(join(mount, 'cgroup.subtree_control'), 'cpu io\n');
  const tree = { mount, controllers: ['cpu', 'pids'] } as const;
  assert.deepEqual(await shareOut(tree), { shared: true });
  assert.equal(await readFile(join(mount, 'cgroup.subtree_control'), 'utf8'), '+pids');
  assert.equal(await readFile(join(mount, 'hatch/cgroup.subtree_control'), 'utf8'), '+cpu +pids');
});

test('a hierarchy that is not ours to divide is told as such', async () => {
  const mount = join(folder, 'somebody-elses');
  await mkdir(join(mount, 'cgroup.subtree_control'), { recursive: true });
  const { why } = (await shareOut({ mount, controllers: CONTROLLERS })) as { readonly why: string };
  assert.match(why, /somebody-elses cannot be divided by hatchd \(EISDIR\)$/);
});

test('a process is put into a group of its VM, after the limits are set', async () => {
  const vmId = newId('vm');
  const tree = { mount: join(folder, 'entered'), controllers: CONTROLLERS };
  const limits = limitsOf({ vcpuCount: 2, memMib: 512 }, CONTROLLERS, {
    cpus: 1,
    memMib: 576,
    threads: 128,
  });
  await putInto(tree, vmId, limits, 4242);
  const said = async (file: string): Promise<string> =>
    readFile(join(tree.mount, 'hatch', vmId, file), 'utf8');
  assert.equal(await said('cpu.max'), '300000 100000');
  assert.equal(await said('memory.max'), String(1088 * 1024 * 1024));
  assert.equal(await said('pids.max'), '130');
  assert.equal(await said('cgroup.procs'), '4242');
});

test('groups that nobody is in are removed, those of VMs alone', async () => {
  const tree = { mount: join(folder, 'left'), controllers: CONTROLLERS };
  const [left, used] = [newId('vm'), newId('vm')];
  for (const name of [left, used, 'another'])
    await mkdir(join(tree.mount, 'hatch', name), { recursive: true });
  // A folder with something in it is to rmdir(2) what a group with a process is.
  await writeFile(join(tree.mount, 'hatch', used, 'cgroup.procs'), '1');
  await removeEmptyGroups(tree);
  assert.deepEqual((await readdir(join(tree.mount, 'hatch'))).sort(), ['another', used].sort());
  await removeEmptyGroups({ ...tree, mount: join(folder, 'nowhere') });
});
