import { readdir } from 'node:fs/promises';
import { isAbsolute, join } from 'node:path';
import type { Socket } from 'node:net';
import { systemClock } from '../../base/clock.ts';
import { deadline } from '../../base/deadline.ts';
import { parseId, type VmId } from '../../base/ids.ts';
import type { Logger } from '../../base/logger.ts';
import { until } from '../../base/until.ts';
import { hostCpu, type Cpu } from '../../host/cpu.ts';
import { tail } from '../../host/files.ts';
import { connectInPlace } from '../../host/unix-socket.ts';
import {
  commandLine as argvOf,
  identify,
  isAlive,
  spawnDetached,
  type Detached,
} from '../../host/process.ts';
import type { Run } from '../../host/run.ts';
import type { VmmProcess } from '../../model/vm.ts';
import { markConsole } from '../console.ts';
import {
  CONSOLE_FILE,
  VmmError,
  type Driver,
  type LoadOptions,
  type Machine,
  type MachineSpec,
  type SavedMachine,
} from '../driver.ts';
import { endProcess, socketPath, valueAfter } from '../processes.ts';
import { mustHaveTap } from '../tap.ts';
import { ApiGone, FirecrackerApi, type ApiRequest } from './api.ts';
import {
  bootSteps,
  canMoveClock,
  FILES,
  loadSnapshot,
  NO_TIME_SAVED,
  processSteps,
  type BootStep,
} from './boot.ts';
import { noCage, type Cage, type Den } from './cage.ts';
import { openCages, type JailHost, type JailWish } from './cages.ts';
import { OUT_OF_MEMORY } from './exit-reason.ts';
import { explain } from './explain.ts';
import { mustBeUncompressed } from './kernel-file.ts';
import { OUTPUT_FILE } from './logs.ts';
import { FirecrackerMachine, type MachineFacts } from './machine.ts';
import { forgetMetrics } from './metrics.ts';
import { askVersion, featuresOf, sameFormat, type Features, type FirecrackerVersion } from './versions.ts';

export interface FirecrackerOptions {
  readonly run: Run;
  readonly log: Logger;
  readonly firecrackerBin: string;
  /** Absolute path of the folder all VM folders lie in. */
  readonly folder: string;
  /** How long one call may take; 10 s unless told. */
  readonly answerMs?: number;
  /** How guests are jailed; unless told, they are not. */
  readonly jail?: JailWish;
  /** What the jailer finds on the host; this machine unless told. */
  readonly jailHost?: JailHost;
}

const ANSWER_MS = 10_000;
const START_MS = 10_000;
const LOAD_MS = 600_000;
/** `reboot=k panic=-1`: a reboot ends the process, a panic at once too. The root device is added by Firecracker. */
const BOOT_ARGS =
  'console=ttyS0 reboot=k panic=-1 i8042.noaux i8042.nomux i8042.dumbkbd rootfstype=ext4 net.ifnames=0';

/**
 * Firecracker (https://firecracker-microvm.github.io), 1.13 and newer: one process, one machine, spoken to over a unix socket.
 * It runs guests only where KVM does. Throws VmmError in a sentence when it is missing, does not run here, or is too old.
 */
export async function openFirecracker({
  run,
  log,
  firecrackerBin,
  folder,
  answerMs = ANSWER_MS,
  jail,
  jailHost,
}: FirecrackerOptions): Promise<Driver> {
  const version = await askVersion({ run }, firecrackerBin);
  log.info({ version: version.text, snapshotFormat: version.snapshotFormat }, 'Firecracker');
  const cages: readonly [Cage, ...Cage[]] =
    jail === undefined
      ? [noCage(firecrackerBin)]
      : await openCages({ run, log }, jail, { bin: firecrackerBin, version: version.text, folder }, jailHost);
  return new FirecrackerDriver(folder, version, cages, answerMs, await hostCpu());
}

/** A process that has answered on its socket. */
interface Started {
  readonly child: Detached;
  readonly api: FirecrackerApi;
}

class FirecrackerDriver implements Driver {
  readonly name = 'firecracker';
  readonly version: string;
  readonly accel = 'kvm';
  readonly cpu: Cpu;
  readonly capabilities;
  readonly defaultBootArgs = BOOT_ARGS;
  readonly kernel = 'uncompressed';
  readonly #folder: string;
  readonly #features: Features;
  /** Guests are started in the first; a daemon before us may have used another. */
  readonly #cages: readonly [Cage, ...Cage[]];
  readonly #machineType: string;
  readonly #answerMs: number;

