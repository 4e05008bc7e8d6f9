import assert from 'node:assert/strict';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { DatabaseSync } from 'node:sqlite';
import { systemClock } from '../../src/base/clock.ts';
import { until } from '../../src/base/until.ts';
import type { Vm } from '../../src/contract/vm.ts';
import { run } from '../../src/host/run.ts';
import { qemuOf, qemus, startHatchd, type Hatchd } from '../support/hatchd.ts';

/**
 * hatchd killed (SIGKILL, from within) after every row of the journal of every operation, with real QEMU and a real network,
 * and started again: what is on the host then must be what the rows say. The guests need not get far, so they are not
 * waited for; guest-life.test.ts and hatchd-restart.test.ts do that.
 */
let folder: string;
let hatchd: Hatchd;
let trip: string;

before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'crash-'));
  trip = join(folder, 'trip');
  await writeFile(trip, '0');
  hatchd = await startHatchd(folder, {}, [join(import.meta.dirname, '../support/doomed-hatchd.ts'), trip]);
});
after(async () => {
  await hatchd.down();
  await rm(folder, { recursive: true, force: true });
});

interface Verb {
  readonly name: string;
  readonly from: 'nothing' | 'running' | 'stopped';
  readonly ask: (vm: Vm | undefined) => Promise<unknown>;
}

const of = (vm: Vm | undefined): string => vm?.id ?? assert.fail('there is no VM');
const VERBS: readonly Verb[] = [
  { name: 'create', from: 'nothing', ask: () => hatchd.client.vms.create() },
  { name: 'start', from: 'stopped', ask: (vm) => hatchd.client.vms.start(of(vm)) },
  { name: 'stop', from: 'running', ask: (vm) => hatchd.client.vms.stop(of(vm), { grace_seconds: 0 }) },
  { name: 'reboot', from: 'running', ask: (vm) => hatchd.client.vms.reboot(of(vm)) },
  { name: 'delete', from: 'running', ask: (vm) => hatchd.client.vms.delete(of(vm)) },
];

for (const verb of VERBS) {
  test(`${verb.name}: killed after any row of its journal, the next hatchd leaves nothing that should not be there`, async () => {
    for (let row = 1; ; row++) {
      const vm = await prepare(verb.from);
      await writeFile(trip, String(row));
      const asked = verb.ask(vm).then(
        () => 'done',
        () => 'cut off',
      );
      const outcome = await untilDone(asked, vm);
      if (outcome === 'done') {
        await writeFile(trip, '0');
        assert.ok(row > 5, `${verb.name} wrote only ${row - 1} rows`);
        await checkHost(`${verb.name}, undisturbed`);
        await deleteAll();
        return;
      }
      await hatchd.gone();
      await writeFile(trip, '0');
      await hatchd.start();
      await untilSettled(vm);
      await checkHost(`${verb.name}, killed after row ${row}`);
      await deleteAll();
    }
  });
}

async function prepare(from: Verb['from']): Promise<Vm | undefined> {
  if (from === 'nothing') return undefined;
  const vm = await hatchd.client.vms.create();
  return from === 'stopped' ? hatchd.client.vms.stop(vm.id, { grace_seconds: 0 }) : vm;
}

/** Waits for the answer; a guest that is asked to shut down and cannot hear yet is ended, as if it had. */
async function untilDone(asked: Promise<string>, vm: Vm | undefined): Promise<string> {
  const signal = AbortSignal.timeout(60_000);
  return until({ clock: systemClock, signal }, async () => {
    const now = await Promise.race([asked, systemClock.sleep(20).then(() => undefined)]);
    if (now === undefined && vm && Number(await readFile(trip, 'utf8')) > 0) await hurry(vm);
    return now;
  });
}

/** Ends the guest of a VM that waits for it to shut down. */
async function hurry(vm: Vm): Promise<void> {
  if (unfinished().some(({ verb, steps }) => verb === 'reboot' && steps === 1)) {
    const pid = await qemuOf(vm.id);
    if (pid !== undefined) process.kill(pid, 'SIGKILL');
  }
}

