import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { formatFields, formatTable } from './table.ts';
import {
  age,
  duration,
  formatBytes,
  formatMib,
  formatPairs,
  parseMib,
  parsePairs,
  parseSeconds,
  parseWhole,
  UsageError,
} from './words.ts';

const now = Date.UTC(2026, 2, 6, 12);

test('an age is said in its largest whole unit, and the future is now', () => {
  const ago = (seconds: number): string => age(new Date(now - seconds * 1000).toISOString(), now);
  assert.deepEqual([0, 59, 60, 3599, 3600, 86_399, 86_400, 864_000].map(ago), [
    '0s',
    '59s',
    '1m',
    '59m',
    '1h',
    '23h',
    '1d',
    '10d',
  ]);
  assert.equal(ago(-30), '0s');
});

test('sizes are read as people type them and said as people say them', () => {
  assert.deepEqual(
    ['512', '512M', '512MiB', '2G', '2gb', '1.5G', '1T'].map((text) => parseMib('--memory', text)),
    [512, 512, 512, 2048, 2048, 1536, 1_048_576],
  );
  assert.deepEqual([128, 1023, 1024, 1536, 65_536].map(formatMib), ['128M', '1023M', '1G', '1.5G', '64G']);
  for (const bad of ['', 'x', '-1', '1.3M', '0.0001G', '2 GG', '1e3', '512K'])
    assert.throws(() => parseMib('--memory', bad), /--memory must be a size/, bad);
});

test('bytes are said in the unit that keeps them short, and never as 1024 of one', () => {
  assert.deepEqual(
    [0, 1, 1023, 1024, 1536, 102_350, 1_048_525, 1_048_576, 241_172_480, 2 ** 31, 2 ** 40, 2 ** 51].map(
      formatBytes,
    ),
    ['0B', '1B', '1023B', '1K', '1.5K', '100K', '1M', '1M', '230M', '2G', '1T', '2048T'],
  );
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 1000 * 2 ** 40 }), (bytes) =>
      assert.match(formatBytes(bytes), /^(\d{1,2}(\.\d)?|\d{3}|10[01]\d|102[0-3])[BKMGT]$/),
    ),
  );
  assert.deepEqual([0.9, 59.99, 61, 3600, 90_000].map(duration), ['0s', '59s', '1m', '1h', '1d']);
});

test('every whole number of MiB is read back as it was typed', () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 65_536 }), (mib) => {
      assert.equal(parseMib('--memory', `${mib}M`), mib);
      assert.equal(parseMib('--memory', `${mib}G`), mib * 1024);
    }),
  );
});

test('durations, numbers and pairs name their option when they are wrong', () => {
  assert.deepEqual(
    ['45', '30s', '5m', '2h', '1d'].map((text) => parseSeconds('--timeout', text)),
    [45, 30, 300, 7200, 86_400],
  );
  assert.throws(() => parseSeconds('--timeout', '5 min'), UsageError);
  assert.equal(parseWhole('--cpus', '4'), 4);
  for (const bad of ['', '1.5', '-1', '0x10', 'four'])
    assert.throws(() => parseWhole('--cpus', bad), /--cpus/);
  assert.deepEqual(parsePairs('--label', ['a=b', 'c=', 'd=e=f', 'a=z']), { a: 'z', c: '', d: 'e=f' });
  for (const bad of ['a', '=b'])
    assert.throws(() => parsePairs('--label', [bad]), /--label must be key=value/);
  assert.equal(formatPairs({ a: 'b', c: 'd' }), 'a=b,c=d');
  assert.equal(formatPairs({}), undefined);
});

test('a table has aligned columns, no lines, no blanks at the ends', () => {
  assert.equal(
    formatTable(
      ['NAME', 'CPUS', 'IP'],
      [
        ['web', 2, undefined],
        [undefined, 16, '192.168.241.10'],
      ],
    ),
    'NAME   CPUS   IP\nweb    2      -\n-      16     192.168.241.10',
  );
  assert.equal(formatFields({ Id: 'x', Labels: undefined, State: 'running' }), 'Id      x\nState   running');
});

test('what a stranger wrote cannot move the cursor', () => {
  const nasty = `a${String.fromCharCode(27)}[2J\nb`;
  assert.equal(formatTable(['N'], [[nasty]]), 'N\na [2J b');
  assert.equal(formatFields({ N: nasty }), 'N   a [2J b');
});
