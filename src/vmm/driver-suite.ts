import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { adoptionCases } from './suite/adoption.ts';
import { Bench, type Declare, type DriverHost } from './suite/bench.ts';
import { endCases } from './suite/ends.ts';
import { launchCases } from './suite/launch.ts';
import { lifeCases } from './suite/life.ts';
import { loadCases } from './suite/load.ts';
import { saveCases } from './suite/save.ts';
import { saveRunningCases } from './suite/save-running.ts';

export interface SuiteOptions {
  /** Declares what only this driver does. */
  readonly own?: (declare: Declare) => void;
  /** false: no code runs in its guests, so what needs that is left out, and the run says what by name. */
  readonly guestsRun?: boolean;
}

/**
 * What every driver must do, whatever hypervisor it drives. It asks the driver's `capabilities`, never its name. One host
 * serves all cases; each has guests of its own, and none may leave a VMM behind.
 */
export function driverSuite(
  name: string,
  openHost: () => Promise<DriverHost>,
  { own = () => undefined, guestsRun = true }: SuiteOptions = {},
): void {
  // One case after the other, also where several suites run side by side: each case looks at all VMMs of its host.
  describe(name, { concurrency: 1 }, () => {
    let open: DriverHost | undefined;
    before(async () => {
      open = await openHost();
    });
    after(() => open?.dispose());
    const opened = (): DriverHost => {
      if (!open) throw new Error('the host was not opened');
      return open;
    };
    const leftOut: string[] = [];
    const declareCase: Declare['withoutGuest'] = (title, body) => {
      test(title, async () => {
        const bench = new Bench(opened());
        try {
          await body(bench);
        } finally {
          await bench.tidy();
        }
        assert.deepEqual(await bench.driver.observe(), [], 'a VMM is left');
      });
    };
    const declare: Declare = Object.assign(
      (title: string, body: (bench: Bench) => Promise<void>) => {
        if (guestsRun) declareCase(title, body);
        else leftOut.push(title);
      },
      { withoutGuest: declareCase },
    );
    test('it says what it is, and so does the next daemon’s', async (t) => {
      const host = opened();
      const { driver, about } = host;
      assert.match(driver.version, /\d/);
      const next = await host.reopen();
      assert.deepEqual(
        [next.name, next.version, next.accel, next.capabilities],
        [driver.name, driver.version, driver.accel, driver.capabilities],
      );
      t.diagnostic(`${name}: ran on ${driver.name} ${driver.version} (${driver.accel}), ${about}`);
    });
    launchCases(declare);
    lifeCases(declare);
    endCases(declare);
    adoptionCases(declare);
    saveCases(declare);
    saveRunningCases(declare);
    loadCases(declare);
    own(declare);
    if (guestsRun) return;
    test('what needs code to run in a guest is left out by name', (t) => {
      assert.notEqual(leftOut.length, 0);
      for (const title of leftOut) t.diagnostic(`${name}: left out, no code runs in its guests: ${title}`);
    });
  });
}
