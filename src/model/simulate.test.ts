import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { newId } from '../base/ids.ts';
import { DEFAULT_IDLE } from './create-request.ts';
import { asleepIn, restOf, type Rest, type UseSpan } from './history.ts';
import { sleptBy, wouldSleep, type Recorded } from './simulate.ts';
import type { IdlePolicy } from './vm.ts';

const vmId = newId('vm');
const MIN = 60_000;
const HOUR = 60 * MIN;

const use = (from: number, until = from, by: UseSpan['by'] = 'http'): UseSpan => ({ vmId, by, from, until });
const rest = (how: Rest['how'], from: number, until: number | null): Rest => ({
  vmId,
  how,
  memMib: 2048,
  from,
  until,
});

function would(policy: Partial<IdlePolicy>, recorded: Partial<Recorded>): ReturnType<typeof wouldSleep> {
  return wouldSleep(
    { ...DEFAULT_IDLE, timeoutSeconds: 600, ...policy },
    { uses: [], rests: [], memMib: 2048, from: 0, until: 10 * HOUR, ...recorded },
  );
}

test('what a VM that does not run does is told from its state and who stopped it', () => {
  assert.equal(restOf({ state: 'snapshotted', stoppedBy: null }), 'snapshot');
  assert.equal(restOf({ state: 'stopped', stoppedBy: 'policy' }), 'stop');
  assert.equal(restOf({ state: 'stopped', stoppedBy: 'person' }), 'off');
  assert.equal(restOf({ state: 'error', stoppedBy: null }), 'off');
  assert.equal(restOf({ state: 'running', stoppedBy: null }), null);
});

test('sleep is summed up within a time, with the memory the VM had then; being off is none', () => {
  const rests = [
    rest('snapshot', 0, 2 * HOUR),
    { ...rest('stop', 3 * HOUR, 4 * HOUR), memMib: 512 },
    rest('off', 5 * HOUR, 6 * HOUR),
    rest('snapshot', 9 * HOUR, null),
  ];
  assert.deepEqual(asleepIn(rests, 0, 10 * HOUR), { times: 3, ms: 4 * HOUR, gibHours: 2 * 3 + 0.5 });
  assert.deepEqual(asleepIn(rests, HOUR, 3.5 * HOUR), { times: 1, ms: 1.5 * HOUR, gibHours: 2 + 0.25 });
  const recorded = { uses: [], rests, memMib: 1, from: 0, until: 10 * HOUR };
  assert.equal(sleptBy(recorded).wakes, 2);
});

test('a VM would have slept between its uses, and each that came then would have woken it', () => {
  const uses = [use(HOUR, 2 * HOUR), use(2 * HOUR + 5 * MIN), use(5 * HOUR)];
  // From 10 minutes to the first hour, from 2:15 to 5:00, from 5:10 on.
  const ms = 50 * MIN + 165 * MIN + 290 * MIN;
  assert.deepEqual(would({}, { uses }), { times: 3, wakes: 2, ms, gibHours: (2 * ms) / HOUR });
  assert.deepEqual(would({ timeoutSeconds: 36_000 }, { uses }), { times: 0, wakes: 0, ms: 0, gibHours: 0 });
  for (const never of [{ pinned: true }, { action: 'none' as const }])
    assert.equal(would(never, { uses }).times, 0);
});

test('connections count unless the policy ignores them; a VM that was off did not sleep; a wake was somebody', () => {
  const uses = [use(0, 10 * HOUR, 'ssh')];
  assert.equal(would({}, { uses }).times, 0);
  assert.equal(would({ connections: 'ignore' }, { uses }).times, 1);
  const off = would({}, { rests: [rest('off', 5 * MIN, 9 * HOUR)] });
  assert.deepEqual([off.times, off.ms, off.wakes], [1, 50 * MIN, 0]);
  const woken = would({}, { rests: [rest('snapshot', HOUR, 4 * HOUR)] });
  assert.deepEqual([woken.times, woken.wakes], [2, 1]);
});

test('one that would be woken again and again stays awake for longer', () => {
  const uses = Array.from({ length: 12 }, (_, at) => use(at * 2 * MIN));
  const { wakes, ms } = would({ timeoutSeconds: 1 }, { uses, until: 24 * MIN });
  // Seven times a minute; from then on two minutes are too short to fall asleep, and four are not.
  assert.deepEqual([wakes, ms], [9, 7 * MIN + 2 * 119_000]);
});

test('a longer timeout never means more sleep, and nobody sleeps longer than there was time', () => {
  const spans = fc
    .tuple(fc.integer({ min: 0, max: 10 * HOUR }), fc.integer({ min: 0, max: HOUR }))
    .map(([from, ms]) => use(from, Math.min(from + ms, 10 * HOUR)));
  fc.assert(
    fc.property(
      fc.array(spans, { maxLength: 20 }),
      fc.integer({ min: 120, max: 10_000 }),
      (uses, seconds) => {
        const short = would({ timeoutSeconds: seconds }, { uses });
        const long = would({ timeoutSeconds: seconds * 2 }, { uses });
        assert.ok(long.ms <= short.ms && long.times <= short.times && long.wakes <= short.wakes);
        assert.ok(short.ms <= 10 * HOUR && short.wakes <= short.times);
        const used = uses.reduce((all, { from, until }) => all + until - from, 0);
        if (uses.length === 1) assert.ok(short.ms <= 10 * HOUR - used);
      },
    ),
  );
});
