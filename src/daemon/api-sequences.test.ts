import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import fc from 'fast-check';
import { systemClock } from '../base/clock.ts';
import { until } from '../base/until.ts';
import { field, fields } from '../api/test-client.ts';
import { makeFakeHost, type FakeDaemon, type FakeHost } from '../../test/support/fake-daemon.ts';

/**
 * Several clients do whatever they like to the same few VMs at once: every answer is a right one, and in the end nothing is under way,
 * nothing is left, and the account's use is what there is. HATCH_TEST_RUNS: how many times; HATCH_TEST_SEED: of an earlier run.
 */
const RUNS = Number(process.env['HATCH_TEST_RUNS'] ?? 12);
const SEED = Number(process.env['HATCH_TEST_SEED'] ?? 20_261_130);
/** As many VMs the account may have. */
const QUOTA = { vms: 5, vcpus: 7, mem_mib: 2048 };

let host: FakeHost;
let hatch: FakeDaemon;

before(async () => {
  host = await makeFakeHost({ inMemory: true });
  hatch = await host.start({ HATCH_SSH_PORT_MAX: '2299' });
  const own = await hatch.daemon.world.store.accounts.byName('default');
  assert.equal((await hatch.call('PATCH', `/accounts/${own?.id}`, { quotas: QUOTA })).status, 200);
});
after(() => host.end());

interface Command {
  readonly method: 'POST' | 'PATCH' | 'DELETE' | 'GET';
  /** What is done to which of the VMs there are then; nothing to one that is not there. */
  readonly path: string;
  readonly vm: number;
  readonly body?: object | undefined;
}

const commands: fc.Arbitrary<Command> = fc
  .tuple(
    fc.constantFrom<Omit<Command, 'vm'>[]>(
      { method: 'POST', path: '/vms', body: {} },
      { method: 'POST', path: '/vms', body: { vcpu_count: 2, mem_mib: 256, enable_network: false } },
      { method: 'POST', path: '/vms?wait=ready&timeout=5', body: { mem_mib: 128 } },
      { method: 'DELETE', path: '/vms/:id' },
      { method: 'GET', path: '/vms/:id?wait=running&timeout=1' },
      { method: 'PATCH', path: '/vms/:id', body: { labels: { touched: 'yes' } } },
      { method: 'PATCH', path: '/vms/:id', body: { vcpu_count: 2, mem_mib: 384 } },
      { method: 'POST', path: '/vms/:id/stop', body: { grace_seconds: 0 } },
      { method: 'POST', path: '/vms/:id/stop', body: {} },
      { method: 'POST', path: '/vms/:id/start', body: {} },
      { method: 'POST', path: '/vms/:id/reboot', body: {} },
      { method: 'POST', path: '/vms/:id/snapshot', body: {} },
      { method: 'POST', path: '/vms/:id/snapshot', body: { keep_running: true } },
      { method: 'POST', path: '/vms/:id/restore', body: {} },
      { method: 'POST', path: '/vms/:id/restore', body: { discard: true } },
      { method: 'POST', path: '/vms/:id/fork', body: { count: 1 } },
      { method: 'POST', path: '/vms/:id/fork', body: { count: 2, keep_running: false } },
      { method: 'POST', path: '/vms/:id/exec?wake=true', body: { command: 'true' } },
      { method: 'POST', path: '/vms/:id/routes', body: { target_port: 80 } },
      { method: 'POST', path: '/vms/:id/lease', body: { seconds: 60 } },
      { method: 'DELETE', path: '/snapshots/:snapshot' },
      { method: 'POST', path: '/snapshots/:snapshot/verify', body: {} },
    ),
    fc.nat({ max: 5 }),
  )
  .map(([command, vm]) => ({ ...command, vm }));

const clients = fc.array(fc.array(commands, { minLength: 1, maxLength: 10 }), { minLength: 2, maxLength: 4 });

