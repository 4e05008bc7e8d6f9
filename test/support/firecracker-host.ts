import { copyFile, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { newId } from '../../src/base/ids.ts';
import { silent } from '../../src/base/logger.ts';
import { systemClock } from '../../src/base/clock.ts';
import { openAgent } from '../../src/guest/agent-client.ts';
import { signalProcess } from '../../src/host/process.ts';
import { run } from '../../src/host/run.ts';
import type { Driver, Machine, MachineSpec } from '../../src/vmm/driver.ts';
import { openFirecracker, type FirecrackerOptions } from '../../src/vmm/firecracker/driver.ts';
import { FIRECRACKER_DOUBLE } from '../../src/vmm/firecracker/testing/wrapper.ts';
import type { DriverHost } from '../../src/vmm/suite/bench.ts';

const MEM_MIB = 128;

/**
 * A host whose Firecracker is the double: everything of the driver is real but what answers it. `more`: how it is opened besides.
 */
export async function firecrackerHost(
  more: Pick<FirecrackerOptions, 'jail' | 'jailHost'> = {},
): Promise<DriverHost> {
  const root = await mkdtemp(join(tmpdir(), 'fc-'));
  const folder = join(root, 'vms');
  await mkdir(folder);
  const open = (): Promise<Driver> =>
    openFirecracker({ run, log: silent, firecrackerBin: FIRECRACKER_DOUBLE, folder, ...more });
  const driver = await open();
  const fresh = async (): Promise<MachineSpec> => {
    const vmId = newId('vm');
    const own = join(folder, vmId);
    await mkdir(own);
    // The double looks at no more of a kernel than its first bytes.
    await writeFile(join(own, 'vmlinux'), '\x7fELF, and so on');
    await writeFile(join(own, 'initrd'), 'an initrd');
    for (const disk of ['disk.raw', 'seed.iso']) await writeFile(join(own, disk), Buffer.alloc(1024 * 1024));
    return {
      vmId,
      folder: own,
      vcpuCount: 1,
      memMib: MEM_MIB,
      kernel: 'vmlinux',
      initrd: 'initrd',
      bootArgs: driver.defaultBootArgs,
      disks: [
        { path: 'disk.raw', format: 'raw', readOnly: false },
        { path: 'seed.iso', format: 'raw', readOnly: true },
      ],
      network: null,
      machineType: null,
    };
  };
  const launch = async (): Promise<{ readonly spec: MachineSpec; readonly machine: Machine }> => {
    const spec = await fresh();
    const machine = await driver.launch(spec, AbortSignal.timeout(30_000));
    return { spec, machine };
  };
  let saved: Awaited<ReturnType<DriverHost['saved']>> | undefined;
  return {
    driver,
    reopen: open,
    fresh,
    guest: launch,
    saved: async () => {
      if (saved) return saved;
      const { spec, machine } = await launch();
      await machine.pause();
      const [statePath, memoryPath] = [join(spec.folder, 'state'), join(spec.folder, 'memory')];
      saved = { spec, saved: await machine.save({ statePath, memoryPath }) };
      await machine.kill();
      return saved;
    },
    copyOf: async (spec) => {
      const copy = await fresh();
      for (const { path } of spec.disks) await copyFile(join(spec.folder, path), join(copy.folder, path));
      return copy;
    },
    agent: (machine) =>
      openAgent({ connect: (signal) => machine.agent(signal), clock: systemClock, log: silent }),
    killVmm: async (process) => void (await signalProcess(process, 'SIGKILL')),
    opensTaps: true,
    patience: { answerMs: 20_000, silenceMs: 300 },
    dispose: () => rm(root, { recursive: true }),
  };
}
