import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { WAYS_IN, type Activity, type OpenUse } from './activity.ts';
import { DEFAULT_IDLE } from './create-request.ts';
import {
  BOOTS_MS,
  decideIdle,
  decideUnderPressure,
  MANY_WAKES,
  QUIET_MS,
  STAYS_AWAKE_MS,
  type IdleSignals,
  type Verdict,
} from './idle.ts';
import type { IdlePolicy } from './vm.ts';

const NOW = 100_000_000;
const TIMEOUT_MS = DEFAULT_IDLE.timeoutSeconds * 1000;

const use = (by: OpenUse['by'], quietMs = 0): OpenUse => ({ by, since: 0, lastPayloadAt: NOW - quietMs });

const UNSAID = { guestBusyUntil: null, cpuPercent: null } as const;
const NOTHING = {
  operation: null,
  answered: true,
  canSave: true,
  failedUntil: null,
  // A Friday, half past ten.
  wallNow: Date.UTC(2026, 2, 6, 10, 30),
} as const;

/** Decides on a VM that nobody has used for the default timeout, but for what is said. */
function decide(
  policy: Partial<IdlePolicy> = {},
  activity: Partial<Activity> = {},
  signals: Partial<IdleSignals> = {},
): Verdict {
  return decideIdle(
    { ...DEFAULT_IDLE, ...policy },
    {
      now: NOW,
      activity: {
        version: 1,
        open: [],
        lastUsedAt: NOW - TIMEOUT_MS,
        awakeSince: 0,
        wakesInLastHour: 0,
        leasedUntil: null,
        ...UNSAID,
        ...activity,
      },
      ...NOTHING,
      ...signals,
    },
  );
}

/** A verdict in short: the action, or why not, with an exclamation mark where that is a refusal, and how long it holds. */
function short(verdict: Verdict): string {
  if (verdict.sleep) return verdict.action;
  const holds = verdict.until === null ? '' : ` ${verdict.until - NOW}`;
  return `${verdict.reason}${verdict.refused ? '!' : ''}${holds}`;
}

test('a VM nobody has used for its timeout does what its policy says', () => {
  assert.equal(short(decide()), 'snapshot');
  assert.equal(short(decide({ action: 'stop' })), 'stop');
  assert.equal(short(decide({ action: 'none' })), 'no_action');
  assert.equal(short(decide({ pinned: true })), 'pinned');
  assert.equal(short(decide({}, { lastUsedAt: NOW - TIMEOUT_MS + 1 })), 'used 1');
  assert.equal(short(decide({ timeoutSeconds: 1 }, { lastUsedAt: NOW - 999 })), 'used 1');
  // Its first minute awake holds it longer.
  const woken = { lastUsedAt: NOW - 1000, awakeSince: NOW - 1000 };
  assert.equal(short(decide({ timeoutSeconds: 5 }, woken)), `just_woken ${STAYS_AWAKE_MS - 1000}`);
  assert.equal(short(decide({ timeoutSeconds: 90 }, woken)), 'used 89000');
});

test('open connections count as the policy says; requests and commands always', () => {
  const table: readonly [IdlePolicy['connections'], OpenUse, string][] = [
    ['hold', use('ssh', 24 * 3_600_000), 'in_use'],
    ['hold', use('upgrade'), 'in_use'],
    ['hold', use('console', QUIET_MS), 'in_use'],
    ['quiet', use('ssh', QUIET_MS - 1), 'in_use 1'],
    ['quiet', use('ssh', TIMEOUT_MS - 1), 'used 1'],
    ['quiet', use('upgrade', TIMEOUT_MS), 'snapshot'],
    ['quiet', use('http', TIMEOUT_MS), 'in_use'],
    ['ignore', use('ssh'), 'snapshot'],
    ['ignore', use('upgrade'), 'snapshot'],
    ['ignore', use('console'), 'snapshot'],
    ['ignore', use('http', TIMEOUT_MS), 'in_use'],
    ['ignore', use('exec', TIMEOUT_MS), 'in_use'],
    ['ignore', use('file', TIMEOUT_MS), 'in_use'],
  ];
  for (const [connections, open, expected] of table)
    assert.equal(
      short(decide({ connections }, { open: [open] })),
      expected,
      `${connections} ${JSON.stringify(open)}`,
    );
  const short1 = decide({ connections: 'quiet', timeoutSeconds: 5 }, { open: [use('ssh', 60_000)] });
  assert.equal(short(short1), `in_use ${QUIET_MS - 60_000}`, 'whatever the timeout');
});

