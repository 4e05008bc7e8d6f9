import { readdir, readlink, symlink } from 'node:fs/promises';
import { isAbsolute, join } from 'node:path';
import { systemClock } from '../../base/clock.ts';
import { deadline } from '../../base/deadline.ts';
import type { VmId } from '../../base/ids.ts';
import type { Logger } from '../../base/logger.ts';
import { until } from '../../base/until.ts';
import { isErrno, remove, tail } from '../../host/files.ts';
import {
  commandLine as argvOf,
  identify,
  isAlive,
  spawnDetached,
  type Detached,
} from '../../host/process.ts';
import { CommandFailed, type Run } from '../../host/run.ts';
import type { VmmProcess } from '../../model/vm.ts';
import {
  VmmError,
  type Driver,
  type LoadOptions,
  type Machine,
  type MachineSpec,
  type SavedMachine,
} from '../driver.ts';
import {
  AGENT_SOCKET,
  commandLine,
  QMP_SOCKET,
  RAM_FILE,
  type Memory,
  type QemuChoice,
} from './command-line.ts';
import { kvmVerdict } from './kvm-probe.ts';
import { endQemu, valueAfter, vmOfQemu } from './processes.ts';
import { LOG_FILE, markConsole, qmpPath, QemuMachine, socketPath } from './machine.ts';
import { Qmp, type QmpEvent } from './qmp.ts';
import { sendState } from './state-stream.ts';

export interface QemuOptions {
  readonly run: Run;
  readonly log: Logger;
  readonly qemuBin: string;
  /** null: `host` under KVM, `max` under emulation. */
  readonly cpu: string | null;
  /** Absolute path of the folder all VM folders lie in. */
  readonly folder: string;
  /** Where the verdict on KVM is kept, for this boot of the host. */
  readonly kvmVerdictFile: string;
}

/** The name in a VM's folder of another machine's memory. */
const LOADED_RAM = 'loaded.bin';
const LAUNCH_MS = 60_000;
const LOAD_MS = 600_000;
/** Kernel arguments every image of ours boots with; `panic=-1 reboot=t` makes a panic an end, not a hang. */
const BOOT_ARGS = 'console=ttyS0 reboot=t panic=-1 root=/dev/vda rw rootfstype=ext4 net.ifnames=0';

/**
 * QEMU's q35 machine with virtio over PCI, under KVM where KVM runs code, else emulated. (Its `microvm` machine hangs or panics
 * under emulation.) Throws VmmError `missing` when QEMU is not installed.
 */
export async function openQemu(options: QemuOptions): Promise<Driver> {
  const { version, machineType } = await ask(options);
  const verdict = await kvmVerdict({ ...options, machineType });
  const accel = verdict.usable ? 'kvm' : 'tcg';
  options.log.info({ version, machineType, accel, kvm: verdict.reason }, 'QEMU');
  const choice: QemuChoice = {
    bin: options.qemuBin,
    accel,
    cpu: options.cpu ?? (accel === 'kvm' ? 'host' : 'max'),
    machineType,
  };
  return new QemuDriver(options.folder, choice, version);
}

async function ask({
  run,
  qemuBin,
}: QemuOptions): Promise<{ readonly version: string; readonly machineType: string }> {
  try {
    const { stdout: said } = await run([qemuBin, '--version']);
    const { stdout: machines } = await run([qemuBin, '-machine', 'help']);
    const version = /version (\d+\.\d+(?:\.\d+)?)/.exec(said)?.[1];
    // "q35  Standard PC (Q35 + ICH9, 2009) (alias of pc-q35-7.2)"
    const machineType = /^q35\s.*\(alias of (pc-q35-[\w.]+)\)/m.exec(machines)?.[1];
    if (version === undefined || machineType === undefined)
      throw new VmmError(`${qemuBin} does not say its version or has no q35 machine`);
    return { version, machineType };
  } catch (error) {
    if (error instanceof CommandFailed && error.missing) {
      throw new VmmError(`QEMU (${qemuBin}) is not installed; install the package qemu-system-x86`, {
        kind: 'missing',
        cause: error,
      });
    }
    throw error;
  }
}

class QemuDriver implements Driver {
  readonly name = 'qemu';
  readonly version: string;
  readonly accel: 'kvm' | 'tcg';
  readonly capabilities = {
    snapshot: true,
    ramFile: true,
    privateMapping: true,
    dirtyPages: false,
    qcow2: true,
    agent: 'virtio-serial',
    powerButton: true,
  } as const;
  readonly defaultBootArgs = BOOT_ARGS;
  readonly scratchFiles = [RAM_FILE, LOADED_RAM, QMP_SOCKET, AGENT_SOCKET];
  readonly kernel = 'compressed';
  readonly #folder: string;
  readonly #choice: QemuChoice;

  constructor(folder: string, choice: QemuChoice, version: string) {
    this.#folder = folder;
    this.#choice = choice;
    this.version = version;
    this.accel = choice.accel;
  }

