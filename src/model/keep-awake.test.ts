import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { DAYS, isTimeZone, keptAwakeUntil, type KeepAwake } from './keep-awake.ts';

const at = (text: string): number => Date.parse(text);
const hours = (windows: readonly KeepAwake[], time: string): number | null => {
  const until = keptAwakeUntil(windows, at(time));
  return until === null ? null : (until - at(time)) / 3_600_000;
};

const office: KeepAwake = {
  days: ['mon', 'tue', 'wed', 'thu', 'fri'],
  from: '08:00',
  to: '18:00',
  timeZone: 'Europe/Berlin',
};
const night: KeepAwake = { days: ['fri'], from: '22:00', to: '06:00', timeZone: 'UTC' };

test('a window holds from its first minute to its last, on its days, in its time zone', () => {
  // A Friday in winter: Berlin is an hour ahead of UTC.
  assert.equal(hours([office], '2026-03-06T06:59:59Z'), null);
  assert.equal(hours([office], '2026-03-06T07:00:00Z'), 10);
  assert.equal(hours([office], '2026-03-06T16:00:00Z'), 1);
  assert.equal(hours([office], '2026-03-06T17:00:00Z'), null);
  assert.equal(hours([office], '2026-03-07T10:00:00Z'), null, 'a Saturday');
  // In summer it is two.
  assert.equal(hours([office], '2026-07-03T06:00:00Z'), 10);
  assert.equal(hours([office], '2026-07-03T16:00:00Z'), null);
});

test('a window may go on after midnight, and belongs to the day it begins on', () => {
  assert.equal(hours([night], '2026-03-06T21:59:00Z'), null);
  assert.equal(hours([night], '2026-03-06T22:00:00Z'), 8);
  assert.equal(hours([night], '2026-03-07T05:00:00Z'), 1);
  assert.equal(hours([night], '2026-03-07T06:00:00Z'), null);
  assert.equal(hours([night], '2026-03-06T05:00:00Z'), null, 'of Thursday there is none');
  assert.equal(hours([{ ...night, days: ['sun'] }], '2026-03-09T05:00:00Z'), 1, 'from Sunday to Monday');
  assert.equal(hours([{ ...night, from: '00:00', to: '24:00' }], '2026-03-06T23:00:00Z'), 1);
});

test('of windows that overlap the latest end counts', () => {
  assert.equal(hours([office, { ...night, from: '16:00' }], '2026-03-06T16:30:00Z'), 13.5);
  assert.equal(keptAwakeUntil([], at('2026-03-06T16:30:00Z')), null);
});

test('a time lies in a window or in what is left of the day, whatever the window', () => {
  const minute = fc.integer({ min: 0, max: 1439 });
  const clock = (of: number): string =>
    `${String(Math.floor(of / 60)).padStart(2, '0')}:${String(of % 60).padStart(2, '0')}`;
  fc.assert(
    fc.property(minute, minute, fc.integer({ min: 0, max: 10_000_000 }), (from, to, minutes) => {
      fc.pre(from !== to);
      const time = at('2026-03-02T00:00:00Z') + minutes * 60_000;
      const window = { days: DAYS, timeZone: 'UTC' };
      const inside = keptAwakeUntil([{ ...window, from: clock(from), to: clock(to) }], time);
      const outside = keptAwakeUntil([{ ...window, from: clock(to), to: clock(from) }], time);
      assert.ok((inside === null) !== (outside === null));
      const ends = inside ?? outside ?? 0;
      assert.ok(ends > time && ends <= time + 86_400_000);
      assert.equal((ends / 60_000) % 1440, inside === null ? from : to);
    }),
  );
});

test('a time zone is one that the runtime knows', () => {
  assert.deepEqual(['UTC', 'Europe/Berlin', 'Mars/Olympus', ''].map(isTimeZone), [true, true, false, false]);
});
