import type { Duplex } from 'node:stream';
import type { VmId } from '../base/ids.ts';
import type { VmmProcess } from '../model/vm.ts';

/**
 * What Hatch asks of a hypervisor. QEMU, Firecracker and the fake one are each a Driver; one suite
 * (vmm/driver-suite.ts) holds them all to it. Ops ask `capabilities`, never the name.
 *
 * A driver keeps nothing in memory that matters: the VM's process outlives the daemon, and `adopt` finds it again.
 *
 * What fails rejects with a VmmError, or with the signal's reason when it was aborted.
 */
export interface Driver {
  readonly name: 'qemu' | 'firecracker' | 'fake';
  /** The hypervisor's version, as it says itself. */
  readonly version: string;
  /** `kvm` only where KVM was seen to run code. */
  readonly accel: 'kvm' | 'tcg' | 'none';
  /** The processor guests see: what was saved on one goes on only on its like. */
  readonly cpu: { readonly model: string; readonly flags: readonly string[] };
  readonly capabilities: Capabilities;
  /** Kernel arguments for an image that brings none of its own. */
  readonly defaultBootArgs: string;
  /** Which of an image's kernels it boots. */
  readonly kernel: 'compressed' | 'uncompressed';

  /** Starts a guest from its kernel. Resolves when the VMM runs it; when it rejects, no process is left behind. */
  launch(spec: MachineSpec, signal: AbortSignal): Promise<Machine>;

  /**
   * Takes up a guest whose VMM was started by a daemon before us. Gives undefined when that process is gone (pid, start
   * time or boot id do not match) or is not this VM's. One that is there and does not answer is left as it is, and VmmError
   * `timeout` thrown: `reap` ends it.
   */
  adopt(spec: MachineSpec, process: VmmProcess, signal: AbortSignal): Promise<Machine | undefined>;

  /**
   * Starts a guest from what `save` wrote; when it rejects, no process is left behind. `spec` has the devices of the saved
   * one; its tap and its disks' files may be others. The guest keeps the MAC it was saved with, whatever `spec` says, until it is
   * given another from inside. Throws VmmError `incompatible` for a state that cannot load here.
   */
  load(spec: MachineSpec, saved: SavedMachine, options: LoadOptions, signal: AbortSignal): Promise<Machine>;

  /** Every VMM process of ours on this host, by its VM's name in its command line: leaks are found without the database. */
  observe(): Promise<readonly { readonly vmId: VmId; readonly process: VmmProcess }[]>;

  /** Ends a VMM process found by `observe` that belongs to no row, and resolves when it is gone. */
  reap(process: VmmProcess): Promise<void>;

  /**
   * Removes what it made for a VM and what is worth nothing once the machine has ended: its memory, its sockets, its jail. The VM's
   * folder may be gone. Twice is as good as once.
   */
  clear(vm: Pick<MachineSpec, 'vmId' | 'folder'>): Promise<void>;

  /** The user a VM's tap must belong to so that its VMM can open it; null: any will do. The VM's folder is there. */
  tapOwner(vm: Pick<MachineSpec, 'vmId' | 'folder'>): Promise<number | null>;
}

export interface Capabilities {
  /** Can save and load whole machines. */
  readonly snapshot: boolean;
  /** The memory of a running guest lies in a file of its own folder (`Machine.ramFile`), so `save` need not write it. */
  readonly ramFile: boolean;
  /** Can map one memory file privately into many guests. */
  readonly privateMapping: boolean;
  /** Can tell which pages were written since the last save. */
  readonly dirtyPages: boolean;
  /** Overlay disks (qcow2) besides raw ones. */
  readonly qcow2: boolean;
  /** How the agent in the guest is reached. */
  readonly agent: 'virtio-serial' | 'vsock' | 'memory';
  /** The host's power button reaches the guest (ACPI); where not, the agent or ctrl-alt-del must do. */
  readonly powerButton: boolean;
  /**
   * The agent answers after a pause (and a save) and a resume as it did before. Where not, a guest that is to go on after
   * either must be loaded anew from what was saved.
   */
  readonly resumeKeepsAgent: boolean;
  /** `Machine.saveRunning`. */
  readonly savesRunning: boolean;
}

