import assert from 'node:assert/strict';
import { test } from 'node:test';
import { run } from '../../src/host/run.ts';
import { driverSuite } from '../../src/vmm/driver-suite.ts';
import { askVersion } from '../../src/vmm/firecracker/versions.ts';
import { realFirecrackerHost } from '../support/firecracker-host.ts';
import { realRun } from '../support/real-firecracker.ts';

/** The suite on a real Firecracker, where HATCH_FIRECRACKER_BIN names one; with HATCH_TEST_FIRECRACKER=api without guests. */
const { tries, notTried } = realRun(process.env);

test('a real Firecracker that is named can be used, and what is not tried is said', async (t) => {
  for (const { bin } of tries) assert.notEqual((await askVersion({ run }, bin)).text, '');
  for (const note of notTried) t.diagnostic(note);
  assert.notEqual(tries.length + notTried.length, 0);
});

for (const real of tries) {
  const { jail, guestsRun } = real;
  driverSuite(`Firecracker${jail ? ', jailed' : ''}`, () => realFirecrackerHost(real), { guestsRun });
}
