import assert from 'node:assert/strict';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { after, before } from 'node:test';
import { systemClock } from '../../src/base/clock.ts';
import { until } from '../../src/base/until.ts';
import type { Vm } from '../../src/contract/vm.ts';
import { startHatchd, type Hatchd } from './hatchd.ts';
import { assertHostMatches, type Vmms } from './host-matches.ts';

/** Something that is asked of hatchd, and what the VM is before. */
export interface Verb {
  readonly name: string;
  readonly from: 'nothing' | 'running' | 'stopped';
  readonly ask: (hatchd: Hatchd, vm: Vm | undefined) => Promise<unknown>;
}

const of = (vm: Vm | undefined): string => vm?.id ?? assert.fail('there is no VM');

/** All verbs that put a VM on its host or take it off. */
export const VERBS = {
  create: { name: 'create', from: 'nothing', ask: ({ client }) => client.vms.create() },
  start: { name: 'start', from: 'stopped', ask: ({ client }, vm) => client.vms.start(of(vm)) },
  stop: {
    name: 'stop',
    from: 'running',
    ask: ({ client }, vm) => client.vms.stop(of(vm), { grace_seconds: 0 }),
  },
  reboot: { name: 'reboot', from: 'running', ask: ({ client }, vm) => client.vms.reboot(of(vm)) },
  delete: { name: 'delete', from: 'running', ask: ({ client }, vm) => client.vms.delete(of(vm)) },
} as const satisfies Record<string, Verb>;

/** A hatchd that kills itself (SIGKILL, from within) right after a row of its journal is written, when told to. */
export interface CrashHost {
  readonly hatchd: Hatchd;
  /**
   * Asks for it again and again, killed after the first row of the journal, then after the second, until it comes to its end
   * undisturbed. After each: started again, what is on the host must be what the rows say; with `startable`, what is left of the
   * VM must start as well.
   */
  crashAfterEachRow(verb: Verb, options?: { readonly startable?: boolean }): Promise<void>;
  /** The same with one kill, in the middle of its journal, and then undisturbed. */
  crashInTheMiddle(verb: Verb): Promise<void>;
}

/** One for all the tests of a file, and a way to it from within them. */
export function crashHostForTests(vmms: Vmms): () => CrashHost {
  let folder: string;
  let host: CrashHost;
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'crash-'));
    host = await openCrashHost(folder, vmms);
  });
  after(async () => {
    await host.hatchd.down();
    await rm(folder, { recursive: true, force: true });
  });
  return () => host;
}

/** Starts it in `folder`; the guests need not get far, so they are not waited for. */
export async function openCrashHost(
  folder: string,
  vmms: Vmms,
  env: Readonly<Record<string, string>> = {},
): Promise<CrashHost> {
  const trip = join(folder, 'trip');
  await writeFile(trip, '0');
  const hatchd = await startHatchd(folder, env, [join(import.meta.dirname, 'doomed-hatchd.ts'), trip]);
  const { client, data } = hatchd;
  const check = (when: string): Promise<void> => assertHostMatches(hatchd, vmms, when);

  /** Ends the guest of a VM that waits for it to shut down. */
  const hurry = async (vm: Vm): Promise<void> => {
    if (!unfinished(data).some(({ verb, steps }) => verb === 'reboot' && steps === 1)) return;
    const pid = (await vmms()).get(vm.id);
    if (pid !== undefined) process.kill(pid, 'SIGKILL');
  };
  const prepare = async (from: Verb['from']): Promise<Vm | undefined> => {
    if (from === 'nothing') return undefined;
    const vm = await client.vms.create();
    return from === 'stopped' ? client.vms.stop(vm.id, { grace_seconds: 0 }) : vm;
  };
  /** Waits for the answer; a guest that is asked to shut down and cannot hear yet is ended, as if it had. */
  const untilDone = async (asked: Promise<string>, vm: Vm | undefined): Promise<string> =>
    until({ clock: systemClock, signal: AbortSignal.timeout(60_000) }, async () => {
      const now = await Promise.race([asked, systemClock.sleep(20).then(() => undefined)]);
      if (now === undefined && vm && Number(await readFile(trip, 'utf8')) > 0) await hurry(vm);
      return now;
    });
  /** Waits until nothing is under way any more. */
  const untilSettled = async (vm: Vm | undefined): Promise<void> => {
    await until({ clock: systemClock, signal: AbortSignal.timeout(60_000) }, async () => {
      if (vm) await hurry(vm);
      return unfinished(data).length === 0 ? true : undefined;
    });
  };
  const startAll = async (when: string): Promise<void> => {
    for (const { id, state } of await client.vms.list()) {
      if (state !== 'running') assert.equal((await client.vms.start(id)).state, 'running', when);
    }
  };
  const deleteAll = async (): Promise<void> => {
    for (const vm of await client.vms.list()) await client.vms.delete(vm.id);
    assert.deepEqual(await readdir(join(data, 'vms')), []);
    await check('after deletion');
  };

  /** Asks for it, killed after that row, and looks at what the next hatchd made of it; `true`: it came to its end first. */
  const crashAfter = async (row: number, verb: Verb, startable: boolean): Promise<boolean> => {
    const vm = await prepare(verb.from);
    await writeFile(trip, String(row));
    const asked = verb.ask(hatchd, vm).then(
      () => 'done',
      () => 'cut off',
    );
    const outcome = await untilDone(asked, vm);
    if (outcome === 'done') {
      await writeFile(trip, '0');
      await check(`${verb.name}, undisturbed`);
      await deleteAll();
      return true;
    }
    await hatchd.gone();
    await writeFile(trip, '0');
    await hatchd.start();
    await untilSettled(vm);
    const when = `${verb.name}, killed after row ${row}`;
    await check(when);
    if (startable) await startAll(when);
    await deleteAll();
    return false;
  };

  return {
    hatchd,
    crashAfterEachRow: async (verb, { startable = false } = {}) => {
      let row = 1;
      while (!(await crashAfter(row, verb, startable))) row += 1;
      assert.ok(row > FEWEST_ROWS, `${verb.name} wrote only ${row - 1} rows`);
    },
    crashInTheMiddle: async (verb) => {
      assert.equal(await crashAfter(FEWEST_ROWS, verb, true), false, 'it was not killed');
      assert.equal(await crashAfter(Number.MAX_SAFE_INTEGER, verb, false), true, 'it was killed');
    },
  };
}

/** Every verb writes at least as many rows. */
const FEWEST_ROWS = 5;

interface Unfinished {
  readonly verb: string;
  /** Rows of its journal since it was last taken up. */
  readonly steps: number;
}

/** The operations under way, as the database has them. */
function unfinished(data: string): readonly Unfinished[] {
  const db = new DatabaseSync(join(data, 'hatch.db'), { readOnly: true });
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
