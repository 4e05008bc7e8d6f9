import { closeSync, openSync, readFileSync, readSync, statSync } from 'node:fs';
import { probeKernel } from '../probe-kernel.ts';
import { Refused } from './calls.ts';
import { SerialConsole } from './console.ts';
import type { Knobs } from './knobs.ts';
import { osError } from './musl.ts';
import { DEFAULT_BOOT_ARGS, type Resources } from './resources.ts';

const ELF = Buffer.from('\x7fELF', 'latin1');
/** Half of what 48 bits address. */
const MOST_MIB = 2 ** 27;

function failed(why: string): Refused {
  return new Refused(`Start microvm error: ${why}`);
}

/** What a machine's making says where there is no KVM for it (KvmError, src/vmm/src/vstate/kvm.rs); null where there is. */
export function kvmProblem(kvm: Knobs['kvm']): string | null {
  if (kvm === 'well') return null;
  const why = kvm === 'denied' ? 'Permission denied (os error 13)' : 'No such file or directory (os error 2)';
  return `Kvm error: Error creating KVM object: ${why} Make sure the user launching the firecracker process is configured on the /dev/kvm file's ACL.`;
}

/** What InstanceStart finds wrong. Throws Refused; nothing is changed, so it can be mended and tried again. */
export function checkStart(resources: Resources, pci: boolean, kvm: Knobs['kvm']): void {
  const { bootSource, machine, pmem } = resources;
  if (!bootSource) throw failed('Cannot start microvm without kernel configuration.');
  if (machine.mem_size_mib > MOST_MIB)
    throw failed('Invalid Memory Configuration: Cannot create mmap region: Out of memory (os error 12)');
  if (resources.deviceCount > (pci ? 31 : 17))
    throw failed(
      pci
        ? 'Could not attach device: Error attach PCI device: Could not find an available device slot on the PCI bus.'
        : 'Could not attach device: MMIO transport error: Failed to allocate requested resource: Could not allocate GSI',
    );
  const noKvm = kvmProblem(kvm);
  if (noKvm !== null) throw failed(noKvm);
  for (const { path_on_host: path } of pmem) openPmem(path);
  const kernel = firstBytes(bootSource.kernel_image_path);
  if (!kernel.equals(ELF))
    throw failed(
      'System configuration error: Cannot load kernel due to invalid memory configuration or invalid kernel image: Kernel Loader: failed to load ELF kernel image: Invalid ELF magic number',
    );
  const { initrd_path: initrd } = bootSource;
  if (initrd !== null && statSync(initrd).size > machine.mem_size_mib * 2 ** 20)
    throw failed(
      'Error with initrd initialization: Cannot load initrd due to an invalid memory configuration..',
    );
}

function openPmem(path: string): void {
  let size: number;
  try {
    closeSync(openSync(path, 'r'));
    ({ size } = statSync(path));
  } catch (error) {
    throw failed(`Cannot create pmem device: Error accessing backing file: ${osError(error)}`);
  }
  if (size === 0) throw failed('Cannot create pmem device: Error backing file size is 0');
}

/** A kernel that was taken away between its PUT and the start is no kernel either: the real one still has it open. */
function firstBytes(path: string): Buffer {
  const found = Buffer.alloc(ELF.length);
  try {
    const fd = openSync(path, 'r');
    readSync(fd, found, 0, found.length, 0);
    closeSync(fd);
  } catch {
    return found;
  }
  return found;
}

/** Whether the kernel is the one by which Hatch tries KVM: on a processor it would reset the machine. */
export function isProbe({ bootSource }: Resources): boolean {
  const wanted = probeKernel();
  const path = bootSource?.kernel_image_path;
  return path !== undefined && statSync(path).size === wanted.length && readFileSync(path).equals(wanted);
}

/** The serial port as it is set up for the start or the load of a machine. Throws the system's error. */
export function openConsole(
  { serial }: Resources,
  count: (written: number, dropped: number) => void,
): SerialConsole {
  return new SerialConsole(serial.path, serial.limit, count);
}

/** What the kernel is told: what was given, and what Firecracker adds for its devices. */
export function commandLine({ bootSource, blocks, pmem }: Resources, pci: boolean): string {
  const words = [bootSource?.boot_args ?? DEFAULT_BOOT_ARGS];
  if (!pci) words.push('pci=off');
  const root = blocks.root?.config;
  const { partuuid } = root ?? {};
  if (root) {
    words.push(typeof partuuid === 'string' ? `root=PARTUUID=${partuuid}` : 'root=/dev/vda');
    words.push(root.is_read_only === true ? 'ro' : 'rw');
  }
  const pmemRoot = pmem.findIndex((one) => one.root_device);
  if (pmemRoot !== -1) words.push(`root=/dev/pmem${pmemRoot}`, pmem[pmemRoot]?.read_only ? 'ro' : 'rw');
  return words.join(' ');
}
