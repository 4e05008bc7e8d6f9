import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { openCrashHost, VERBS, type CrashHost } from '../support/crash-host.ts';
import { qemus } from '../support/hatchd.ts';

/**
 * hatchd killed in the middle of every operation, with real QEMU and a real network, and started again: what is on the host then
 * must be what the rows say, and the VM must start. The same after each row of every journal: test/long/hatchd-crash.test.ts; on
 * the fake: src/ops/crash.test.ts.
 */
let folder: string;
let host: CrashHost;

before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'crash-'));
  host = await openCrashHost(folder, qemus);
});
after(async () => {
  await host.hatchd.down();
  await rm(folder, { recursive: true, force: true });
});

for (const verb of Object.values(VERBS)) {
  test(`${verb.name}: killed in the middle, the next hatchd leaves nothing that should not be there, and the VM starts`, () =>
    host.crashInTheMiddle(verb));
}
