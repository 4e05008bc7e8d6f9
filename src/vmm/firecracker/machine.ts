import { copyFile, rename, stat } from 'node:fs/promises';
import { once } from 'node:events';
import { join } from 'node:path';
import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { isErrno } from '../../base/errno.ts';
import { systemClock } from '../../base/clock.ts';
import type { VmId } from '../../base/ids.ts';
import { remove, tail } from '../../host/files.ts';
import { isAlive, signalProcess, type Detached } from '../../host/process.ts';
import type { VmmProcess } from '../../model/vm.ts';
import { consoleSinceLaunch, watchConsole } from '../console.ts';
import {
  VmmError,
  type Machine,
  type MachineCounters,
  type MachineExit,
  type SavedMachine,
} from '../driver.ts';
import { endProcess, heldBytesOf, howItEnded, socketPath, usageOf } from '../processes.ts';
import type { FirecrackerApi } from './api.ts';
import { action, createSnapshot, FILES, vmState } from './boot.ts';
import type { Cage } from './cage.ts';
import { exitReason, type Ending } from './exit-reason.ts';
import { cutLogs, OUTPUT_FILE } from './logs.ts';
import { takeMetrics, type BlockBytes } from './metrics.ts';
import { connectVsock } from './vsock.ts';

/** Pausing and resuming wait up to 30 s for each vCPU (src/vmm/src/lib.rs). */
const VCPU_MS = 35_000;
const SAVE_MS = 600_000;
/** How often the metrics file is read and cut, also if nobody asks: it grows by some kilobytes a minute. */
const TEND_MS = 10 * 60_000;
/** How often its logs are looked at: before 1.16 nothing else bounds what a guest can make it write. */
const CUT_MS = 15_000;
/** How long a guest that has panicked may take to end by itself. */
const PANIC_MS = 5000;

/** What a machine is besides its process. */
export interface MachineFacts {
  readonly vmId: VmId;
  readonly folder: string;
  /** Where the VMM lives. */
  readonly cage: Cage;
  readonly process: VmmProcess;
  readonly machineType: string;
  readonly version: string;
  readonly vcpuCount: number;
  readonly memMib: number;
}

/** A guest in a Firecracker process. */
export class FirecrackerMachine implements Machine {
  readonly vmId: VmId;
  readonly process: VmmProcess;
  readonly machineType: string;
  readonly ramFile = null;
  readonly exited: Promise<MachineExit>;
  readonly #facts: MachineFacts;
  readonly #api: FirecrackerApi;
  readonly #child: Detached['exited'] | undefined;
  readonly #released = new AbortController();
  #killed = false;
  /** Ctrl-alt-del is the only button there is, and a guest answers it with a reboot (systemd.special(7)). */
  #pressed = false;
  #said: Ending['said'] = null;
  #counting: Promise<unknown> = Promise.resolve();