  async launch(spec: MachineSpec, signal: AbortSignal): Promise<Machine> {
    await remove(join(spec.folder, RAM_FILE));
    return this.#start(
      spec,
      { kind: 'own' },
      spec.machineType ?? this.#choice.machineType,
      join(spec.folder, RAM_FILE),
      signal,
    );
  }

  async load(
    spec: MachineSpec,
    saved: SavedMachine,
    { mapping, resume }: LoadOptions,
    signal: AbortSignal,
  ): Promise<Machine> {
    this.#mustFit(spec, saved);
    const memory = await this.#memoryFor(spec, saved, mapping);
    const ramFile =
      memory.kind === 'in-state'
        ? join(spec.folder, RAM_FILE)
        : mapping === 'shared'
          ? saved.memoryPath
          : null;
    return this.#start(spec, memory, saved.machineType, ramFile, signal, async (qmp, process) => {
      await qmp.execute('migrate-set-capabilities', {
        capabilities: [{ capability: 'x-ignore-shared', state: memory.kind === 'loaded' }],
      });
      const connectTo = (socket: string): string => socketPath(process, socket);
      await sendState({ statePath: saved.statePath, connectTo, signal }, async (socket) => {
        await qmp.execute('migrate-incoming', { uri: `unix:${socket}` });
      });
      await deadline(
        'loading the machine',
        LOAD_MS,
        (within) =>
          until({ clock: systemClock, signal: within }, () => loaded(qmp), { firstMs: 1, mostMs: 50 }),
        signal,
      );
      await remove(join(spec.folder, 'state.sock'));
      if (resume) await qmp.execute('cont');
    });
  }

  #mustFit(spec: MachineSpec, saved: SavedMachine): void {
    const { machineType, accel } = this.#choice;
    if (saved.driver !== 'qemu' || saved.accel !== accel) {
      throw new VmmError(
        `A state saved by ${saved.driver} under ${saved.accel} does not load under ${this.name} with ${accel}.`,
        { kind: 'incompatible' },
      );
    }
    if (saved.vcpuCount !== spec.vcpuCount || saved.memMib !== spec.memMib) {
      throw new VmmError(
        `The state has ${saved.vcpuCount} vCPUs and ${saved.memMib} MiB; the machine must have as many.`,
        { kind: 'incompatible' },
      );
    }
    // A newer QEMU knows older machine types; one of a newer QEMU than ours it does not.
    if (compareTypes(saved.machineType, machineType) > 0) {
      throw new VmmError(
        `The state was saved on ${saved.machineType}; this QEMU knows machines up to ${machineType}.`,
        { kind: 'incompatible' },
      );
    }
  }

  async #memoryFor(spec: MachineSpec, saved: SavedMachine, mapping: LoadOptions['mapping']): Promise<Memory> {
    if (saved.memoryPath === null) {
      await remove(join(spec.folder, RAM_FILE));
      return { kind: 'in-state' };
    }
    if (saved.memoryPath === join(spec.folder, RAM_FILE)) return { kind: 'loaded', file: RAM_FILE, mapping };
    if (!isAbsolute(saved.memoryPath))
      throw new VmmError('the memory file must be named by its absolute path');
    await remove(join(spec.folder, LOADED_RAM));
    await symlink(saved.memoryPath, join(spec.folder, LOADED_RAM));
    return { kind: 'loaded', file: LOADED_RAM, mapping };
  }

  /** Starts a QEMU, connects, does `prepare`, and hands it over; whatever fails, no process is left. */
  async #start(
    spec: MachineSpec,
    memory: Memory,
    machineType: string,
    ramFile: string | null,
    signal: AbortSignal,
    prepare: (qmp: Qmp, process: VmmProcess) => Promise<void> = async () => undefined,
  ): Promise<Machine> {
    signal.throwIfAborted();
    for (const name of [QMP_SOCKET, AGENT_SOCKET]) await remove(join(spec.folder, name));
    await markConsole(spec.folder);
    let child: Detached | undefined;
    let qmp: Qmp | undefined;
    try {
      child = await spawnDetached(commandLine({ ...this.#choice, machineType }, spec, memory), {
        cwd: spec.folder,
        log: join(spec.folder, LOG_FILE),
      });
      const { identity, exited } = child;
      const early: QmpEvent[] = [];
      let hear = (event: QmpEvent): void => void early.push(event);
      const connected = await deadline(
        'the start of QEMU',
        LAUNCH_MS,
        (within) =>
          Promise.race([
            connectWhenThere(identity, (event) => hear(event), within),
            exited.then(() => endedAtOnce()),
          ]),
        signal,
      );
      qmp = connected;
      await prepare(connected, identity);
      const machine = new QemuMachine(
        {
          vmId: spec.vmId,
          folder: spec.folder,
          process: identity,
          machineType,
          version: this.version,
          accel: this.accel,
          vcpuCount: spec.vcpuCount,
          memMib: spec.memMib,
          ramFile,
        },
        connected,
        exited,
      );
      hear = (event) => machine.hear(event);
      for (const event of early) machine.hear(event);
      signal.throwIfAborted();
      return machine;
    } catch (error) {
      qmp?.close();
      if (child) await endQemu(child.identity);
      throw await this.#explain(spec, error, signal);
    }
  }

  async #explain(spec: MachineSpec, error: unknown, signal: AbortSignal): Promise<unknown> {
    if (signal.aborted) return signal.reason;
    if (error instanceof CommandFailed && error.missing) {
      return new VmmError(
        `QEMU (${this.#choice.bin}) is not installed; install the package qemu-system-x86`,
        { kind: 'missing', cause: error },
      );
    }
    if (error instanceof VmmError && error.kind !== 'failed') return error;
    const output = await tail(join(spec.folder, LOG_FILE), 4000).catch(() => '');
    const last = output.trim().split('\n').at(-1) ?? '';
    const full = isErrno(error, 'ENOSPC') || /No space left on device/.test(last);
    // QEMU's own words: "qemu-system-x86_64: -netdev tap,...: could not open ..."; they name files by relative paths only.
    const words = last.replace(/^\S*qemu\S*: /, '');
    const message = words === '' ? (error instanceof Error ? error.message : String(error)) : words;
    return new VmmError(message, { kind: full ? 'no_space' : 'failed', output, cause: error });
  }

  async adopt(spec: MachineSpec, process: VmmProcess, signal: AbortSignal): Promise<Machine | undefined> {
    if (!(await isAlive(process)) || (await vmOfQemu(this.#folder, process.pid)) !== spec.vmId)
      return undefined;
    const argv = (await argvOf(process.pid)) ?? [];
    const early: QmpEvent[] = [];
    let hear = (event: QmpEvent): void => void early.push(event);
    let qmp: Qmp;
    try {
      qmp = await deadline(
        'QEMU',
        10_000,
        (within) => connectWhenThere(process, (event) => hear(event), within),
        signal,
      );
    } catch (error) {
      signal.throwIfAborted();
      if (!(await isAlive(process))) return undefined;
      throw error;
    }
    const machine = new QemuMachine(
      {
        vmId: spec.vmId,
        folder: spec.folder,
        process,
        machineType: valueAfter(argv, '-machine').split(',')[0] ?? this.#choice.machineType,
        version: this.version,
        accel: valueAfter(argv, '-accel').startsWith('kvm') ? 'kvm' : 'tcg',
        vcpuCount: spec.vcpuCount,
        memMib: spec.memMib,
        ramFile: await ramFileOf(spec, valueAfter(argv, '-object')),
      },
      qmp,
    );
    hear = (event) => machine.hear(event);
    for (const event of early) machine.hear(event);
    return machine;
  }

  async observe(): Promise<readonly { readonly vmId: VmId; readonly process: VmmProcess }[]> {
    const found = [];
    for (const name of await readdir('/proc')) {
      if (!/^\d+$/.test(name)) continue;
      const vmId = await vmOfQemu(this.#folder, Number(name));
      const process = vmId && (await identify(Number(name)));
      if (process) found.push({ vmId, process });
    }
    return found;
  }

  reap(process: VmmProcess): Promise<void> {
    return endQemu(process);
  }
}

async function loaded(qmp: Qmp): Promise<true | undefined> {
  const { status } = (await qmp.execute('query-status')) as { readonly status: string };
  return status === 'inmigrate' ? undefined : true;
}

function endedAtOnce(): never {
  throw new VmmError('QEMU ended at once');
}

async function connectWhenThere(
  process: VmmProcess,
  onEvent: (event: QmpEvent) => void,
  signal: AbortSignal,
): Promise<Qmp> {
  return until(
    { clock: systemClock, signal },
    async () => {
      try {
        return await Qmp.connect(qmpPath(process), onEvent, signal);
      } catch (error) {
        if (isErrno(error, 'ENOENT') || isErrno(error, 'ECONNREFUSED')) return undefined;
        throw error;
      }
    },
    { firstMs: 2, mostMs: 50 },
  );
}

async function ramFileOf(spec: MachineSpec, backend: string): Promise<string | null> {
  if (!backend.includes('share=on')) return null;
  if (backend.includes(`mem-path=${RAM_FILE}`)) return join(spec.folder, RAM_FILE);
  return readlink(join(spec.folder, LOADED_RAM));
}

/** Compares versioned machine types (`pc-q35-7.2`) by their numbers. */
function compareTypes(a: string, b: string): number {
  const numbers = (type: string): number[] =>
    (/(\d+)\.(\d+)(?:\.(\d+))?$/.exec(type) ?? []).slice(1).map((part) => Number(part ?? 0));
  const [left, right] = [numbers(a), numbers(b)];
  for (let i = 0; i < 3; i++) {
    const difference = (left[i] ?? 0) - (right[i] ?? 0);
    if (difference !== 0) return difference;
  }
  return 0;
}