/** A machine to be. Every path is relative to `folder`, which is the VMM's working folder and the VM's own. */
export interface MachineSpec {
  readonly vmId: VmId;
  /** Absolute path of the VM's folder: it exists, and whatever the VMM makes lies in it. */
  readonly folder: string;
  readonly vcpuCount: number;
  readonly memMib: number;
  readonly kernel: string;
  readonly initrd: string | null;
  readonly bootArgs: string;
  /** In the guest: vda, vdb... in this order. */
  readonly disks: readonly DiskSpec[];
  readonly network: { readonly tap: string; readonly mac: string } | null;
  /** The name of the versioned machine type it first ran on, if it has run; null: the driver's newest. */
  readonly machineType: string | null;
}

export interface DiskSpec {
  readonly path: string;
  readonly format: 'raw' | 'qcow2';
  readonly readOnly: boolean;
  /** Absolute paths of the frozen disks below it; a `base` beside any of them, and beside it, leads to their image. undefined: not known. */
  readonly over?: readonly string[];
}

/** The serial console's file in a VM's folder; the VMM opens it to append, so it may be cut while the guest runs. */
export const CONSOLE_FILE = 'console.log';

/** A guest that runs, is paused, or has just ended. */
export interface Machine {
  readonly vmId: VmId;
  readonly process: VmmProcess;
  /** The versioned machine type (`pc-q35-7.2`), to be recorded: a saved state loads only into the same. */
  readonly machineType: string;
  /** Absolute path of the file that holds the guest's memory, or null where it lies in the VMM's own. */
  readonly ramFile: string | null;

  /**
   * Resolves once, when the guest or its VMM has ended, with the best account of why; also for an adopted machine. Never after
   * `release`.
   */
  readonly exited: Promise<MachineExit>;

  /** Lets the guest stand still; it loses its clock for the while. No effect when paused. */
  pause(): Promise<void>;
  /** Lets a paused guest go on. No effect when it runs. */
  resume(): Promise<void>;
  /** Whether the guest runs or stands still, as the VMM says. */
  status(): Promise<'running' | 'paused'>;

  /**
   * Calls `hear` with true when the guest begins to stand still because what it wrote found no room on the host's disk, also where it does
   * already, and with false when it has gone on: it does so by itself within seconds of there being room, and nothing is lost. Never where
   * the VMM tells the guest of an error instead. One listener.
   */
  onNoSpace(hear: (lacking: boolean) => void): void;

  /**
   * Writes a paused machine's state to the absolute path `statePath`, and its memory to `memoryPath` where it does not
   * lie in `ramFile` already. The guest stays paused and can go on; it must, before it is saved again. Nothing is flushed to
   * the disk itself. When it rejects (`no_space` among others), no state is left behind and the guest can go on.
   */
  save(to: { readonly statePath: string; readonly memoryPath: string }): Promise<SavedMachine>;

  /**
   * Saves a guest that goes on afterwards: of its memory as much as can be is written while it runs. Calls `still` while it stands still: it goes on when
   * that lets it, and it does not wait for what is saved to be all in its file, as this does. Its memory is a copy of its own: in
   * the state (`memoryPath` null) or in `memoryPath`, never in `ramFile`. Only with `capabilities.savesRunning`. Else as `save`;
   * what `still` throws fails it.
   */
  saveRunning(
    to: { readonly statePath: string; readonly memoryPath: string },
    still: () => Promise<void>,
  ): Promise<SavedMachine>;