test('a lease keeps a VM awake until it ends, and is its last use then', () => {
  assert.equal(short(decide({}, { leasedUntil: NOW + 5 })), 'leased 5');
  assert.equal(short(decide({}, { leasedUntil: NOW - 5 })), `used ${TIMEOUT_MS - 5}`);
  assert.equal(short(decide({}, { leasedUntil: NOW - TIMEOUT_MS })), 'snapshot');
});

test('a VM that was just woken stays awake for a minute, and for two when it is woken again and again', () => {
  const policy = { timeoutSeconds: 1 };
  const awake = (ms: number, wakesInLastHour: number): string =>
    short(decide(policy, { awakeSince: NOW - ms, wakesInLastHour }));
  assert.equal(awake(STAYS_AWAKE_MS - 1, 1), 'just_woken! 1');
  assert.equal(awake(STAYS_AWAKE_MS, MANY_WAKES), 'snapshot');
  assert.equal(awake(STAYS_AWAKE_MS, MANY_WAKES + 1), `just_woken! ${STAYS_AWAKE_MS}`);
  assert.equal(awake(2 * STAYS_AWAKE_MS, MANY_WAKES + 1), 'snapshot');
});

test('a guest that has not answered yet boots, and is no longer waited for when it should have', () => {
  const booting = (ms: number): string => short(decide({}, { awakeSince: NOW - ms }, { answered: false }));
  assert.equal(booting(BOOTS_MS - 1), 'booting 1');
  assert.equal(booting(BOOTS_MS), 'snapshot');
  assert.equal(short(decide({}, { awakeSince: NOW - BOOTS_MS + 1 })), 'snapshot');
});

test('what is under way, cannot be done or failed a moment ago is a refusal, with its reason', () => {
  assert.equal(short(decide({}, {}, { operation: 'fork' })), 'operation!');
  assert.equal(short(decide({}, { lastUsedAt: NOW }, { operation: 'fork' })), 'operation');
  assert.equal(short(decide({}, {}, { canSave: false })), 'cannot_save!');
  assert.equal(short(decide({ action: 'stop' }, {}, { canSave: false })), 'stop');
  assert.equal(short(decide({}, {}, { failedUntil: NOW + 7 })), 'failed! 7');
  assert.equal(short(decide({}, {}, { failedUntil: NOW })), 'snapshot');
});

test('its time, its guest and its CPU keep a VM awake; little CPU alone puts nothing to sleep', () => {
  const office = { days: ['fri'], from: '08:00', to: '18:00', timeZone: 'UTC' } as const;
  assert.equal(short(decide({ keepAwake: [office] })), `keep_awake! ${7.5 * 3_600_000}`);
  assert.equal(short(decide({ keepAwake: [{ ...office, timeZone: 'Asia/Tokyo' }] })), 'snapshot');
  assert.equal(short(decide({}, { guestBusyUntil: NOW + 9 })), 'guest_busy! 9');
  assert.equal(short(decide({}, { guestBusyUntil: NOW })), 'snapshot');
  assert.equal(short(decide({ cpuBelow: 20 }, { cpuPercent: 20 })), 'cpu!');
  assert.equal(short(decide({ cpuBelow: 20 }, { cpuPercent: 19.9 })), 'snapshot');
  assert.equal(short(decide({ cpuBelow: 20 })), 'cpu!', 'not measured yet');
  assert.equal(short(decide({}, { cpuPercent: 100 })), 'snapshot');
  assert.equal(short(decide({ cpuBelow: 20 }, { lastUsedAt: NOW, cpuPercent: 0 })), `used ${TIMEOUT_MS}`);
});

