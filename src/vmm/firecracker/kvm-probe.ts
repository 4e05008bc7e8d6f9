import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { systemClock } from '../../base/clock.ts';
import { newId } from '../../base/ids.ts';
import { VmmError, type Driver } from '../driver.ts';
import { probeKernel } from './probe-kernel.ts';

const PROBE_MS = 3000;

/**
 * Finds out whether KVM runs code by having Firecracker boot a kernel that counts and resets its machine. `open` gives a
 * driver for a folder of VMs; `onRefused` is told Firecracker's words where it could not.
 */
export async function firecrackerRunsCode(
  open: (vmsFolder: string) => Promise<Driver>,
  onRefused: (why: string) => void = () => undefined,
): Promise<'runs code' | 'opens but runs nothing' | 'refused'> {
  const vms = await mkdtemp(join(tmpdir(), 'hatch-kvm-'));
  const vmId = newId('vm');
  const own = join(vms, vmId);
  try {
    await mkdir(own);
    await writeFile(join(own, 'vmlinux'), probeKernel());
    const driver = await open(vms);
    const machine = await driver.launch(
      {
        vmId,
        folder: own,
        vcpuCount: 1,
        memMib: 64,
        kernel: 'vmlinux',
        initrd: null,
        bootArgs: 'console=ttyS0',
        disks: [],
        network: null,
        machineType: null,
      },
      AbortSignal.timeout(10_000),
    );
    const over = new AbortController();
    try {
      const exit = await Promise.race([
        machine.exited,
        systemClock.sleep(PROBE_MS, over.signal).then(() => undefined),
      ]);
      if (exit === undefined) return 'opens but runs nothing';
      return exit.kind === 'reboot' ? 'runs code' : 'refused';
    } finally {
      over.abort();
      await machine.kill();
      await machine.release();
    }
  } catch (error) {
    if (!(error instanceof VmmError)) throw error;
    onRefused(error.message);
    return 'refused';
  } finally {
    await rm(vms, { recursive: true, force: true });
  }
}
