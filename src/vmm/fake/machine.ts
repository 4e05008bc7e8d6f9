import { watch, type FSWatcher } from 'node:fs';
import { appendFile, copyFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Duplex } from 'node:stream';
import { systemClock } from '../../base/clock.ts';
import { KeyedLock } from '../../base/keyed-lock.ts';
import { exists, remove } from '../../host/files.ts';
import type { VmmProcess } from '../../model/vm.ts';
import {
  CONSOLE_FILE,
  VmmError,
  type Machine,
  type MachineCounters,
  type MachineExit,
  type MachineSpec,
  type SavedMachine,
} from '../driver.ts';
import { fakeAgent } from './agent.ts';
import { changed } from './guest-files.ts';
import { endFakeGuest, readGuest, writeGuest, type FakeGuest } from './state.ts';

/** The machine type, version and accelerator of every pretended machine. */
export const FAKE = { machineType: 'fake-1', version: '1', accel: 'none' } as const;

/** Calls that can be told to fail, before or after their effect. */
export type FakeVmmFailures = Partial<Record<'launch' | 'load' | 'kill', 'before' | 'after'>>;

/** Whether two names of a process name the same. */
export function same(a: VmmProcess, b: VmmProcess): boolean {
  return a.pid === b.pid && a.startTime === b.startTime && a.bootId === b.bootId;
}

/** A pretended guest, watched through its file. */
export class FakeMachine implements Machine {
  readonly vmId: MachineSpec['vmId'];
  readonly process: VmmProcess;
  readonly machineType = FAKE.machineType;
  readonly ramFile: string | null;
  readonly exited: Promise<MachineExit>;
  readonly #folder: string;
  readonly #fail: FakeVmmFailures;
  readonly #end: (exit: MachineExit) => void;
  /** Those who wait for the guest's file to change. */
  readonly #waiting = new Set<() => void>();
  readonly #lock = new KeyedLock();
  #watcher: FSWatcher | undefined;
  #lacking = false;
  #hearNoSpace: (lacking: boolean) => void = () => undefined;