  constructor(
    folder: string,
    version: FirecrackerVersion,
    cages: readonly [Cage, ...Cage[]],
    answerMs: number,
    cpu: Cpu,
  ) {
    this.cpu = cpu;
    this.#answerMs = answerMs;
    this.#folder = folder;
    this.#cages = cages;
    this.#features = featuresOf(version);
    this.#machineType = `firecracker-${version.snapshotFormat}`;
    this.version = version.text;
    this.capabilities = {
      snapshot: true,
      ramFile: false,
      privateMapping: true,
      dirtyPages: false,
      qcow2: false,
      agent: 'vsock',
      powerButton: true,
      resumeKeepsAgent: this.#features.resumeKeepsVsock,
      savesRunning: false,
    } as const;
  }

  async launch(spec: MachineSpec, signal: AbortSignal): Promise<Machine> {
    if (spec.disks.some(({ format }) => format !== 'raw'))
      throw new VmmError('Firecracker has only raw disks, no qcow2', { kind: 'incompatible' });
    await mustBeUncompressed(spec);
    return this.#start(spec, signal, ({ api }) => carryOut(api, bootSteps(spec, this.#features), signal));
  }

  async load(
    spec: MachineSpec,
    saved: SavedMachine,
    { mapping, resume, launching }: LoadOptions,
    signal: AbortSignal,
  ): Promise<Machine> {
    const { memoryPath } = saved;
    this.#mustFit(spec, saved);
    if (mapping === 'shared' || memoryPath === null)
      throw new VmmError('Firecracker maps a memory file privately; it cannot go on in it.', {
        kind: 'incompatible',
      });
    launching?.();
    if (!isAbsolute(memoryPath)) throw new VmmError('the memory file must be named by its absolute path');
    const load = (moveClock: boolean): Promise<Machine> =>
      this.#loadFrom(spec, { statePath: saved.statePath, memoryPath }, { resume, moveClock }, signal);
    try {
      return await load(canMoveClock(spec, this.#features));
    } catch (error) {
      if (!(error instanceof VmmError && error.message.includes(NO_TIME_SAVED))) throw error;
      return load(false);
    }
  }

  #loadFrom(
    spec: MachineSpec,
    { statePath, memoryPath }: { readonly statePath: string; readonly memoryPath: string },
    { resume, moveClock }: { readonly resume: boolean; readonly moveClock: boolean },
    signal: AbortSignal,
  ): Promise<Machine> {
    return this.#start(spec, signal, async ({ api }) => {
      const [cage] = this.#cages;
      await cage.bring(spec, statePath, FILES.state);
      await cage.bring(spec, memoryPath, FILES.loadedMemory);
      await carryOut(api, processSteps(this.#features), signal);
      const request = loadSnapshot(spec, { resume, moveClock, features: this.#features });
      await api.call(request, { timeoutMs: LOAD_MS, signal });
    });
  }

  #mustFit(spec: MachineSpec, saved: SavedMachine): void {
    const refuse = (message: string): never => {
      throw new VmmError(message, { kind: 'incompatible' });
    };
    if (saved.driver !== 'firecracker' || saved.accel !== this.accel)
      refuse(
        `A state saved by ${saved.driver} under ${saved.accel} does not load under firecracker with ${this.accel}.`,
      );
    if (saved.vcpuCount !== spec.vcpuCount || saved.memMib !== spec.memMib)
      refuse(
        `The state has ${saved.vcpuCount} vCPUs and ${saved.memMib} MiB; the machine must have as many.`,
      );
    if (!sameFormat(saved.machineType, this.#machineType))
      refuse(
        `The state was saved as ${saved.machineType}; this Firecracker ${this.version} reads ${this.#machineType}.`,
      );
  }

  /** Starts a process, has `configure` make it a machine, and hands it over; whatever fails, no process is left. */
  async #start(
    spec: MachineSpec,
    signal: AbortSignal,
    configure: (started: Started) => Promise<void>,
  ): Promise<Machine> {
    signal.throwIfAborted();
    await mustHaveTap(spec);
    const [cage, ...others] = this.#cages;
    for (const other of others) await other.clear(spec);
    const { argv, cwd } = await cage.prepare(spec);
    await markConsole(spec.folder);
    await forgetMetrics(spec.folder);
    let child: Detached | undefined;
    let api: FirecrackerApi | undefined;
    let tether: Socket | undefined;
    try {
      child = await spawnDetached(argv, {
        cwd,
        log: join(spec.folder, OUTPUT_FILE),
        stdout: join(spec.folder, CONSOLE_FILE),
      });
      const { identity, exited } = child;
      api = new FirecrackerApi(socketPath(identity, FILES.api), this.#answerMs);
      const answered = answers(api, identity, signal);
      await Promise.race([answered, exited.then(() => endedAtOnce())]);
      tether = await connectInPlace(socketPath(identity, FILES.api), signal);
      await Promise.race([configure({ child, api }), exited.then(() => endedAtOnce())]);
      signal.throwIfAborted();
      return new FirecrackerMachine(this.#factsOf(spec, identity, cage), api, tether, exited);
    } catch (error) {
      tether?.destroy();
      api?.close();
      if (child) await endProcess(child.identity, 'Firecracker');
      const output = await lastWords(spec);
      const starved = await cage.ranOutOfMemory(spec);
      await cage.clear(spec);
      if (signal.aborted) throw signal.reason;
      throw explain(starved ? new VmmError(OUT_OF_MEMORY, { cause: error }) : error, output);
    }
  }

  #factsOf(spec: MachineSpec, process: VmmProcess, cage: Cage): MachineFacts {
    const { vmId, folder, vcpuCount, memMib } = spec;
    return {
      vmId,
      folder,
      cage,
      process,
      machineType: this.#machineType,
      version: this.version,
      vcpuCount,
      memMib,
    };
  }

  async adopt(spec: MachineSpec, process: VmmProcess, signal: AbortSignal): Promise<Machine | undefined> {
    const found = (await isAlive(process)) ? await this.#vmOf(process.pid) : undefined;
    if (found?.vmId !== spec.vmId) return undefined;
    const api = new FirecrackerApi(socketPath(process, FILES.api), this.#answerMs);
    try {
      const said = await api.call({ method: 'GET', path: '/' }, { signal });
      if (typeof said !== 'object' || said === null || !('id' in said) || said.id !== spec.vmId) {
        api.close();
        return undefined;
      }
      const tether = await connectInPlace(socketPath(process, FILES.api), signal);
      return new FirecrackerMachine(this.#factsOf(spec, process, found.cage), api, tether);
    } catch (error) {
      api.close();
      signal.throwIfAborted();
      if (!(await isAlive(process))) return undefined;
      throw error instanceof VmmError
        ? error
        : new VmmError('Firecracker runs but does not answer', { kind: 'timeout', cause: error });
    }
  }

  async observe(): Promise<readonly { readonly vmId: VmId; readonly process: VmmProcess }[]> {
    const found = [];
    for (const name of await readdir('/proc')) {
      if (!/^\d+$/.test(name)) continue;
      const vm = await this.#vmOf(Number(name));
      const process = vm && (await identify(Number(name)));
      if (process) found.push({ vmId: vm.vmId, process });
    }
    return found;
  }

  /** The VM a process is of, and where it lives: by its id in the command line, and by the folder it works in. */
  async #vmOf(pid: number): Promise<{ readonly vmId: VmId; readonly cage: Cage } | undefined> {
    const argv = (await argvOf(pid)) ?? [];
    const vmId = parseId('vm', valueAfter(argv, '--id'));
    if (vmId === undefined || valueAfter(argv, '--api-sock') !== FILES.api) return undefined;
    const den = { vmId, folder: join(this.#folder, vmId) };
    for (const cage of this.#cages) {
      if (await cage.holds(den, pid)) return { vmId, cage };
    }
    return undefined;
  }

  reap(process: VmmProcess): Promise<void> {
    return endProcess(process, 'Firecracker');
  }

  async clear(den: Den): Promise<void> {
    for (const cage of this.#cages) await cage.clear(den);
  }

  tapOwner(den: Den): Promise<number | null> {
    return this.#cages[0].tapOwner(den);
  }
}

async function lastWords({ folder }: Den): Promise<string> {
  const texts = [join(folder, FILES.log), join(folder, OUTPUT_FILE)];
  return (await Promise.all(texts.map((path) => tail(path, 2000).catch(() => '')))).join('\n').trim();
}

async function carryOut(api: FirecrackerApi, steps: readonly BootStep[], signal: AbortSignal): Promise<void> {
  for (const { request } of steps) await api.call(request, { signal });
}

/** Resolves when the process answers on its socket; tried again at once while the socket is not there or not listened on. */
async function answers(api: FirecrackerApi, process: VmmProcess, signal: AbortSignal): Promise<void> {
  const ask: ApiRequest = { method: 'GET', path: '/' };
  await deadline(
    'the start of Firecracker',
    START_MS,
    (within) =>
      until(
        { clock: systemClock, signal: within },
        async () => {
          try {
            await api.call(ask, { signal: within });
            return true;
          } catch (error) {
            if (!(error instanceof ApiGone) || !error.nobodyListens) throw error;
            if (!(await isAlive(process))) endedAtOnce();
            return undefined;
          }
        },
        { firstMs: 1, mostMs: 4 },
      ),
    signal,
  );
}

function endedAtOnce(): never {
  throw new VmmError('Firecracker ended at once');
}
