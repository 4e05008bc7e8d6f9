import { readdir, readlink, symlink } from 'node:fs/promises';
import { join } from 'node:path';
import { systemClock } from '../../base/clock.ts';
import { deadline, DeadlineExceeded } from '../../base/deadline.ts';
import type { VmId } from '../../base/ids.ts';
import type { Logger } from '../../base/logger.ts';
import { until } from '../../base/until.ts';
import { hostCpu, type Cpu } from '../../host/cpu.ts';
import { remove, tail } from '../../host/files.ts';
import {
  commandLine as argvOf,
  identify,
  isAlive,
  spawnDetached,
  type Detached,
} from '../../host/process.ts';
import { CommandFailed, type Run } from '../../host/run.ts';
import type { VmmProcess } from '../../model/vm.ts';
import type { CgroupTree } from '../cgroups.ts';
import type { UidRange } from '../uids.ts';
import { markConsole } from '../console.ts';
import {
  VmmError,
  type Driver,
  type LoadOptions,
  type Machine,
  type MachineSpec,
  type SavedMachine,
} from '../driver.ts';
import { endProcess, socketPath, valueAfter } from '../processes.ts';
import { mustHaveTap } from '../tap.ts';
import {
  AGENT_SOCKET,
  commandLine,
  EVENTS_SOCKET,
  QMP_SOCKET,
  RAM_FILE,
  type Memory,
  type QemuChoice,
} from './command-line.ts';
import { explainStart, notInstalled } from './explain.ts';
import { mustBeWhole, mustFit } from './fit.ts';
import { Limits } from './limits.ts';
import { kvmVerdict } from '../kvm-verdict.ts';
import { qemuRunsUnderKvm } from './kvm-probe.ts';
import { LOG_FILE, QemuMachine } from './machine.ts';
import { connectMonitors, type Monitors } from './monitors.ts';
import { mustHaveOpenOnlyItsOwn } from './open-files.ts';
import { giveDisks, INCOMING, makeIncoming, OwnUsers } from './own-user.ts';
import { vmOfQemu } from './processes.ts';
import { sendState, STATE_SOCKET } from './state-stream.ts';

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
  /** The users that QEMUs become, each VM's its own; null: they stay who hatchd is. */
  readonly users: UidRange | null;
  /** Where each QEMU gets a group with its limits; null: nowhere. */
  readonly cgroups: CgroupTree | null;
}

/** The name in a VM's folder of another machine's memory. */
const LOADED_RAM = 'loaded.bin';
const SOCKETS = [QMP_SOCKET, EVENTS_SOCKET, AGENT_SOCKET] as const;
const LAUNCH_MS = 60_000;
/** A QEMU that runs answers at once; on a busy host within seconds. */
const ADOPT_MS = 10_000;
const LOAD_MS = 600_000;
/** Kernel arguments every image of ours boots with; `panic=-1 reboot=t` makes a panic an end, not a hang. */
const BOOT_ARGS = 'console=ttyS0 reboot=t panic=-1 root=/dev/vda rw rootfstype=ext4 net.ifnames=0';

/**
 * QEMU's q35 machine with virtio over PCI, under KVM where KVM runs code, else emulated. (Its `microvm` machine hangs or panics
 * under emulation.) Throws VmmError `missing` when QEMU is not installed.
 */
export async function openQemu(options: QemuOptions): Promise<Driver> {
  const { version, machineType } = await ask(options);
  const verdict = await kvmVerdict(options.kvmVerdictFile, () =>
    qemuRunsUnderKvm({ ...options, machineType }),
  );
  const accel = verdict.usable ? 'kvm' : 'tcg';
  options.log.info({ version, machineType, accel, kvm: verdict.reason }, 'QEMU');
  const choice = {
    bin: options.qemuBin,
    version,
    accel,
    cpu: options.cpu ?? (accel === 'kvm' ? 'host' : 'max'),
    machineType,
  } as const;
  const cpu = choice.cpu === 'host' ? await hostCpu() : { model: choice.cpu, flags: [] };
  return new QemuDriver(options, choice, cpu);
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
    if (error instanceof CommandFailed && error.missing) throw notInstalled(qemuBin, error);
    throw error;
  }
}

