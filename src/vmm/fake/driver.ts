import { watch, type FSWatcher } from 'node:fs';
import { appendFile, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { randomInt } from 'node:crypto';
import type { Duplex } from 'node:stream';
import type { VmId } from '../../base/ids.ts';
import { isErrno, remove, writeFileAtomic } from '../../host/files.ts';
import type { VmmProcess } from '../../model/vm.ts';
import {
  CONSOLE_FILE,
  VmmError,
  type Driver,
  type LoadOptions,
  type Machine,
  type MachineExit,
  type MachineSpec,
  type SavedMachine,
} from '../driver.ts';
import { fakeAgent } from './agent.ts';
import { endFakeGuest, readGuest, runningGuests, writeGuest, type FakeGuest } from './state.ts';

/** Calls that can be told to fail, before or after their effect. */
export type FakeVmmFailures = Partial<Record<'launch' | 'load' | 'kill', 'before' | 'after'>>;

const MACHINE = 'fake-1';
/** pids from here on belong to no process: Linux counts to 4,194,304 (PID_MAX_LIMIT, proc(5)). */
const FIRST_PID = 5_000_000;

/**
 * A hypervisor that pretends its guests with a file in each VM's folder under `folder`: they outlive the daemon, and what is left behind
 * shows. Passes the same suite as the real ones. `fail` is read at every call.
 */
export function openFake({
  folder,
  fail = {},
}: {
  readonly folder: string;
  readonly fail?: FakeVmmFailures;
}): Driver {
  const begin = async (
    what: 'launch' | 'load',
    spec: MachineSpec,
    memory: FakeGuest['memory'],
    paused: boolean,
    signal: AbortSignal,
  ): Promise<Machine> => {
    signal.throwIfAborted();
    if (fail[what] === 'before') throw new VmmError(`${what} was told to fail before its effect`);
    for (const disk of spec.disks) await mustBe(spec, disk.path);
    const guest: FakeGuest = {
      process: {
        pid: FIRST_PID + randomInt(2 ** 40),
        startTime: String(randomInt(2 ** 40)),
        bootId: 'pretended',
      },
      vcpuCount: spec.vcpuCount,
      memMib: spec.memMib,
      paused,
      memory,
      exit: null,
    };
    await writeGuest(spec.folder, guest);
    await appendFile(
      join(spec.folder, CONSOLE_FILE),
      `[    0.000000] Linux version pretended\r\n\r\n${spec.vmId} login: `,
    );
    if (fail[what] === 'after') {
      await remove(join(spec.folder, 'fake-vmm.json'));
      throw new VmmError(`${what} was told to fail after its effect`);
    }
    return new FakeMachine(spec, guest.process, fail);
  };
  return {
    name: 'fake',
    version: '1',
    accel: 'none',
    capabilities: {
      snapshot: true,
      ramFile: false,
      privateMapping: true,
      dirtyPages: false,
      qcow2: false,
      agent: 'memory',
      powerButton: true,
    },
    defaultBootArgs: 'console=ttyS0',
    scratchFiles: [],
    kernel: 'compressed',
    launch: (spec, signal) => begin('launch', spec, {}, false, signal),
    async adopt(spec, process, signal) {
      signal.throwIfAborted();
      const guest = await readGuest(spec.folder);
      if (guest?.exit !== null || !same(guest.process, process)) return undefined;
      return new FakeMachine(spec, process, fail);
    },
    async load(spec, saved: SavedMachine, { resume }: LoadOptions, signal) {
      if (saved.driver !== 'fake' || saved.machineType !== MACHINE)
        throw new VmmError(`a state of ${saved.driver} ${saved.version} does not load here`, {
          kind: 'incompatible',
        });
      const memory = JSON.parse(await readFile(saved.statePath, 'utf8')) as FakeGuest['memory'];
      return begin('load', spec, memory, !resume, signal);
    },
    observe: async () =>
      (await runningGuests(folder)).map(({ vmId, guest }) => ({ vmId, process: guest.process })),
    async reap(process) {
      for (const one of await runningGuests(folder)) {
        if (same(one.guest.process, process)) await endFakeGuest(one.folder, { kind: 'killed' });
      }
    },
  };
}

function same(a: VmmProcess, b: VmmProcess): boolean {
  return a.pid === b.pid && a.startTime === b.startTime && a.bootId === b.bootId;
}

async function mustBe(spec: MachineSpec, path: string): Promise<void> {
  try {
    await stat(join(spec.folder, path));
  } catch (error) {
    if (isErrno(error, 'ENOENT'))
      throw new VmmError(`Could not open '${path}': No such file or directory`, { cause: error });
    throw error;
  }
}

class FakeMachine implements Machine {
  readonly vmId: VmId;
  readonly process: VmmProcess;
  readonly machineType = MACHINE;
  readonly ramFile = null;
  readonly exited: Promise<MachineExit>;
  readonly #spec: MachineSpec;
  readonly #fail: FakeVmmFailures;
  readonly #end: (exit: MachineExit) => void;
  #watcher: FSWatcher | undefined;

  constructor(spec: MachineSpec, process: VmmProcess, fail: FakeVmmFailures) {
    this.vmId = spec.vmId;
    this.process = process;
    this.#spec = spec;
    this.#fail = fail;
    const { promise, resolve } = Promise.withResolvers<MachineExit>();
    this.exited = promise;
    this.#end = (exit) => {
      this.#watcher?.close();
      resolve(exit);
    };
    this.#watcher = watch(spec.folder, { persistent: false }, () => void this.#look());
    this.#watcher.on('error', () => undefined);
    void this.#look();
  }

  async #look(): Promise<void> {
    const guest = await readGuest(this.#spec.folder).catch(() => undefined);
    if (!guest || !same(guest.process, this.process))
      this.#end({ kind: 'crashed', exitCode: null, signal: null, message: 'the process is gone' });
    else if (guest.exit) this.#end(guest.exit);
  }

  async #guest(): Promise<FakeGuest> {
    const guest = await readGuest(this.#spec.folder);
    if (!guest || !same(guest.process, this.process) || guest.exit) throw new VmmError('the guest has ended');
    return guest;
  }

  async #change(change: Partial<FakeGuest>): Promise<void> {
    await writeGuest(this.#spec.folder, { ...(await this.#guest()), ...change });
  }

  pause(): Promise<void> {
    return this.#change({ paused: true });
  }

  resume(): Promise<void> {
    return this.#change({ paused: false });
  }

  async status(): Promise<'running' | 'paused'> {
    return (await this.#guest()).paused ? 'paused' : 'running';
  }

  async save({
    statePath,
    memoryPath,
  }: {
    readonly statePath: string;
    readonly memoryPath: string;
  }): Promise<SavedMachine> {
    const guest = await this.#guest();
    if (!guest.paused) throw new VmmError('only a paused guest can be saved');
    await writeFileAtomic(statePath, JSON.stringify(guest.memory));
    await writeFile(memoryPath, '');
    return {
      driver: 'fake',
      version: '1',
      machineType: MACHINE,
      accel: 'none',
      vcpuCount: guest.vcpuCount,
      memMib: guest.memMib,
      statePath,
      memoryPath,
    };
  }

  async dirtyPages(): Promise<never> {
    throw new VmmError('dirty pages are not counted here');
  }

  async agent(signal: AbortSignal): Promise<Duplex> {
    signal.throwIfAborted();
    await this.#guest();
    const stream = fakeAgent({
      shutdown: (mode) => void this.#powerOff(mode === 'reboot' ? 'reboot' : 'poweroff'),
    });
    void this.exited.then(() => stream.destroy());
    return stream;
  }

  async #powerOff(kind: 'poweroff' | 'reboot'): Promise<void> {
    await appendFile(join(this.#spec.folder, CONSOLE_FILE), `\r\nhatch-shutdown: ${kind}\r\n`).catch(
      () => undefined,
    );
    await endFakeGuest(this.#spec.folder, { kind }).catch(() => undefined);
  }

  async counters(): Promise<{
    cpuSeconds: number;
    rssBytes: number;
    blockReadBytes: number;
    blockWriteBytes: number;
  }> {
    const { memMib } = await this.#guest();
    return { cpuSeconds: 0, rssBytes: memMib * 1024 * 1024, blockReadBytes: 0, blockWriteBytes: 0 };
  }

  powerButton(): Promise<void> {
    return this.#powerOff('poweroff');
  }

  async kill(): Promise<void> {
    if (this.#fail.kill === 'before') throw new VmmError('kill was told to fail before its effect');
    const guest = await readGuest(this.#spec.folder);
    if (guest && same(guest.process, this.process)) await endFakeGuest(this.#spec.folder, { kind: 'killed' });
    this.#end({ kind: 'killed' });
    if (this.#fail.kill === 'after') throw new VmmError('kill was told to fail after its effect');
  }

  async release(): Promise<void> {
    this.#watcher?.close();
    this.#watcher = undefined;
  }
}
