import { copyFile, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { newId } from '../../src/base/ids.ts';
import { silent } from '../../src/base/logger.ts';
import { signalProcess } from '../../src/host/process.ts';
import { run } from '../../src/host/run.ts';
import type { VmmProcess } from '../../src/model/vm.ts';
import type { Driver, Machine, MachineSpec } from '../../src/vmm/driver.ts';
import type { JailWish } from '../../src/vmm/firecracker/cages.ts';
import { openFirecracker, type FirecrackerOptions } from '../../src/vmm/firecracker/driver.ts';
import { firecrackerRunsCode } from '../../src/vmm/firecracker/kvm-probe.ts';
import { probeKernel } from '../../src/vmm/firecracker/probe-kernel.ts';
import { FIRECRACKER_DOUBLE, wrapDouble } from '../../src/vmm/firecracker/testing/wrapper.ts';
import type { DriverHost } from '../../src/vmm/suite/bench.ts';
import { agentOf, bootAndSave } from './booted-guest.ts';
import { ONLY_THE_API, type RealFirecracker } from './real-firecracker.ts';

const MEM_MIB = 128;

/**
 * A host whose Firecracker is the double: everything of the driver is real but what answers it. `version`: which release it
 * says it is; its newest unless told. `more`: how it is opened besides.
 */
export async function firecrackerHost(
  more: Pick<FirecrackerOptions, 'jail' | 'jailHost'> = {},
  version?: string,
): Promise<DriverHost> {
  const root = await mkdtemp(join(tmpdir(), 'fc-'));
  const firecrackerBin =
    version === undefined
      ? FIRECRACKER_DOUBLE
      : await wrapDouble(join(root, 'firecracker'), { FC_DOUBLE_VERSION: version });
  const about = `its double, ${standing(more)}`;
  return launchingHost({ root, firecrackerBin, about, ...more }, async (own) => {
    // The double looks at no more of a kernel than its first bytes.
    await writeFile(join(own, 'vmlinux'), '\x7fELF, and so on');
    await writeFile(join(own, 'initrd'), 'an initrd');
  });
}

/** A host on a real Firecracker, with guests of the image that was built, or none that run. Throws where it cannot be one. */
export async function realFirecrackerHost({ bin, jail, guestsRun }: RealFirecracker): Promise<DriverHost> {
  const root = await mkdtemp(join(tmpdir(), 'fc-'));
  const about = `the real one (${basename(bin)}) with ${guestsRun ? 'a real guest' : 'no guest that runs'}, ${standing({ jail })}`;
  const how = { root, firecrackerBin: bin, about, ...(jail ? { jail } : {}) };
  try {
    const verdict = await firecrackerRunsCode((folder) =>
      openFirecracker({ run, log: silent, firecrackerBin: bin, folder }),
    );
    if (!guestsRun)
      return await launchingHost(how, async (own) => {
        await writeFile(join(own, 'vmlinux'), kernelThatHalts());
        await writeFile(join(own, 'initrd'), 'an initrd');
      });
    if (verdict !== 'runs code')
      throw new Error(`KVM under ${bin} ${verdict === 'refused' ? 'is refused' : verdict}: ${ONLY_THE_API}`);
    return await bootedHost(how);
  } catch (error) {
    await rm(root, { recursive: true });
    throw error;
  }
}

type How = Pick<FirecrackerOptions, 'firecrackerBin' | 'jail' | 'jailHost'> & {
  readonly root: string;
  readonly about: string;
};

function standing({ jail }: { readonly jail?: JailWish | undefined }): string {
  return jail === undefined ? 'not jailed' : `jailed by ${basename(jail.jailerBin)}`;
}

/** What every host has, whatever its guests are. */
async function commonHost({ root, about, ...how }: How): Promise<{
  readonly folder: string;
  readonly common: Omit<DriverHost, 'fresh' | 'guest' | 'saved' | 'copyOf' | 'patience'>;
}> {
  const folder = join(root, 'vms');
  await mkdir(folder);
  const reopen = (): Promise<Driver> => openFirecracker({ run, log: silent, folder, ...how });
  const common = {
    driver: await reopen(),
    about,
    reopen,
    agent: agentOf,
    killVmm: async (process: VmmProcess) => void (await signalProcess(process, 'SIGKILL')),
    opensTaps: true,
    dispose: () => rm(root, { recursive: true }),
  };
  return { folder, common };
}

/** Guests of the image that was built, as forks of one that was booted. */
async function bootedHost(how: How): Promise<DriverHost> {
  const { folder, common } = await commonHost(how);
  const booted = await bootAndSave(common.driver, folder);
  return {
    ...common,
    fresh: () => booted.fresh(),
    guest: async () => {
      const guest = await booted.fork();
      // The suite has its own, one at a time.
      guest.agent.close();
      return guest;
    },
    saved: async () => booted,
    copyOf: (spec) => booted.copyOf(spec),
    patience: { answerMs: 60_000, silenceMs: 700 },
    dispose: async () => {
      await booted.remove();
      await common.dispose();
    },
  };
}

/** Each guest is launched when it is wanted; `putKernel` puts `vmlinux` and `initrd` into a VM's folder. */
async function launchingHost(how: How, putKernel: (own: string) => Promise<void>): Promise<DriverHost> {
  const { folder, common } = await commonHost(how);
  const { driver } = common;
  const fresh = async (): Promise<MachineSpec> => {
    const vmId = newId('vm');
    const own = join(folder, vmId);
    await mkdir(own);
    await putKernel(own);
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
    ...common,
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
    patience: { answerMs: 20_000, silenceMs: 300 },
  };
}

/** A kernel that halts where the one that tries KVM resets the machine: it is there as long as its VMM is. */
function kernelThatHalts(): Buffer {
  const kernel = probeKernel();
  const reset = kernel.indexOf(Buffer.from([0xe6, 0x64]));
  // Two instructions that do nothing, before the one that waits for ever.
  kernel.set([0x90, 0x90], reset);
  return kernel;
}
