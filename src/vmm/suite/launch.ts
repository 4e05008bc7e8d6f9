import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { systemClock } from '../../base/clock.ts';
import { newId } from '../../base/ids.ts';
import { until } from '../../base/until.ts';
import { CONSOLE_FILE, VmmError, type MachineSpec } from '../driver.ts';
import type { Bench, Declare } from './bench.ts';

/** Starting a guest from its kernel, and failing to. */
export function launchCases(declare: Declare): void {
  declare('a launched guest runs, is seen under its name, and its kernel speaks', async (bench) => {
    const spec = await bench.host.fresh();
    assert.equal(await bench.isObserved(spec), false);
    const { machine } = await bench.launch(spec);
    assert.equal(machine.vmId, spec.vmId);
    assert.equal(await machine.status(), 'running');
    assert.notEqual(machine.machineType, '');
    assert.equal(machine.ramFile !== null, bench.driver.capabilities.ramFile);
    assert.deepEqual(await bench.driver.observe(), [{ vmId: spec.vmId, process: machine.process }]);
    await until({ clock: systemClock, signal: bench.patience() }, async () =>
      (await readFile(join(spec.folder, CONSOLE_FILE), 'utf8')).includes('Linux version') ? true : undefined,
    );
  });

  const missing = (what: string, change: (spec: MachineSpec) => Partial<MachineSpec>): void =>
    declare.withoutGuest(
      `without ${what} a launch fails in a sentence that names no folder`,
      async (bench) => {
        const spec = await bench.host.fresh();
        await refused(bench, { ...spec, ...change(spec) });
      },
    );
  missing('its kernel', () => ({ kernel: 'no-such-kernel' }));
  missing('its initrd', () => ({ initrd: 'no-such-initrd' }));
  missing('its disk', ({ disks }) => ({
    disks: [...disks, { path: 'no-such-disk', format: 'raw', readOnly: true }],
  }));

  declare.withoutGuest(
    'a launch fails without its tap, where taps are opened, and makes none',
    async (bench) => {
      const tap = newId('vm');
      const spec = { ...(await bench.host.fresh()), network: { tap, mac: '02:fc:00:00:00:02' } };
      if (bench.host.opensTaps) await refused(bench, spec);
      else await bench.launch(spec);
      assert.equal((await readFile('/proc/self/net/dev', 'utf8')).includes(tap), false);
    },
  );

  declare.withoutGuest('a qcow2 disk is taken or refused, as the capabilities say', async (bench) => {
    const { capabilities } = bench.driver;
    const spec = await bench.host.fresh();
    if (capabilities.qcow2) assert(spec.disks.some(({ format }) => format === 'qcow2'));
    else await refused(bench, { ...spec, disks: spec.disks.map((disk) => ({ ...disk, format: 'qcow2' })) });
  });

  declare.withoutGuest(
    'a launch that is called off leaves no process, and the next one goes on',
    async (bench) => {
      const reason = new Error('called off');
      const spec = await bench.host.fresh();
      await assert.rejects(bench.driver.launch(spec, AbortSignal.abort(reason)), reason);
      const during = new AbortController();
      const launching = bench.driver.launch(spec, during.signal);
      during.abort(reason);
      await assert.rejects(launching, reason);
      assert.equal(await bench.isObserved(spec), false);
      const { machine } = await bench.launch(spec);
      assert.equal(await machine.status(), 'running');
    },
  );
}

async function refused(bench: Bench, spec: MachineSpec): Promise<void> {
  await assert.rejects(bench.driver.launch(spec, bench.patience()), (error) => {
    assert(error instanceof VmmError, String(error));
    assert.notEqual(error.message, '');
    assert(!error.message.includes(spec.folder), error.message);
    return true;
  });
  assert.equal(await bench.isObserved(spec), false);
}