/** Worth nothing once the machine has ended. */
const SCRATCH_FILES = [RAM_FILE, LOADED_RAM, ...SOCKETS, STATE_SOCKET, INCOMING];

class QemuDriver implements Driver {
  readonly name = 'qemu';
  readonly version: string;
  readonly accel: 'kvm' | 'tcg';
  readonly cpu: Cpu;
  readonly capabilities = {
    snapshot: true,
    ramFile: true,
    privateMapping: true,
    dirtyPages: false,
    qcow2: true,
    agent: 'virtio-serial',
    powerButton: true,
    resumeKeepsAgent: true,
    savesRunning: true,
  } as const;
  readonly defaultBootArgs = BOOT_ARGS;
  readonly kernel = 'compressed';
  readonly #folder: string;
  readonly #choice: Omit<QemuChoice, 'user'>;
  readonly #users: OwnUsers | null;
  readonly #limits: Limits;

  constructor(
    { folder, log, users, cgroups }: Pick<QemuOptions, 'folder' | 'log' | 'users' | 'cgroups'>,
    choice: Omit<QemuChoice, 'user'>,
    cpu: Cpu,
  ) {
    this.cpu = cpu;
    this.#folder = folder;
    this.#users = users && new OwnUsers(users, folder);
    this.#limits = new Limits({ log, cgroups });
    this.#choice = choice;
    this.version = choice.version;
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
      { prepare: async (monitors) => void (await monitors.execute('cont')) },
    );
  }

  async load(
    spec: MachineSpec,
    saved: SavedMachine,
    { mapping, resume, launching }: LoadOptions,
    signal: AbortSignal,
  ): Promise<Machine> {
    mustFit(this.#choice, spec, saved);
    const memory = await this.#memoryFor(spec, saved, mapping);
    const ramFile =
      memory.kind === 'in-state'
        ? join(spec.folder, RAM_FILE)
        : mapping === 'shared'
          ? saved.memoryPath
          : null;
    const prepare = async (monitors: Monitors, process: VmmProcess): Promise<void> => {
      await monitors.execute('migrate-set-capabilities', {
        capabilities: [{ capability: 'x-ignore-shared', state: memory.kind === 'loaded' }],
      });
      const connectTo = (socket: string): string => socketPath(process, `${INCOMING}/${socket}`);
      await makeIncoming(spec, process);
      await sendState({ statePath: saved.statePath, connectTo, signal }, async (socket) => {
        await monitors.execute('migrate-incoming', { uri: `unix:${INCOMING}/${socket}` });
      });
      await deadline(
        'loading the machine',
        LOAD_MS,
        (within) =>
          until({ clock: systemClock, signal: within }, () => loaded(monitors), { firstMs: 1, mostMs: 5 }),
        signal,
      );
      await remove(join(spec.folder, INCOMING));
      if (resume) await monitors.execute('cont');
    };
    return this.#start(spec, memory, saved.machineType, ramFile, signal, { prepare, launching });
  }

  async #memoryFor(spec: MachineSpec, saved: SavedMachine, mapping: LoadOptions['mapping']): Promise<Memory> {
    await mustBeWhole(saved);
    if (saved.memoryPath === null) {
      await remove(join(spec.folder, RAM_FILE));
      return { kind: 'in-state' };
    }
    if (saved.memoryPath === join(spec.folder, RAM_FILE)) return { kind: 'loaded', file: RAM_FILE, mapping };
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
    {
      prepare,
      launching = () => undefined,
    }: {
      /** What makes it run, or has it ready for that: it stands still. */
      readonly prepare: (monitors: Monitors, process: VmmProcess) => Promise<void>;
      readonly launching?: LoadOptions['launching'];
    },
  ): Promise<Machine> {
    signal.throwIfAborted();
    const [user] = await Promise.all([
      this.#userOf(spec),
      mustHaveTap(spec),
      // What an earlier QEMU left: sockets nobody listens at, and words that are not this one's.
      ...[...SOCKETS, LOG_FILE].map((name) => remove(join(spec.folder, name))),
      markConsole(spec.folder),
    ]);
    let child: Detached | undefined;
    let monitors: Monitors | undefined;
    try {
      const starting = spawnDetached(commandLine({ ...this.#choice, machineType, user }, spec, memory), {
        cwd: spec.folder,
        log: join(spec.folder, LOG_FILE),
        umask: 0o077,
      });
      launching();
      child = await starting;
      const { identity, exited } = child;
      await this.#limits.put(spec, this.accel, identity);
      monitors = await deadline(
        'the start of QEMU',
        LAUNCH_MS,
        (within) => connectMonitors(identity, within),
        signal,
      );
      const memoryPath = memory.kind === 'loaded' ? join(spec.folder, memory.file) : null;
      if (user !== null) await mustHaveOpenOnlyItsOwn(identity.pid, spec, memoryPath);
      await prepare(monitors, identity);
      signal.throwIfAborted();
      return new QemuMachine(
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
          limits: this.#limits,
        },
        monitors,
        exited,
      );
    } catch (error) {
      monitors?.close();
      if (child) await endProcess(child.identity, 'QEMU');
      await this.#limits.lift(spec.vmId);
      signal.throwIfAborted();
      throw explainStart(error, this.#choice.bin, {
        output: await tail(join(spec.folder, LOG_FILE), 4000).catch(() => ''),
        signal: (await child?.exited)?.signal ?? null,
      });
    }
  }

  async adopt(spec: MachineSpec, process: VmmProcess, signal: AbortSignal): Promise<Machine | undefined> {
    if (!(await isAlive(process)) || (await vmOfQemu(this.#folder, process.pid)) !== spec.vmId)
      return undefined;
    const argv = (await argvOf(process.pid)) ?? [];
    let monitors: Monitors | undefined;
    try {
      monitors = await deadline('QEMU', ADOPT_MS, (within) => connectMonitors(process, within), signal);
      return new QemuMachine(
        {
          vmId: spec.vmId,
          folder: spec.folder,
          process,
          machineType: valueAfter(argv, '-machine').split(',')[0] ?? this.#choice.machineType,
          version: await versionOf(monitors),
          accel: valueAfter(argv, '-accel').startsWith('kvm') ? 'kvm' : 'tcg',
          vcpuCount: spec.vcpuCount,
          memMib: spec.memMib,
          ramFile: await ramFileOf(spec, valueAfter(argv, '-object')),
          limits: this.#limits,
        },
        monitors,
      );
    } catch (error) {
      monitors?.close();
      signal.throwIfAborted();
      if (!(await isAlive(process))) return undefined;
      throw error instanceof DeadlineExceeded
        ? new VmmError(`QEMU is there and does not answer: ${error.message}`, {
            kind: 'timeout',
            cause: error,
          })
        : error;
    }
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
    return endProcess(process, 'QEMU');
  }

  async clear({ vmId, folder }: Pick<MachineSpec, 'vmId' | 'folder'>): Promise<void> {
    this.#users?.forget(vmId);
    for (const name of SCRATCH_FILES) await remove(join(folder, name));
    await this.#limits.lift(vmId);
  }

  /** QEMU opens its tap while it is root, and nobody else is to. The VM's user is looked for while the tap is made. */
  async tapOwner(vm: Pick<MachineSpec, 'vmId' | 'folder'>): Promise<null> {
    this.#users?.lookAhead(vm);
    return null;
  }

  /** Whom a VM's QEMU becomes, with the VM's disks; null: it stays who we are. */
  async #userOf(spec: MachineSpec): Promise<number | null> {
    if (this.#users === null) return null;
    const user = await this.#users.of(spec);
    await giveDisks(spec, user);
    return user;
  }
}

async function loaded(monitors: Monitors): Promise<true | undefined> {
  const { status } = (await monitors.execute('query-status')) as { readonly status: string };
  return status === 'inmigrate' ? undefined : true;
}

/** Of the QEMU that runs: the one installed may be newer by now. */
async function versionOf(monitors: Monitors): Promise<string> {
  const { qemu } = (await monitors.execute('query-version')) as {
    readonly qemu: { readonly major: number; readonly minor: number; readonly micro: number };
  };
  return `${qemu.major}.${qemu.minor}.${qemu.micro}`;
}

async function ramFileOf(spec: MachineSpec, backend: string): Promise<string | null> {
  if (!backend.includes('share=on')) return null;
  if (backend.includes(`mem-path=${RAM_FILE}`)) return join(spec.folder, RAM_FILE);
  return readlink(join(spec.folder, LOADED_RAM));
}