  /**
   * The first disk of a paused guest stays as it is, and the guest writes from now on to an overlay (relative to the folder) that stands
   * on it. The disk's old name in the folder may go afterwards, not before. Only with `capabilities.qcow2`.
   */
  switchDisk(overlay: string): Promise<void>;
  /** The file the guest's first disk is written to, relative to the folder. Only with `capabilities.qcow2`. */
  diskFile(): Promise<string>;

  /** Offsets and lengths, in bytes, of memory written since the last save. Only with `capabilities.dirtyPages`. */
  dirtyPages(): Promise<readonly { readonly offset: number; readonly length: number }[]>;

  /** A byte stream to the agent in the guest. One at a time; nothing says whether anyone is at the other end. */
  agent(signal: AbortSignal): Promise<Duplex>;

  counters(): Promise<MachineCounters>;

  /**
   * Bytes of the host's memory that its process holds, guest memory included; of what it shares with other processes, its part. So the sum
   * over all guests is what they take, also where many stand on one memory file. Asks the host alone, not the VMM.
   */
  heldBytes(): Promise<number>;

  /** Presses the power button, where there is one. Returns at once; `exited` tells when it worked. */
  powerButton(): Promise<void>;
  /** Ends the VMM now. Resolves when the process is gone. No failure when it is gone already. */
  kill(): Promise<void>;
  /** Lets go of sockets and timers; the guest runs on. For the daemon's own end. */
  release(): Promise<void>;
}

export interface MachineCounters {
  /** Since the VMM was started. */
  readonly uptimeSeconds: number;
  readonly cpuSeconds: number;
  /** Resident bytes of the VMM, guest memory included. */
  readonly rssBytes: number;
  readonly blockReadBytes: number;
  readonly blockWriteBytes: number;
}

/** Why a machine ended. */
export type MachineExit =
  | { readonly kind: 'poweroff' }
  | { readonly kind: 'reboot' }
  /** The guest's kernel panicked; the last lines it wrote. */
  | { readonly kind: 'panic'; readonly console: string }
  /** The VMM ended by itself without the guest having asked. */
  | {
      readonly kind: 'crashed';
      readonly exitCode: number | null;
      readonly signal: string | null;
      readonly message: string;
    }
  /** `kill` was called. */
  | { readonly kind: 'killed' };

export interface SavedMachine {
  readonly driver: Driver['name'];
  /** Of the VMM that made it. */
  readonly version: string;
  /** Loads only into the same. */
  readonly machineType: string;
  readonly accel: string;
  readonly vcpuCount: number;
  readonly memMib: number;
  /** Absolute path of the device state. */
  readonly statePath: string;
  /** Absolute path of the memory file (the machine's own `ramFile`, or what `save` wrote); null: it is in the state. */
  readonly memoryPath: string | null;
}

export interface LoadOptions {
  /**
   * `private`: the memory file is mapped copy-on-write and must stay unchanged while the guest lives (only with
   * `capabilities.privateMapping`); `shared`: the guest goes on in that very file (only with `capabilities.ramFile`).
   */
  readonly mapping: 'private' | 'shared';
  /** false: loaded and left paused. */
  readonly resume: boolean;
  /** Called when the process has been asked for: what is done from then on does not keep it waiting. */
  readonly launching?: (() => void) | undefined;
}

/** What went wrong with a hypervisor: what was asked, what it answered, its last words. */
export class VmmError extends Error {
  override readonly name = 'VmmError';
  /** The last lines of the VMM's own output, for the log. */
  readonly output: string;
  /** `no_space` and `missing` have their own remedies; `unbootable`: the image has no kernel this hypervisor boots. */
  readonly kind: 'failed' | 'missing' | 'no_space' | 'incompatible' | 'unbootable' | 'timeout';

  constructor(message: string, fields: { kind?: VmmError['kind']; output?: string; cause?: unknown } = {}) {
    super(message, { cause: fields.cause });
    this.kind = fields.kind ?? 'failed';
    this.output = fields.output ?? '';
  }
}
