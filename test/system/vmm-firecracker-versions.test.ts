import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { silent } from '../../src/base/logger.ts';
import { run } from '../../src/host/run.ts';
import { VmmError } from '../../src/vmm/driver.ts';
import { driverSuite } from '../../src/vmm/driver-suite.ts';
import { openFirecracker } from '../../src/vmm/firecracker/driver.ts';
import { wrapDouble } from '../../src/vmm/firecracker/testing/wrapper.ts';
import { firecrackerHost } from '../support/firecracker-host.ts';

/** The oldest release that is taken, and the last before 1.16: whole, side by side, since they mostly wait. */
describe('older releases of Firecracker, as its double pretends them', { concurrency: true }, () => {
  for (const version of ['v1.13.1', 'v1.15.0'])
    driverSuite(`Firecracker's double as ${version}`, () => firecrackerHost({}, version));

  test('one older than 1.13 is refused in a sentence that says what to install', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'fc-'));
    try {
      const old = await wrapDouble(join(folder, 'firecracker'), { FC_DOUBLE_VERSION: 'v1.12.1' });
      const error = await openFirecracker({ run, log: silent, firecrackerBin: old, folder }).then(
        () => assert.fail('it was taken'),
        (failed: unknown) => failed,
      );
      assert.ok(error instanceof VmmError);
      assert.match(error.message, /^Firecracker 1\.12\.1 is too old; install 1\.13 or newer/);
    } finally {
      await rm(folder, { recursive: true });
    }
  });
});
