import assert from 'node:assert/strict';
import { mkdir, mkdtemp, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { newId } from '../../base/ids.ts';
import { CONTROLLERS, findCgroups, limitsOf, memoryKills, removeGroup } from './cgroups.ts';

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
