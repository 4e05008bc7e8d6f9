import assert from 'node:assert/strict';
import { test } from 'node:test';
import { BadConfig, readConfig } from './config.ts';
import { nextRun } from './tending.ts';

test('a schedule is read as a cron line, and gives the next time it comes', () => {
  const { values } = readConfig({ HATCH_VERIFY_SCHEDULE: '30 3 * * *' });
  assert.equal(values.HATCH_VERIFY_SCHEDULE, '30 3 * * *');
  const now = new Date(2026, 2, 6, 10, 30).getTime();
  assert.equal(nextRun('30 3 * * *', now), new Date(2026, 2, 7, 3, 30).getTime());
  assert.equal(nextRun('0 0 1 1 *', now), new Date(2027, 0, 1).getTime());
});

test('what is no cron line, or never comes, is refused by its name', () => {
  for (const line of ['daily', '61 * * * *', '0 0 30 2 *', '* *'])
    assert.throws(
      () => readConfig({ HATCH_VERIFY_SCHEDULE: line }),
      (error: unknown) => {
        assert.ok(error instanceof BadConfig, line);
        assert.match(error.message, /HATCH_VERIFY_SCHEDULE must be a cron line/);
        return true;
      },
    );
  assert.equal(readConfig({}).values.HATCH_VERIFY_SCHEDULE, undefined);
});
