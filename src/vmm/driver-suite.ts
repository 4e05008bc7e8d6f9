import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { adoptionCases } from './suite/adoption.ts';
import { Bench, type Declare, type DriverHost } from './suite/bench.ts';
import { endCases } from './suite/ends.ts';
import { launchCases } from './suite/launch.ts';
import { lifeCases } from './suite/life.ts';
import { loadCases } from './suite/load.ts';
import { saveCases } from './suite/save.ts';

/**
 * What every driver must do, whatever hypervisor it drives. It asks the driver's `capabilities`, never its name. One host
 * serves all cases; each has guests of its own, and none may leave a VMM behind. `own` declares what only this driver does.
 */
export function driverSuite(
  name: string,
  openHost: () => Promise<DriverHost>,
  own: (declare: Declare) => void = () => undefined,
): void {
  describe(name, () => {
    let host: DriverHost | undefined;
    before(async () => {
      host = await openHost();
    });
    after(() => host?.dispose());
    const declare: Declare = (title, body) => {
      test(title, async () => {
        if (!host) throw new Error('the host was not opened');
        const bench = new Bench(host);
        try {
          await body(bench);
        } finally {
          await bench.tidy();
        }
        assert.deepEqual(await host.driver.observe(), [], 'a VMM is left');
      });
    };
    launchCases(declare);
    lifeCases(declare);
    endCases(declare);
    adoptionCases(declare);
    saveCases(declare);
    loadCases(declare);
    own(declare);
  });
}
