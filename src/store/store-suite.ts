import { after, before, describe, test } from 'node:test';
import { FakeClock, type Clock } from '../base/clock.ts';
import type { Store } from './store.ts';
import { accountTests } from './suite/accounts.ts';
import { idempotencyTests } from './suite/idempotency.ts';
import { claimTests } from './suite/claims.ts';
import { historyTests } from './suite/history.ts';
import { imageTests } from './suite/images.ts';
import { ledgerPackTests } from './suite/ledger-packs.ts';
import { ledgerRandomTests } from './suite/ledger-random.ts';
import { ledgerTests } from './suite/ledger.ts';
import { listTests } from './suite/lists.ts';
import { operationTests } from './suite/operations.ts';
import { raceTests } from './suite/races.ts';
import { routeTests } from './suite/routes.ts';
import { snapshotTests } from './suite/snapshots.ts';
import type { Bench, Declare } from './suite/support.ts';
import { vmTests } from './suite/vms.ts';

/**
 * What every store must do, whatever keeps it. `open` opens an empty one; it is closed at the end. The clock it is given
 * stands still: everything happens in one millisecond unless a test moves it.
 */
export function storeSuite(name: string, open: (clock: Clock) => Promise<Store>): void {
  describe(name, () => {
    const clock = new FakeClock();
    let bench: Bench | undefined;
    before(async () => {
      bench = { store: await open(clock), clock };
    });
    after(() => bench?.store.close());
    const declare: Declare = (title, body) => {
      test(title, async () => {
        if (!bench) throw new Error('the store was not opened');
        await body(bench);
      });
    };
    declare('it answers', ({ store }) => store.ping());
    accountTests(declare);
    imageTests(declare);
    vmTests(declare);
    listTests(declare);
    operationTests(declare);
    snapshotTests(declare);
    routeTests(declare);
    idempotencyTests(declare);
    historyTests(declare);
    claimTests(declare);
    ledgerTests(declare);
    ledgerPackTests(declare);
    ledgerRandomTests(declare);
    raceTests(declare);
  });
}
