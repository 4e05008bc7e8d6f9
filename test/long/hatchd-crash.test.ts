import { test } from 'node:test';
import { crashHostForTests, VERBS } from '../support/crash-host.ts';
import { qemus } from '../support/hatchd.ts';

/**
 * hatchd killed after every row of the journal of every operation, with real QEMU and a real network, and started again: what is on
 * the host then must be what the rows say. guest-life.test.ts and hatchd-restart.test.ts wait for the guests.
 */
const host = crashHostForTests(qemus);

for (const verb of Object.values(VERBS)) {
  test(`${verb.name}: killed after any row of its journal, the next hatchd leaves nothing that should not be there`, () =>
    host().crashAfterEachRow(verb));
}
