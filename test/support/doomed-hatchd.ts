import { readFileSync, writeFileSync } from 'node:fs';
import { silent } from '../../src/base/logger.ts';
import { startDaemon } from '../../src/daemon/assemble.ts';
import { readConfig } from '../../src/daemon/config.ts';
import { over } from './fake-world.ts';

/**
 * `doomed-hatchd.ts TRIP`: hatchd as it is, but that it kills itself with SIGKILL right after a row of its journal is written,
 * when the number in the file TRIP has been counted down to nothing.
 */
const [trip] = process.argv.slice(2);
if (trip === undefined) throw new Error('doomed-hatchd.ts needs the file with the number of the row');

function countDown(file: string): void {
  const left = Number(readFileSync(file, 'utf8'));
  if (left === 0) return;
  writeFileSync(file, String(left - 1));
  if (left === 1) process.kill(process.pid, 'SIGKILL');
}

await startDaemon(readConfig(process.env).values, {
  log: silent,
  version: 'doomed',
  wrapStore: (store) =>
    over(store, {
      operations: over(store.operations, {
        record: async (...row) => {
          const written = await store.operations.record(...row);
          countDown(trip);
          return written;
        },
      }),
    }),
});
