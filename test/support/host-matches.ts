import assert from 'node:assert/strict';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import type { Vm } from '../../src/contract/vm.ts';
import { exists } from '../../src/host/files.ts';
import { run } from '../../src/host/run.ts';
import { findCgroups } from '../../src/vmm/cgroups.ts';
import type { Hatchd } from './hatchd.ts';

/** The pids of a hypervisor's processes in this namespace, by the VMs they are of. */
export type Vmms = () => Promise<ReadonlyMap<string, number>>;

/**
 * Compares processes, taps, rules, reservations, leases, ports, folders, jails, cgroups and rows of this host with the VMs there
 * are, none of which may be on its way anywhere. `when`: for what it says where they differ.
 */
export async function assertHostMatches(
  { client, data }: Pick<Hatchd, 'client' | 'data'>,
  vmms: Vmms,
  when: string,
): Promise<void> {
  const vms = await client.vms.list();
  for (const vm of vms) {
    assert.ok(['running', 'stopped', 'error'].includes(vm.state), `${when}: ${vm.id} is ${vm.state}`);
    assert.equal(vm.operation, undefined, when);
  }
  const running = vms.filter((vm) => vm.state === 'running');
  const ids = running.map((vm) => vm.id).sort();
  assert.deepEqual([...(await vmms()).keys()].sort(), ids, `${when}: hypervisors`);
  assert.deepEqual(named((await run(['ip', 'link'])).stdout), ids, `${when}: taps`);
  assert.deepEqual(named((await run(['nft', 'list', 'ruleset'])).stdout), ids, `${when}: rules`);
  await assertNamesOnly(join(data, 'net'), running, when);
  assert.deepEqual(
    await listening(2200, 3199),
    running.map((vm) => vm.ssh_port ?? 0).sort(),
    `${when}: ports`,
  );
  const folders = (await readdir(join(data, 'vms'))).sort();
  const withDisk = disksOf(data);
  assert.deepEqual(folders, withDisk, `${when}: folders`);
  for (const id of withDisk)
    assert.ok(
      vms.some((vm) => vm.id === id),
      `${when}: a disk of ${id}, which is no VM`,
    );
  for (const id of ids) assert.ok(withDisk.includes(id), `${when}: ${id} runs without a disk`);
  for (const id of folders.filter((name) => !ids.includes(name))) {
    const left = (await readdir(join(data, 'vms', id))).filter((name) => /^jail$|sock$|^fc\.mem/.test(name));
    assert.deepEqual(left, [], `${when}: left in the folder of ${id}`);
  }
  const groups = join((await findCgroups())?.mount ?? '/none', 'hatch');
  for (const { id, state } of vms)
    assert.ok(state === 'running' || !(await exists(join(groups, id))), `${when}: a cgroup of ${id}`);
  const files = (await readdir(data)).filter((name) => /\.tmp|hatchd\.pid\./.test(name));
  assert.deepEqual(files, [], `${when}: half-written files`);
}

function named(text: string): readonly string[] {
  return [...new Set(text.match(/vm-[a-z0-9]{12}/g) ?? [])].sort();
}

/** The network's files name no VM and no address that is not of one that runs. */
async function assertNamesOnly(folder: string, running: readonly Vm[], when: string): Promise<void> {
  for (const file of await readdir(folder)) {
    const text = await readFile(join(folder, file), 'utf8').catch(() => '');
    const strangers = named(text).filter((id) => !running.some((vm) => vm.id === id));
    assert.deepEqual(strangers, [], `${when}: ${file} names VMs that do not run`);
    for (const [address] of text.matchAll(/192\.168\.241\.(?!1\b|0\b|255\b)\d+/g))
      assert.ok(
        running.some((vm) => vm.guest_ip === address),
        `${when}: ${file} has ${address}`,
      );
  }
}

/** The VMs of all disks in the database. */
function disksOf(data: string): readonly string[] {
  const db = new DatabaseSync(join(data, 'hatch.db'), { readOnly: true });
  try {
    return db
      .prepare('select path from layers')
      .all()
      .map(({ path }) => /vm-[a-z0-9]{12}/.exec(String(path))?.[0] ?? String(path))
      .sort();
  } finally {
    db.close();
  }
}

/** Ports somebody listens on in this namespace (proc(5), /proc/net/tcp: state 0A). */
async function listening(from: number, to: number): Promise<readonly number[]> {
  return (await readFile('/proc/self/net/tcp', 'utf8'))
    .split('\n')
    .slice(1)
    .map((line) => line.trim().split(/\s+/))
    .filter(([, , , state]) => state === '0A')
    .map(([, local]) => parseInt(local?.split(':')[1] ?? '0', 16))
    .filter((port) => port >= from && port <= to)
    .sort();
}
