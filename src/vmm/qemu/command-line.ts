import type { Argv } from '../../host/run.ts';
import type { MachineSpec } from '../driver.ts';
import { CONSOLE_FILE } from '../driver.ts';

/** What of a QEMU is the host's choice, not the VM's. */
export interface QemuChoice {
  readonly bin: string;
  readonly accel: 'kvm' | 'tcg';
  readonly cpu: string;
  /** The versioned name (`pc-q35-7.2`), never the alias: a saved state loads only into the same. */
  readonly machineType: string;
  /** As QEMU says it: `7.2.22`. */
  readonly version: string;
  /** Whom it becomes once it has all open, and with that group alone; null: it stays who starts it. */
  readonly user: number | null;
}

/** Files of a VM's folder, by the names QEMU is given: it runs in that folder. */
export const RAM_FILE = 'mem.bin';
export const QMP_SOCKET = 'qmp.sock';
/** A second monitor, on which nothing is ever asked (monitors.ts says why). */
export const EVENTS_SOCKET = 'events.sock';
export const AGENT_SOCKET = 'agent.sock';

/** What QEMU calls the guest's first disk. */
export const FIRST_DISK = 'disk0';

/** Where the guest's memory comes from. */
export type Memory =
  | { readonly kind: 'own' }
  /** Another machine's memory, `shared` to go on in, or a private copy-on-write map of it. */
  | { readonly kind: 'loaded'; readonly file: string; readonly mapping: 'private' | 'shared' }
  /** The memory comes with the state; the file starts empty. */
  | { readonly kind: 'in-state' };

/** Under emulation QEMU keeps translated code; unbounded it grows larger than the guest. MiB. */
const TB_SIZE_MIB = 128;

/** QEMU's arguments for a machine; every path in them is relative to the VM's folder. */
export function commandLine(choice: QemuChoice, spec: MachineSpec, memory: Memory): Argv {
  const accel = choice.accel === 'kvm' ? 'kvm' : `tcg,thread=multi,tb-size=${TB_SIZE_MIB}`;
  const [file, share] =
    memory.kind === 'loaded' ? [memory.file, memory.mapping === 'shared' ? 'on' : 'off'] : [RAM_FILE, 'on'];
  return [
    choice.bin,
    ...['-name', nameOf(spec.vmId)],
    ...['-machine', `${choice.machineType},memory-backend=ram0,usb=off,vmport=off,dump-guest-core=off`],
    ...['-accel', accel],
    ...['-cpu', choice.cpu],
    ...['-smp', String(spec.vcpuCount)],
    ...['-m', `${spec.memMib}M`],
    ...[
      '-object',
      `memory-backend-file,id=ram0,size=${spec.memMib}M,mem-path=${escape(file)},share=${share}`,
    ],
    ...['-nodefaults', '-no-user-config', '-no-reboot'],
    ...['-display', 'none'],
    ...confinement(choice),
    ...['-kernel', spec.kernel],
    ...(spec.initrd === null ? [] : ['-initrd', spec.initrd]),
    ...['-append', spec.bootArgs],
    ...['-chardev', `file,id=console,path=${CONSOLE_FILE},append=on`],
    ...['-serial', 'chardev:console'],
    ...[QMP_SOCKET, EVENTS_SOCKET].flatMap((path, i) => [
      ...['-chardev', `socket,id=qmp${i},path=${path},server=on,wait=off`],
      ...['-mon', `chardev=qmp${i},mode=control`],
    ]),
    ...spec.disks.flatMap(({ path, format, readOnly }, i) => [
      '-drive',
      `if=none,id=disk${i},file=${escape(path)},format=${format},readonly=${readOnly ? 'on' : 'off'},discard=unmap,cache=writeback`,
      '-device',
      `virtio-blk-pci,drive=disk${i}`,
    ]),
    ...(spec.network === null
      ? []
      : [
          '-netdev',
          `tap,id=net0,ifname=${spec.network.tap},script=no,downscript=no`,
          '-device',
          `virtio-net-pci,netdev=net0,mac=${spec.network.mac},romfile=`,
        ]),
    ...['-device', 'virtio-serial-pci'],
    ...['-chardev', `socket,id=agent,path=${AGENT_SOCKET},server=on,wait=off`],
    ...['-device', 'virtserialport,chardev=agent,name=org.qemu.guest_agent.0'],
    ...['-device', 'virtio-rng-pci'],
    // Another at every start: a kernel with the driver reseeds its random state by itself when it finds itself loaded.
    ...['-device', 'vmgenid,guid=auto'],
    // It stands still until it was looked at; and one that was saved while it ran would go on as soon as it is loaded.
    '-S',
    ...(memory.kind === 'own' ? [] : ['-incoming', 'defer']),
  ];
}

/**
 * QEMU's seccomp filter, and the user it becomes after it has opened all it was started with and before it hears a word of its monitors. Where
 * it has to become somebody else the filter cannot forbid that; it has no capability then and can get none (NoNewPrivs).
 */
function confinement({ version, user }: QemuChoice): readonly string[] {
  const filter = 'on,obsolete=deny,spawn=deny,resourcecontrol=deny';
  if (user === null) return ['-sandbox', `${filter},elevateprivileges=deny`];
  const [major = 0, minor = 0] = version.split('.').map(Number);
  const newer = major > 9 || (major === 9 && minor >= 1);
  return [
    '-sandbox',
    filter,
    ...(newer ? ['-run-with', `user=${user}:${user}`] : ['-runas', `${user}:${user}`]),
  ];
}

/** How a VM's QEMU is called, so that it is known by its command line alone. */
export function nameOf(vmId: string): string {
  return `hatch-${vmId}`;
}

/** QEMU's option lists double a comma that belongs to a value. */
function escape(value: string): string {
  return value.replaceAll(',', ',,');
}
