import assert from 'node:assert/strict';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { after, before, test } from 'node:test';
import { systemClock } from '../../src/base/clock.ts';
import { until } from '../../src/base/until.ts';
import { run } from '../../src/host/run.ts';
import { qemus, startHatchd, type Hatchd } from '../support/hatchd.ts';

/**
 * hatchd killed (SIGKILL) while a real guest is saved, put back and copied: the next one leaves a VM that runs or sleeps, whose guest
 * goes on where it was. crash-snapshots.test.ts and crash-fork.test.ts try every row of the journal, on fakes; here it is some.
 */
let folder: string;
let trip: string;
let hatchd: Hatchd;
let id: string;
let bootId: string;

before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'snapcrash-'));
  trip = join(folder, 'trip');
  await writeFile(trip, '0');
  hatchd = await startHatchd(folder, {}, [join(import.meta.dirname, '../support/doomed-hatchd.ts'), trip]);
  ({ id } = await hatchd.client.vms.create({}, { wait: 'ready', timeout: 300 }));
  bootId = await guestSays();
});
after(async () => {
  await hatchd.down();
  await rm(folder, { recursive: true, force: true });
});

/** The id of the guest's boot: another one is another guest, or one that lost its memory. */
async function guestSays(): Promise<string> {
  const asked = { command: 'cat /proc/sys/kernel/random/boot_id', timeout_seconds: 30 };
  return until({ clock: systemClock, signal: AbortSignal.timeout(60_000) }, () =>
    hatchd.client.vms.exec(id, asked).then(
      ({ exit_code, stdout }) => (exit_code === 0 ? stdout.trim() : undefined),
      () => undefined,
    ),
  );
}

function rows(sql: string): readonly Record<string, unknown>[] {
  const db = new DatabaseSync(join(hatchd.data, 'hatch.db'), { readOnly: true });
  try {
    return db.prepare(sql).all();
  } finally {
    db.close();
  }
}

/** Nothing is on the host but what the rows say. */
async function assertWhole(when: string): Promise<void> {
  const vms = await hatchd.client.vms.list();
  for (const vm of vms)
    assert.ok(['running', 'snapshotted', 'error'].includes(vm.state), `${when}: ${vm.id} is ${vm.state}`);
  const running = vms.filter(({ state }) => state === 'running').map((vm) => vm.id);
  assert.deepEqual([...(await qemus()).keys()].sort(), running.toSorted(), `${when}: hypervisors`);
  const links = (await run(['ip', 'link'])).stdout.match(/vm-[a-z0-9]{12}/g) ?? [];
  assert.deepEqual([...new Set(links)].sort(), running.toSorted(), `${when}: taps`);
  const frozen = rows('select id from layers where frozen = 1').map((row) => String(row['id']));
  assert.deepEqual((await readdir(join(hatchd.data, 'layers'))).sort(), frozen.sort(), `${when}: layers`);
  const broken = rows(
    'select id from snapshots where state_layer_id is null or disk_layer_id is null or vm_id not in (select id from vms)',
  );
  assert.deepEqual(broken, [], `${when}: half a snapshot`);
}

/** Lets the guest go on, if it sleeps, and sees that it is the one it was; all else is taken away. */
async function goOn(when: string): Promise<void> {
  const { state } = await hatchd.client.vms.get(id);
  assert.ok(state === 'running' || state === 'snapshotted', `${when}: the VM is ${state}`);
  if (state === 'snapshotted') await hatchd.client.vms.restore(id, {});
  assert.equal(await guestSays(), bootId, when);
  for (const vm of await hatchd.client.vms.list()) if (vm.id !== id) await hatchd.client.vms.delete(vm.id);
  for (const snapshot of await hatchd.client.snapshots.list())
    await hatchd.client.snapshots.delete(snapshot.id);
  await assertWhole(`${when}, afterwards`);
}

/** What is asked, after every how many rows it is killed, and what must be there first. */
const verbs: readonly (readonly [string, number, () => Promise<unknown>, (() => Promise<unknown>)?])[] = [
  ['a VM that is to sleep is saved', 3, () => hatchd.client.vms.snapshot(id, {})],
  ['a VM that is to run on is saved', 8, () => hatchd.client.vms.snapshot(id, { keep_running: true })],
  [
    'a VM is restored',
    8,
    () => hatchd.client.vms.restore(id, {}),
    () => hatchd.client.vms.snapshot(id, { name: 'there' }),
  ],
  ['a VM is forked', 8, () => hatchd.client.vms.fork(id, { count: 1 })],
];

for (const [what, step, ask, prepare] of verbs) {
  test(`hatchd killed while ${what}: the next leaves nothing half, and the guest goes on as it was`, async () => {
    for (let row = 1; ; row += step) {
      const when = `${what}, killed after row ${row}`;
      await prepare?.();
      await writeFile(trip, String(row));
      const outcome = await ask().then(
        () => 'done',
        () => 'cut off',
      );
      const left = Number(await readFile(trip, 'utf8'));
      await writeFile(trip, '0');
      if (left === 0) {
        await hatchd.gone();
        await hatchd.start();
      } else assert.equal(outcome, 'done', when);
      await until({ clock: systemClock, signal: AbortSignal.timeout(60_000) }, async () =>
        rows('select id from operations where finished_at is null').length === 0 ? true : undefined,
      );
      await assertWhole(when);
      await goOn(when);
      if (left > 0) return assert.ok(row > 8, `only ${row - 1} rows were written`);
    }
  });
}
