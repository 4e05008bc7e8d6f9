import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { systemClock } from '../../base/clock.ts';
import { newId } from '../../base/ids.ts';
import { silent } from '../../base/logger.ts';
import { openAgent } from '../../guest/agent-client.ts';
import type { Machine, MachineSpec } from '../driver.ts';
import { driverSuite } from '../driver-suite.ts';
import type { DriverHost } from '../suite/bench.ts';
import { openFake } from './driver.ts';
import { endFakeGuest, runningGuests } from './state.ts';

async function fakeHost(): Promise<DriverHost> {
  const folder = await mkdtemp(join(tmpdir(), 'hatch-fake-vmm-'));
  const driver = openFake({ folder });
  const place = async (): Promise<MachineSpec> => {
    const vmId = newId('vm');
    const own = join(folder, vmId);
    await mkdir(own);
    for (const name of ['kernel', 'initrd', 'disk.raw']) await writeFile(join(own, name), '');
    return {
      vmId,
      folder: own,
      vcpuCount: 1,
      memMib: 512,
      kernel: 'kernel',
      initrd: 'initrd',
      bootArgs: driver.defaultBootArgs,
      disks: [{ path: 'disk.raw', format: 'raw', readOnly: false }],
      network: null,
      machineType: null,
    };
  };
  const launch = async (): Promise<{ readonly spec: MachineSpec; readonly machine: Machine }> => {
    const spec = await place();
    return { spec, machine: await driver.launch(spec, AbortSignal.timeout(10_000)) };
  };
  return {
    driver,
    about: 'in memory',
    reopen: async () => openFake({ folder }),
    fresh: place,
    guest: launch,
    saved: async () => {
      const { spec, machine } = await launch();
      await machine.pause();
      const [statePath, memoryPath] = [join(spec.folder, 'state'), join(spec.folder, 'memory')];
      const saved = await machine.save({ statePath, memoryPath });
      await machine.kill();
      return { spec, saved };
    },
    copyOf: place,
    agent: (machine) =>
      openAgent({ connect: (signal) => machine.agent(signal), clock: systemClock, log: silent }),
    killVmm: async (process) => {
      const found = (await runningGuests(folder)).find(({ guest }) => guest.process.pid === process.pid);
      if (!found) throw new Error('there is no such VMM');
      await endFakeGuest(found.folder, { kind: 'crashed', exitCode: null, signal: 'SIGKILL', message: '' });
    },
    opensTaps: false,
    patience: { answerMs: 10_000, silenceMs: 50 },
    dispose: () => rm(folder, { recursive: true }),
  };
}

driverSuite('the fake hypervisor', fakeHost);