async function list(path: string): Promise<Record<string, unknown>[]> {
  const { body } = await hatch.call('GET', path);
  assert.ok(Array.isArray(body));
  return body.map(fields);
}

/** Does one thing; every answer has been checked against the description, and this is what it may say. */
async function obey({ method, path, vm, body }: Command): Promise<string> {
  const pick = (rows: readonly Record<string, unknown>[]): string =>
    rows.length === 0 ? 'none' : String(rows[vm % rows.length]?.['id']);
  const url = path
    .replace(':id', path.includes(':id') ? pick(await list('/vms')) : '')
    .replace(':snapshot', path.includes(':snapshot') ? pick(await list('/snapshots')) : '');
  const { status, body: answer } = await hatch.call(method, url, body);
  const said = `${method} ${url} ${JSON.stringify(body)} -> ${status} ${JSON.stringify(answer)}`;
  const code = status < 400 ? '' : String(field(answer, 'code'));
  assert.ok(status < 500 || code === 'timeout', said);
  // Whom it was about may be gone, or in the middle of something else; nothing here is wrong in itself.
  assert.ok(
    status < 400 ||
      [
        'not_found',
        'wrong_state',
        'busy',
        'in_use',
        'quota_exceeded',
        'no_guest_agent',
        'timeout',
        'invalid_request',
      ].includes(code),
    said,
  );
  return said;
}

async function settled(): Promise<void> {
  const { store, settings } = hatch.daemon.world;
  await until({ clock: systemClock, signal: AbortSignal.timeout(20_000) }, async () =>
    (await store.operations.unfinished(settings.hostId)).length === 0 ? true : undefined,
  );
}

async function useIsRight(): Promise<void> {
  const vms = await list('/vms');
  const sum = (name: string): number => vms.reduce((total, vm) => total + Number(vm[name]), 0);
  const use = { vms: vms.length, vcpus: sum('vcpu_count'), mem_mib: sum('mem_mib') };
  const { body } = await hatch.call('GET', '/account');
  assert.deepEqual(field(body, 'use'), use);
  assert.deepEqual(field(body, 'quotas'), QUOTA);
  for (const [name, limit] of Object.entries(QUOTA))
    assert.ok(Number(field(use, name)) <= limit, `${name}: ${JSON.stringify(use)}`);
}

test('whatever several clients do at once, nothing is left of it but what they made', async (t) => {
  let done = 0;
  const play = async (programs: readonly (readonly Command[])[]): Promise<void> => {
    const said: string[] = [];
    try {
      // All of them come to their end before anything else is done to the VMs.
      const ended = await Promise.allSettled(
        programs.map(async (program) => {
          for (const command of program) said.push(await obey(command));
        }),
      );
      for (const one of ended) if (one.status === 'rejected') throw one.reason;
      done += said.length;
      await settled();
      await hatch.assertNothingLeft();
      await useIsRight();
      for (const { id } of await list('/vms'))
        assert.equal((await hatch.call('DELETE', `/vms/${String(id)}`)).status, 200);
      await settled();
      await hatch.assertNothingLeft();
      for (const path of ['/vms', '/snapshots', '/routes']) assert.deepEqual(await list(path), []);
      await useIsRight();
    } catch (error) {
      for (const { id } of await list('/vms')) await hatch.call('DELETE', `/vms/${String(id)}`);
      throw new Error(`${said.join('\n')}\n${String(error)}`, { cause: error });
    }
  };
  let round: Promise<void> | undefined;
  const property = fc.asyncProperty(clients, (programs) => (round = play(programs)));
  await fc.assert(property, {
    numRuns: RUNS,
    seed: SEED,
    interruptAfterTimeLimit: Math.max(20_000, RUNS * 2000),
    includeErrorInReport: true,
  });
  // One that there was no more time for goes on all the same.
  await round;
  t.diagnostic(`${done} commands, HATCH_TEST_SEED=${SEED}`);
});
