import { test } from 'node:test';
import { crashHostForTests, VERBS } from '../support/crash-host.ts';
import { qemus } from '../support/hatchd.ts';

/**
 * hatchd killed in the middle of every operation, with real QEMU and a real network, and started again: what is on the host then
 * must be what the rows say, and the VM must start. The same after each row of every journal: test/long/hatchd-crash.test.ts; on
 * the fake: src/ops/crash.test.ts.
 */
const host = crashHostForTests(qemus);

for (const verb of Object.values(VERBS)) {
  test(`${verb.name}: killed in the middle, the next hatchd leaves nothing that should not be there, and the VM starts`, () =>
    host().crashInTheMiddle(verb));
}