  constructor(
    { vmId, folder }: MachineSpec,
    { process, ramFile }: Pick<FakeGuest, 'process' | 'ramFile'>,
    fail: FakeVmmFailures,
  ) {
    this.vmId = vmId;
    this.process = process;
    this.ramFile = ramFile;
    this.#folder = folder;
    this.#fail = fail;
    const { promise, resolve } = Promise.withResolvers<MachineExit>();
    this.exited = promise;
    this.#end = (exit) => {
      this.#watcher?.close();
      resolve(exit);
    };
    this.#watcher = watch(folder, { persistent: false }, () => void this.#look());
    this.#watcher.on('error', () => undefined);
    void this.#look();
  }

  async #look(): Promise<void> {
    const guest = await readGuest(this.#folder).catch(() => undefined);
    // Of one that was released, a look that was under way has nothing to say.
    if (!this.#watcher) return;
    if (!guest || !same(guest.process, this.process))
      this.#end({ kind: 'crashed', exitCode: null, signal: null, message: 'the process is gone' });
    else if (guest.exit) this.#end(guest.exit);
    else if ((guest.noSpace ?? false) !== this.#lacking) {
      this.#lacking = !this.#lacking;
      this.#hearNoSpace(this.#lacking);
    }
    for (const wake of this.#waiting) wake();
    this.#waiting.clear();
  }

  async #guest(): Promise<FakeGuest> {
    const guest = await readGuest(this.#folder);
    if (!guest || !same(guest.process, this.process) || guest.exit) throw new VmmError('the guest has ended');
    return guest;
  }

  /** One change at a time: what a program in the guest writes must not undo a pause. */
  #change(change: (guest: FakeGuest) => Partial<FakeGuest>): Promise<void> {
    return this.#lock.run('guest', async () => {
      const guest = await this.#guest();
      await writeGuest(this.#folder, { ...guest, ...change(guest) });
    });
  }

  #endFile(exit: MachineExit): Promise<void> {
    return this.#lock.run('guest', () => endFakeGuest(this.#folder, exit));
  }

  pause(): Promise<void> {
    return this.#change(() => ({ paused: true }));
  }

  resume(): Promise<void> {
    return this.#change(() => ({ paused: false }));
  }

  async status(): Promise<'running' | 'paused'> {
    return (await this.#guest()).paused ? 'paused' : 'running';
  }

  onNoSpace(hear: (lacking: boolean) => void): void {
    this.#hearNoSpace = hear;
    if (this.#lacking) hear(true);
  }

  async save({
    statePath,
    memoryPath,
  }: {
    readonly statePath: string;
    readonly memoryPath: string;
  }): Promise<SavedMachine> {
    const { paused, vcpuCount, memMib, memory, ramFile } = await this.#guest();
    if (!paused) throw new VmmError('only a paused guest can be saved');
    try {
      await writeFile(statePath, JSON.stringify({ vcpuCount, memMib }));
      await writeFile(ramFile ?? memoryPath, JSON.stringify(memory));
    } catch (error) {
      await remove(statePath);
      throw new VmmError('the state could not be written', { cause: error });
    }
    return { ...FAKE, driver: 'fake', vcpuCount, memMib, statePath, memoryPath: ramFile ?? memoryPath };
  }

  async saveRunning(
    to: { readonly statePath: string; readonly memoryPath: string },
    still: () => Promise<void>,
  ): Promise<SavedMachine> {
    await this.pause();
    const saved = await this.save(to);
    if (saved.memoryPath !== null && saved.memoryPath !== to.memoryPath)
      await copyFile(saved.memoryPath, to.memoryPath);
    await still();
    return { ...saved, memoryPath: to.memoryPath };
  }

  async switchDisk(overlay: string): Promise<void> {
    if (!(await this.#guest()).paused) throw new VmmError('only a paused guest changes its disk');
    if (!(await exists(join(this.#folder, overlay)))) throw new VmmError(`there is no ${overlay}`);
    await this.#change(() => ({ disk: overlay }));
  }

  async diskFile(): Promise<string> {
    return (await this.#guest()).disk;
  }

  async dirtyPages(): Promise<never> {
    throw new VmmError('dirty pages are not counted here');
  }

  async agent(signal: AbortSignal): Promise<Duplex> {
    signal.throwIfAborted();
    await this.#guest();
    const stream = fakeAgent({
      awake: () => this.#awake(),
      shutdown: (mode) => void this.#powerOff(mode === 'reboot' ? 'reboot' : 'poweroff'),
      read: async (path) => (await this.#guest()).memory[path],
      write: (path, text) => this.#write(path, text),
      all: async () => (await this.#guest()).memory,
      change: (files) => this.#change(({ memory }) => ({ memory: changed(memory, files) })),
      list: async (prefix) =>
        Object.keys((await this.#guest()).memory).filter((path) => path.startsWith(prefix)),
    });
    void this.exited.then(() => stream.destroy());
    return stream;
  }

  async #awake(): Promise<void> {
    for (;;) {
      // Asked for before the look, so that no change falls between the two.
      const changed = new Promise<void>((resolve) => this.#waiting.add(resolve));
      if (!(await this.#guest()).paused) return;
      await changed;
    }
  }

  async #write(path: string, text: string): Promise<void> {
    const console = join(this.#folder, CONSOLE_FILE);
    if (path === '/dev/ttyS0') await appendFile(console, text.replaceAll('\n', '\r\n'));
    else if (path === '/proc/sysrq-trigger' && text.startsWith('c')) {
      const words = 'Kernel panic - not syncing: sysrq triggered crash\r\n';
      await appendFile(console, words);
      await this.#endFile({ kind: 'panic', console: words });
    } else await this.#change(({ memory }) => ({ memory: { ...memory, [path]: text } }));
  }

  async #powerOff(kind: 'poweroff' | 'reboot'): Promise<void> {
    await appendFile(join(this.#folder, CONSOLE_FILE), `\r\nhatch-shutdown: ${kind}\r\n`).catch(
      () => undefined,
    );
    await this.#endFile({ kind }).catch(() => undefined);
  }

  async counters(): Promise<MachineCounters> {
    const { memMib, startedAt } = await this.#guest();
    const uptimeSeconds = Math.max(0, systemClock.now() - startedAt) / 1000;
    const rssBytes = memMib * 1024 * 1024;
    return { uptimeSeconds, cpuSeconds: 0, rssBytes, blockReadBytes: 0, blockWriteBytes: 0 };
  }

  /** All the memory it was given. */
  async heldBytes(): Promise<number> {
    return (await this.#guest()).memMib * 1024 * 1024;
  }

  powerButton(): Promise<void> {
    return this.#powerOff('poweroff');
  }

  async kill(): Promise<void> {
    if (this.#fail.kill === 'before') throw new VmmError('kill was told to fail before its effect');
    const guest = await readGuest(this.#folder);
    if (guest && same(guest.process, this.process)) await this.#endFile({ kind: 'killed' });
    this.#end({ kind: 'killed' });
    if (this.#fail.kill === 'after') throw new VmmError('kill was told to fail after its effect');
  }

  async release(): Promise<void> {
    this.#watcher?.close();
    this.#watcher = undefined;
  }
}
