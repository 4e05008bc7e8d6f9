import { join } from 'node:path';
import type { Duplex } from 'node:stream';
import type { VmId } from '../../base/ids.ts';
import { tail } from '../../host/files.ts';
import { connectUnix } from '../../host/json-lines.ts';
import type { Detached } from '../../host/process.ts';
import type { VmmProcess } from '../../model/vm.ts';
import { consoleSinceLaunch } from '../console.ts';
import {
  VmmError,
  type Machine,
  type MachineCounters,
  type MachineExit,
  type SavedMachine,
} from '../driver.ts';
import { endProcess, heldBytesOf, howItEnded, socketPath, usageOf } from '../processes.ts';
import { AGENT_SOCKET, FIRST_DISK } from './command-line.ts';
import { topFile } from './block-name.ts';
import { exitReason } from './exit-reason.ts';
import type { Limits } from './limits.ts';
import type { Monitors } from './monitors.ts';
import { isNoSpace, NoSpace } from './no-space.ts';
import { giveTo } from './own-user.ts';
import type { QmpEvent } from './qmp.ts';
import { mappedMemory, saveMapped, saveShared, type Mapped, type SavePaths } from './save-mapped.ts';
import { sendMachine, tellsWhatIsWritten } from './send-machine.ts';

/** QEMU's own output, in the VM's folder. */
export const LOG_FILE = 'vmm.log';

const MIB = 1024 * 1024;

/** What a machine is besides its process. */
export interface MachineFacts {
  readonly vmId: VmId;
  readonly folder: string;
  readonly process: VmmProcess;
  readonly machineType: string;
  readonly version: string;
  readonly accel: 'kvm' | 'tcg';
  readonly vcpuCount: number;
  readonly memMib: number;
  /** Absolute path of the file that holds the memory; null when the memory is QEMU's own. */
  readonly ramFile: string | null;
  readonly limits: Pick<Limits, 'wereTooSmall'>;
}

/** A guest in a QEMU process, watched through its monitor. */
export class QemuMachine implements Machine {
  readonly vmId: VmId;
  readonly process: VmmProcess;
  readonly machineType: string;
  readonly ramFile: string | null;
  readonly exited: Promise<MachineExit>;
  readonly #facts: MachineFacts;
  readonly #monitors: Monitors;
  readonly #released = new AbortController();
  readonly #child: Detached['exited'] | undefined;
  #shutdown: string | null = null;
  #killed = false;
  /** By us, not by QEMU itself. */
  #paused = false;
  readonly #noSpace: NoSpace;
  #hearMigration: (status: string) => void = () => undefined;

