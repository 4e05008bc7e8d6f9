import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { newId } from '../base/ids.ts';
import { decideRoom, heldBy, whoHolds, type MemoryHolder } from './memory.ts';

const OWN = newId('acct');
const OTHER = newId('acct');
const BECAUSE = { now: null, soon: null, no: 'in_use' } as const;

function holder(
  heldMib: number,
  yields: MemoryHolder['yields'],
  idleMs = 0,
  accountId: MemoryHolder['accountId'] = OWN,
): MemoryHolder {
  const because = BECAUSE[yields];
  return { vmId: newId('vm'), accountId, name: null, heldMib, yields, idleMs, because, yieldsInMs: null };
}

/** What was decided, with machines by their place in the list. */
function short(budgetMib: number, wantedMib: number, holders: readonly MemoryHolder[]): string {
  const decision = decideRoom({ budgetMib, wantedMib, holders });
  if (!decision.fits) return `refused, ${decision.missingMib} short`;
  const first = decision.first.map((id) => holders.findIndex(({ vmId }) => vmId === id));
  return first.length === 0 ? 'fits' : `first ${first.join(' ')}`;
}

test('what fits puts nobody to sleep, what does not the least recently used until it does, and never more', () => {
  const table: readonly [string, number, number, readonly MemoryHolder[]][] = [
    ['fits', 512, 512, []],
    ['refused, 1 short', 512, 513, []],
    ['fits', 1024, 512, [holder(512, 'now', 5)]],
    ['first 0', 1023, 512, [holder(512, 'now', 5)]],
    ['first 1', 1024, 512, [holder(300, 'now', 5), holder(300, 'now', 9)]],
    ['first 1 0', 1024, 900, [holder(300, 'now', 5), holder(300, 'now', 9)]],
    ['first 2', 1024, 512, [holder(300, 'no', 99), holder(200, 'now', 1), holder(300, 'now', 2)]],
    ['refused, 212 short', 1024, 512, [holder(300, 'no', 99), holder(424, 'no'), holder(200, 'now', 1)]],
    // Who is about to end is waited for before anybody is disturbed.
    ['first 1', 1024, 512, [holder(300, 'now', 99), holder(300, 'soon')]],
    ['first 1 0', 1024, 1000, [holder(300, 'now', 99), holder(300, 'soon')]],
    // More is held than there is: a budget that was lowered.
    ['first 0', 512, 0, [holder(300, 'now', 9), holder(300, 'now', 5)]],
  ];
  for (const [expected, budget, wanted, holders] of table)
    assert.equal(short(budget, wanted, holders), expected, JSON.stringify({ budget, wanted, holders }));
});

const holders = fc.array(
  fc
    .tuple(fc.integer({ min: 0, max: 2000 }), fc.constantFrom('now', 'soon', 'no'), fc.nat(10))
    .map(([heldMib, yields, idleMs]) => holder(heldMib, yields, idleMs)),
  { maxLength: 12 },
);

test('whatever is held, those who sleep are few enough, enough, may, and are the longest unused', () => {
  fc.assert(
    fc.property(holders, fc.nat(8000), fc.nat(4000), (all, budgetMib, wantedMib) => {
      const decision = decideRoom({ budgetMib, wantedMib, holders: all });
      const stay = all.filter(({ yields }) => yields === 'no');
      assert.equal(decision.fits, heldBy(stay) + wantedMib <= budgetMib, 'refused only where nothing helps');
      if (!decision.fits) return assert.equal(decision.missingMib, heldBy(stay) + wantedMib - budgetMib);
      const first = decision.first.map((id) => all.find(({ vmId }) => vmId === id));
      const gone = new Set(decision.first);
      const leftBut = (ids: ReadonlySet<string>): number => heldBy(all.filter(({ vmId }) => !ids.has(vmId)));
      assert.equal(gone.size, first.length, 'each once');
      assert.ok(leftBut(gone) + wantedMib <= budgetMib, 'enough');
      if (first.length > 0)
        assert.ok(
          leftBut(new Set(decision.first.slice(0, -1))) + wantedMib > budgetMib,
          'the last is needed',
        );
      assert.ok(first.every((one) => one !== undefined && one.yields !== 'no'));
      const idle = first.flatMap((one) => (one?.yields === 'now' ? [one.idleMs] : []));
      assert.deepEqual(
        idle,
        [...idle].sort((one, other) => other - one),
      );
      for (const { vmId, yields, idleMs } of all)
        if (yields === 'now' && !gone.has(vmId)) assert.ok(idle.every((taken) => taken >= idleMs));
    }),
  );
});

test('an account is told of its own VMs that hold most, and of all others the sum alone', () => {
  const own = [3, 9, 1, 7, 5, 8].map((mib) => holder(mib, mib === 9 ? 'no' : 'now'));
  const others = [holder(100, 'no', 0, OTHER), holder(50, 'no', 0, null)];
  const { vms, others_mib: othersMib } = whoHolds([...own, ...others], OWN);
  assert.deepEqual(
    vms.map(({ held_mib: mib, stays_awake: why }) => [mib, why]),
    [
      [9, 'in_use'],
      [8, null],
      [7, null],
      [5, null],
      [3, null],
    ],
  );
  assert.equal(othersMib, 151);
  assert.deepEqual(whoHolds([...own, ...others], newId('acct')), { vms: [], others_mib: 183 });
});
