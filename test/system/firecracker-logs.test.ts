import assert from 'node:assert/strict';
import { appendFile, open, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { systemClock } from '../../src/base/clock.ts';
import { until } from '../../src/base/until.ts';
import { JAILER_DOUBLE } from '../../src/vmm/firecracker/testing/wrapper.ts';
import { Bench } from '../../src/vmm/suite/bench.ts';
import { firecrackerHost } from '../support/firecracker-host.ts';

/** What Firecracker writes besides the console, while its guest runs. */

const MIB = 1024 * 1024;
const LIMIT = MIB;

for (const jailed of [false, true])
  test(`the log and the output of a ${jailed ? 'jailed ' : ''}Firecracker do not grow without bound, and it goes on`, async (t) => {
    t.mock.timers.enable({ apis: ['setInterval'] });
    const uids = { min: 61_000, max: 64_999 };
    const host = await firecrackerHost(
      jailed ? { jail: { mode: 'on', jailerBin: JAILER_DOUBLE, uids } } : {},
    );
    const bench = new Bench(host);
    try {
      const { spec, machine } = await bench.guest();
      const [log, output] = [join(spec.folder, 'fc.log'), join(spec.folder, 'vmm.log')] as const;
      const size = async (path: string): Promise<number> => (await stat(path)).blocks * 512;
      const flood = 'a warning\n'.repeat(400_000);
      for (let round = 0; round < 3; round++) {
        await appendFile(output, flood);
        // As Firecracker does, which writes on where it stands.
        const writer = await open(log, 'r+');
        await writer.write(`${flood}the last of round ${round}\n`, (await stat(log)).size);
        await writer.close();
        assert.ok((await size(log)) > 3 * MIB && (await size(output)) > 3 * MIB);
        t.mock.timers.tick(15_000);
        await until({ clock: systemClock, signal: AbortSignal.timeout(10_000) }, async () =>
          (await size(log)) <= LIMIT && (await size(output)) <= LIMIT ? true : undefined,
        );
      }
      assert.match((await readFile(log, 'latin1')).slice(-100), /a warning\nthe last of round 2\n$/);
      assert.equal(await machine.status(), 'running');
      await bench.host.killVmm(machine.process);
      await bench.exit(machine);
    } finally {
      await bench.tidy();
      await host.dispose();
    }
  });