const policies = fc.record({
  timeoutSeconds: fc.integer({ min: 1, max: 100_000 }),
  action: fc.constantFrom('snapshot' as const, 'stop' as const),
  connections: fc.constantFrom('hold' as const, 'quiet' as const, 'ignore' as const),
  pinned: fc.constant(false),
  cpuBelow: fc.constant(null),
  keepAwake: fc.constant([]),
});
const ago = fc.integer({ min: 0, max: NOW }).map((ms) => NOW - ms);
const uses = fc.record({ by: fc.constantFrom(...WAYS_IN), since: ago, lastPayloadAt: ago });
const activities = fc.record({
  version: fc.nat(),
  open: fc.array(uses, { maxLength: 3 }),
  lastUsedAt: ago,
  awakeSince: ago,
  wakesInLastHour: fc.nat(20),
  leasedUntil: fc.option(fc.integer({ min: 0, max: 2 * NOW })),
  guestBusyUntil: fc.option(fc.integer({ min: 0, max: 2 * NOW })),
  cpuPercent: fc.constant(null),
});
const operations = fc.option(fc.constantFrom('fork' as const, 'snapshot' as const, 'stop' as const));

test('never asleep while anything that counts is open, leased, pinned or under way, or before its time', () => {
  fc.assert(
    fc.property(policies, activities, operations, fc.boolean(), (policy, activity, operation, pinned) => {
      const signals = { ...NOTHING, now: NOW, activity, operation };
      const verdict = decideIdle({ ...policy, pinned }, signals);
      if (!verdict.sleep) return;
      assert.ok(!pinned && operation === null);
      assert.ok(activity.guestBusyUntil === null || activity.guestBusyUntil <= NOW);
      assert.ok(activity.leasedUntil === null || activity.leasedUntil <= NOW);
      for (const { by, lastPayloadAt } of activity.open) {
        assert.ok(by !== 'http' && by !== 'exec' && by !== 'file');
        assert.notEqual(policy.connections, 'hold');
        if (policy.connections === 'quiet') assert.ok(NOW - lastPayloadAt >= QUIET_MS);
      }
      assert.ok(NOW - activity.lastUsedAt >= policy.timeoutSeconds * 1000);
      assert.ok(NOW - activity.awakeSince >= STAYS_AWAKE_MS);
      assert.equal(verdict.action, policy.action);
    }),
  );
});

test('whoever looks again when he is told to, while nothing changes, sees the VM go to sleep', () => {
  fc.assert(
    fc.property(policies, activities, (policy, activity) => {
      const held = activity.open.some(
        ({ by }) => by === 'http' || by === 'exec' || by === 'file' || policy.connections === 'hold',
      );
      fc.pre(!held);
      let now = NOW;
      for (let looks = 0; looks < 10; looks++) {
        const verdict = decideIdle(policy, {
          ...NOTHING,
          now,
          activity,
        });
        if (verdict.sleep) return;
        assert.ok(verdict.until !== null && verdict.until > now, `${verdict.reason} does not say when`);
        now = verdict.until;
      }
      assert.fail('it never slept');
    }),
  );
});

test('when memory is needed the timeout is not waited for, and all else keeps a VM awake as ever', () => {
  const signals = (activity: Partial<Activity>): IdleSignals => ({
    now: NOW,
    activity: {
      version: 1,
      open: [],
      lastUsedAt: NOW - 1,
      awakeSince: 0,
      wakesInLastHour: 0,
      leasedUntil: null,
      ...UNSAID,
      ...activity,
    },
    ...NOTHING,
  });
  const pressed = (policy: Partial<IdlePolicy>, activity: Partial<Activity> = {}): string =>
    short(decideUnderPressure({ ...DEFAULT_IDLE, ...policy }, signals(activity)));
  assert.equal(pressed({}), 'snapshot');
  assert.equal(pressed({ action: 'stop' }), 'stop');
  assert.equal(pressed({ pinned: true }), 'pinned');
  assert.equal(pressed({ action: 'none' }), 'no_action');
  assert.equal(pressed({}, { open: [use('ssh')] }), 'in_use');
  assert.equal(pressed({}, { leasedUntil: NOW + 5 }), 'leased! 5');
  assert.equal(pressed({}, { awakeSince: NOW - STAYS_AWAKE_MS + 7 }), 'just_woken! 7');
});