/** Waits until nothing is under way any more. */
async function untilSettled(vm: Vm | undefined): Promise<void> {
  const signal = AbortSignal.timeout(60_000);
  await until({ clock: systemClock, signal }, async () => {
    if (vm) await hurry(vm);
    return unfinished().length === 0 ? true : undefined;
  });
}

interface Unfinished {
  readonly verb: string;
  /** Rows of its journal since it was last taken up. */
  readonly steps: number;
}

/** The operations under way, as the database has them. */
function unfinished(): readonly Unfinished[] {
  const db = new DatabaseSync(join(hatchd.data, 'hatch.db'), { readOnly: true });
  try {
    return db
      .prepare(
        'select o.verb, (select count(distinct s.step) from operation_steps s where s.operation_id = o.id) as steps from operations o where o.finished_at is null',
      )
      .all()
      .map(({ verb, steps }) => ({ verb: String(verb), steps: Number(steps) }));
  } finally {
    db.close();
  }
}

/** Compares processes, taps, rules, reservations, leases, ports, folders and rows of this host with the VMs there are. */
async function checkHost(when: string): Promise<void> {
  const vms = await hatchd.client.vms.list();
  for (const vm of vms) {
    assert.ok(['running', 'stopped', 'error'].includes(vm.state), `${when}: ${vm.id} is ${vm.state}`);
    assert.equal(vm.operation, undefined, when);
  }
  const running = vms.filter((vm) => vm.state === 'running');
  const ids = running.map((vm) => vm.id).sort();
  const named = (text: string): string[] => [...new Set(text.match(/vm-[a-z0-9]{12}/g) ?? [])].sort();
  assert.deepEqual([...(await qemus()).keys()].sort(), ids, `${when}: QEMU processes`);
  assert.deepEqual(named((await run(['ip', 'link'])).stdout), ids, `${when}: taps`);
  assert.deepEqual(named((await run(['nft', 'list', 'ruleset'])).stdout), ids, `${when}: rules`);
  const net = join(hatchd.data, 'net');
  for (const file of await readdir(net)) {
    const text = await readFile(join(net, file), 'utf8').catch(() => '');
    const strangers = named(text).filter((id) => !ids.includes(id));
    assert.deepEqual(strangers, [], `${when}: ${file} names VMs that do not run`);
    for (const [address] of text.matchAll(/192\.168\.241\.(?!1\b|0\b|255\b)\d+/g))
      assert.ok(
        running.some((vm) => vm.guest_ip === address),
        `${when}: ${file} has ${address}`,
      );
  }
  assert.deepEqual(
    await listening(2200, 3199),
    running.map((vm) => vm.ssh_port ?? 0).sort(),
    `${when}: ports`,
  );
  const folders = (await readdir(join(hatchd.data, 'vms'))).sort();
  const withDisk = layers();
  assert.deepEqual(folders, withDisk, `${when}: folders`);
  for (const id of withDisk)
    assert.ok(
      vms.some((vm) => vm.id === id),
      `${when}: a disk of ${id}, which is no VM`,
    );
  for (const id of ids) assert.ok(withDisk.includes(id), `${when}: ${id} runs without a disk`);
  const files = (await readdir(hatchd.data)).filter((name) => /\.tmp|hatchd\.pid\./.test(name));
  assert.deepEqual(files, [], `${when}: half-written files`);
}

/** The VMs of all disks in the database. */
function layers(): readonly string[] {
  const db = new DatabaseSync(join(hatchd.data, 'hatch.db'), { readOnly: true });
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

async function deleteAll(): Promise<void> {
  for (const vm of await hatchd.client.vms.list()) await hatchd.client.vms.delete(vm.id);
  assert.deepEqual(await readdir(join(hatchd.data, 'vms')), []);
  await checkHost('after deletion');
}