  /** `tether`: a connection that is used for nothing and ends when the process does; `child`: its end, where we are its parent. */
  constructor(facts: MachineFacts, api: FirecrackerApi, tether: Socket, child?: Detached['exited']) {
    this.#facts = facts;
    this.vmId = facts.vmId;
    this.process = facts.process;
    this.machineType = facts.machineType;
    this.#api = api;
    this.#child = child;
    const { promise, resolve } = Promise.withResolvers<MachineExit>();
    this.exited = promise;
    this.#released.signal.addEventListener('abort', () => tether.destroy());
    const tending = setInterval(() => void this.#countBlocks().catch(() => undefined), TEND_MS).unref();
    const cutting = setInterval(() => void cutLogs(facts.folder).catch(() => undefined), CUT_MS).unref();
    this.#watch(tether)
      .finally(() => [tending, cutting].forEach((timer) => clearInterval(timer)))
      .then(resolve, () => undefined);
  }

  async #watch(tether: Socket): Promise<MachineExit> {
    tether.on('error', () => undefined).resume();
    // A guest whose console cannot be watched ends all the same.
    const stopListening = await watchConsole(this.#facts.folder, (text) => this.#hear(text)).catch(
      () => () => undefined,
    );
    try {
      if (!tether.closed) await once(tether, 'close');
    } finally {
      stopListening();
    }
    if (this.#released.signal.aborted) throw new Error('released');
    const ended = await howItEnded(this.process, 'Firecracker', this.#child, this.#released.signal);
    const { folder, cage } = this.#facts;
    this.#api.close();
    const reason = exitReason({
      killed: this.#killed,
      said: this.#said,
      ...ended,
      outOfMemory: await cage.ranOutOfMemory(this.#facts),
      console: await consoleSinceLaunch(folder),
      output: [
        await tail(join(folder, FILES.log), 2000).catch(() => ''),
        await tail(join(folder, OUTPUT_FILE), 2000).catch(() => ''),
      ].join('\n'),
    });
    return reason.kind === 'reboot' && this.#pressed ? { kind: 'poweroff' } : reason;
  }

  /** A guest that has powered off or panicked may leave its process running (x86_64 has no power-off device): it is ended. */
  #hear(text: string): void {
    if (this.#said !== null) return;
    if (/hatch-shutdown: poweroff|reboot: (Power down|System halted)/.test(text)) {
      this.#said = 'poweroff';
      void this.#endSoon(text.includes('reboot: ') ? 0 : 2000);
    } else if (text.includes('Kernel panic - not syncing')) {
      this.#said = 'panic';
      void this.#endSoon(PANIC_MS);
    }
  }

  async #endSoon(afterMs: number): Promise<void> {
    try {
      await systemClock.sleep(afterMs, this.#released.signal);
      await signalProcess(this.process, 'SIGKILL');
    } catch {
      // Released: the next daemon hears it on the console.
    }
  }

  async pause(): Promise<void> {
    if ((await this.status()) === 'running') await this.#api.call(vmState('Paused'), { timeoutMs: VCPU_MS });
  }

  async resume(): Promise<void> {
    if ((await this.status()) === 'paused') await this.#api.call(vmState('Resumed'), { timeoutMs: VCPU_MS });
  }

  async status(): Promise<'running' | 'paused'> {
    const { state } = (await this.#api.call({ method: 'GET', path: '/' })) as { readonly state?: unknown };
    return state === 'Paused' ? 'paused' : 'running';
  }

  /** It tells its guest of an I/O error. */
  onNoSpace(): void {}

  async save({
    statePath,
    memoryPath,
  }: {
    readonly statePath: string;
    readonly memoryPath: string;
  }): Promise<SavedMachine> {
    if ((await this.status()) === 'running') throw new VmmError('only a paused guest can be saved');
    const { folder, cage, machineType, version, vcpuCount, memMib } = this.#facts;
    const names = [FILES.state, FILES.memory] as const;
    const made = [join(folder, FILES.state), join(folder, FILES.memory)] as const;
    try {
      // What lies there is written into, not replaced, and may be what this guest was loaded from.
      await cage.lend(this.#facts, names);
      await this.#api.call(createSnapshot(), { timeoutMs: SAVE_MS });
      await cage.takeBack(this.#facts, names);
      for (const path of made) {
        if ((await stat(path)).size === 0) throw new VmmError('Firecracker has written nothing');
      }
      await move(made[1], memoryPath);
      await move(made[0], statePath);
    } catch (error) {
      await cage.takeBack(this.#facts, names).catch(() => undefined);
      for (const path of [...made, statePath]) await remove(path);
      const full =
        isErrno(error, 'ENOSPC') || (error instanceof Error && /No space left/.test(error.message));
      if (error instanceof VmmError && !full) throw error;
      throw new VmmError('the machine could not be saved', {
        kind: full ? 'no_space' : 'failed',
        cause: error,
      });
    }
    return {
      driver: 'firecracker',
      version,
      machineType,
      accel: 'kvm',
      vcpuCount,
      memMib,
      statePath,
      memoryPath,
    };
  }

  async saveRunning(): Promise<never> {
    throw new VmmError('Firecracker saves only a guest that stands still');
  }

  async switchDisk(): Promise<never> {
    throw new VmmError('Firecracker has no overlay disks');
  }

  async diskFile(): Promise<never> {
    throw new VmmError('Firecracker does not say which file a disk is');
  }

  async dirtyPages(): Promise<never> {
    throw new VmmError('Firecracker does not tell which pages were written');
  }

  async agent(signal: AbortSignal): Promise<Duplex> {
    try {
      return await connectVsock(socketPath(this.process, FILES.vsock), signal);
    } catch (error) {
      if (error instanceof VmmError || signal.aborted) throw error;
      throw new VmmError('there is no way to the guest on vsock', { cause: error });
    }
  }

  async counters(): Promise<MachineCounters> {
    await this.#api.call(action('FlushMetrics'));
    const { read, written } = await this.#countBlocks();
    return { ...(await usageOf(this.process)), blockReadBytes: read, blockWriteBytes: written };
  }

  heldBytes(): Promise<number> {
    return heldBytesOf(this.process);
  }

  /** One after the other: what one has read another must not read again. */
  #countBlocks(): Promise<BlockBytes> {
    const counting = this.#counting.then(() => takeMetrics(this.#facts.folder));
    this.#counting = counting.catch(() => undefined);
    return counting;
  }

  async powerButton(): Promise<void> {
    this.#pressed = true;
    await this.#api.call(action('SendCtrlAltDel'));
  }

  async kill(): Promise<void> {
    if (!(await isAlive(this.process))) return;
    this.#killed = true;
    await endProcess(this.process, 'Firecracker');
  }

  async release(): Promise<void> {
    this.#released.abort(new Error('released'));
    this.#api.close();
  }
}

/** Moves a file, to another file system too. */
async function move(from: string, to: string): Promise<void> {
  try {
    await rename(from, to);
  } catch (error) {
    if (!isErrno(error, 'EXDEV')) throw error;
    await copyFile(from, to);
    await remove(from);
  }
}