  constructor(facts: MachineFacts, monitors: Monitors, child?: Detached['exited']) {
    this.#facts = facts;
    this.vmId = facts.vmId;
    this.process = facts.process;
    this.machineType = facts.machineType;
    this.ramFile = facts.ramFile;
    this.#monitors = monitors;
    this.#child = child;
    const gone = new AbortController();
    this.#noSpace = new NoSpace(
      () => this.#tryWrites(),
      AbortSignal.any([gone.signal, this.#released.signal]),
    );
    void monitors.closed.then(() => gone.abort(new Error('QEMU has ended')));
    const { promise, resolve } = Promise.withResolvers<MachineExit>();
    this.exited = promise;
    monitors.listen((event) => this.#hear(event));
    this.#watch().then(resolve, () => undefined);
  }

  #hear(event: QmpEvent): void {
    if (event.event === 'SHUTDOWN' && typeof event.data['reason'] === 'string')
      this.#shutdown = event.data['reason'];
    if (event.event === 'MIGRATION') this.#hearMigration(String(event.data['status']));
    if (isNoSpace(event)) this.#noSpace.stopped();
    if (event.event === 'GUEST_PANICKED') this.#shutdown = 'guest-panic';
  }

  async #watch(): Promise<MachineExit> {
    await this.#monitors.closed;
    if (this.#released.signal.aborted) throw new Error('released');
    const ended = await howItEnded(this.process, 'QEMU', this.#child, this.#released.signal);
    return exitReason({
      killed: this.#killed,
      shutdown: this.#shutdown,
      ...ended,
      outOfMemory: await this.#facts.limits.wereTooSmall(this.vmId),
      console: await consoleSinceLaunch(this.#facts.folder),
      output: await tail(join(this.#facts.folder, LOG_FILE), 2000).catch(() => ''),
    });
  }

  async #execute(command: string, args: Readonly<Record<string, unknown>> = {}): Promise<unknown> {
    return this.#monitors.execute(command, args);
  }

  async pause(): Promise<void> {
    this.#paused = true;
    if ((await this.status()) === 'running') await this.#execute('stop');
  }

  async resume(): Promise<void> {
    this.#paused = false;
    // To one that runs it is nothing.
    await this.#execute('cont');
  }

  onNoSpace(hear: (lacking: boolean) => void): void {
    this.#noSpace.listen(hear);
  }

  /** Lets the guest go on where QEMU itself has stopped it, and gives whether it runs now. */
  async #tryWrites(): Promise<boolean> {
    const { status } = (await this.#execute('query-status')) as { readonly status: string };
    // Whoever pauses it from here on asks after this, and is answered after this.
    if (this.#paused || status !== 'io-error') return status === 'running';
    await this.#execute('cont');
    return true;
  }

  async status(): Promise<'running' | 'paused'> {
    const { running } = (await this.#execute('query-status')) as { readonly running: boolean };
    return running ? 'running' : 'paused';
  }

  async save(to: SavePaths): Promise<SavedMachine> {
    if ((await this.status()) === 'running') throw new VmmError('only a paused guest can be saved');
    const { ramFile } = this.#facts;
    const mapped = await this.#mapped();
    if (mapped) return this.#saveMapped(mapped, to, async () => undefined);
    // A shared memory file holds the memory already; what is on a private map that we may not see goes into the state.
    await this.#send({ statePath: to.statePath, withMemory: ramFile === null });
    return this.#savedIn(to.statePath, ramFile);
  }

  async saveRunning(to: SavePaths, still: () => Promise<void>): Promise<SavedMachine> {
    const { ramFile } = this.#facts;
    const mapped = await this.#mapped();
    if (mapped) return this.#saveMapped(mapped, to, still);
    const tells = tellsWhatIsWritten(this.#facts);
    // What would not be told as written would be missing in what is saved: then it stands still for all of it.
    if (!tells) await this.pause();
    if (tells || ramFile === null) {
      await this.#send({ statePath: to.statePath, withMemory: true, still });
      return this.#savedIn(to.statePath, null);
    }
    const state = (): Promise<void> => this.#send({ statePath: to.statePath, withMemory: false });
    await saveShared(ramFile, to, state, still);
    return this.#savedIn(to.statePath, to.memoryPath);
  }

  async #mapped(): Promise<Mapped | undefined> {
    const { folder, machineType, memMib, ramFile } = this.#facts;
    if (ramFile !== null) return undefined;
    const { pid } = this.process;
    const map = await mappedMemory((command) => this.#execute(command), pid, memMib * MIB);
    return map && { folder, machineType, pid, map };
  }

  async #saveMapped(mapped: Mapped, to: SavePaths, still: () => Promise<void>): Promise<SavedMachine> {
    const execute: Monitors['execute'] = (command, args) => this.#execute(command, args);
    await saveMapped(execute, mapped, to, () => this.pause(), still);
    return this.#savedIn(to.statePath, to.memoryPath);
  }

  async #send(wanted: Omit<Parameters<typeof sendMachine>[1], 'folder' | 'pid'>): Promise<void> {
    const { folder } = this.#facts;
    const listen = (hear: (status: string) => void): void => void (this.#hearMigration = hear);
    await sendMachine(
      { execute: (command, args) => this.#execute(command, args), listen },
      { folder, pid: this.process.pid, ...wanted },
    );
  }

  #savedIn(statePath: string, memoryPath: string | null): SavedMachine {
    const { machineType, version, accel, vcpuCount, memMib } = this.#facts;
    return { driver: 'qemu', version, machineType, accel, vcpuCount, memMib, statePath, memoryPath };
  }

  async switchDisk(overlay: string): Promise<void> {
    await giveTo(this.process, join(this.#facts.folder, overlay));
    await this.#execute('blockdev-snapshot-sync', {
      device: FIRST_DISK,
      'snapshot-file': overlay,
      format: 'qcow2',
      // It is there, and its backing file is named as it lies, not as this process knows it.
      mode: 'existing',
    });
  }

  async diskFile(): Promise<string> {
    const blocks = (await this.#execute('query-block')) as readonly {
      readonly device: string;
      readonly inserted?: { readonly file: string };
    }[];
    const name = blocks.find(({ device }) => device === FIRST_DISK)?.inserted?.file;
    if (name === undefined) throw new VmmError('QEMU does not say which file the disk is');
    return topFile(name);
  }

  async dirtyPages(): Promise<never> {
    throw new VmmError('QEMU does not tell which pages were written');
  }

  async agent(signal: AbortSignal): Promise<Duplex> {
    try {
      return await connectUnix(socketPath(this.process, AGENT_SOCKET), signal);
    } catch (error) {
      signal.throwIfAborted();
      throw new VmmError("the agent's channel cannot be reached", { cause: error });
    }
  }

  async counters(): Promise<MachineCounters> {
    const usage = await usageOf(this.process);
    const blocks = (await this.#execute('query-blockstats')) as readonly {
      readonly stats: { readonly rd_bytes: number; readonly wr_bytes: number };
    }[];
    return {
      ...usage,
      blockReadBytes: blocks.reduce((sum, { stats }) => sum + stats.rd_bytes, 0),
      blockWriteBytes: blocks.reduce((sum, { stats }) => sum + stats.wr_bytes, 0),
    };
  }

  heldBytes(): Promise<number> {
    return heldBytesOf(this.process);
  }

  async powerButton(): Promise<void> {
    await this.#execute('system_powerdown');
  }

  async kill(): Promise<void> {
    this.#killed = true;
    await endProcess(this.process, 'QEMU');
  }

  async release(): Promise<void> {
    this.#released.abort(new Error('released'));
    this.#monitors.close();
  }
}
