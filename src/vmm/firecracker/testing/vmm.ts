import type { Body } from './bodies.ts';
import { POST_BOOT, PRE_BOOT, Refused, type Call, type Reply } from './calls.ts';
import type { SerialConsole } from './console.ts';
import { newMemory, PretendedGuest, type GuestMemory, type GuestOptions } from './guest.ts';
import type { Knobs } from './knobs.ts';
import type { Log } from './log.ts';
import type { MappedMemory } from './memory-file.ts';
import type { Metrics } from './metrics.ts';
import { mustReachMmds } from './mmds.ts';
import { osError } from './musl.ts';
import type { OpenTap } from './net.ts';
import { Resources } from './resources.ts';
import { parserOf, type HttpRequest, type Parsed } from './routes.ts';
import { createSnapshot, loadSnapshot } from './snapshot.ts';
import { checkStart, commandLine, isProbe, kvmProblem, openConsole } from './start.ts';
import { Balloon, Hotplug, updateDrive, updateNetwork, updatePmem } from './updates.ts';

export interface VmmOptions {
  readonly id: string;
  readonly knobs: Knobs;
  readonly log: Log;
  readonly metrics: Metrics;
  readonly pci: boolean;
  readonly mmdsLimit: number;
  readonly openTap: OpenTap;
  /** The process ends with this exit code. */
  readonly end: (code: number) => void;
}

/** Bytes the pretended guest reads of its root device when it boots. */
const BOOT_READS = 4 * 2 ** 20;
/** FcExitCode's SIGBUS. */
const BAD_MEMORY = 149;

/** The state machine behind the API: one microVM, started once. */
export class Vmm {
  readonly #options: VmmOptions;
  readonly #parse: (request: HttpRequest) => Parsed;
  readonly #resources: Resources;
  readonly #balloon: Balloon;
  #hotplug: Hotplug;
  #state: 'Not started' | 'Running' | 'Paused' = 'Not started';
  /** Paused by a call, not by a load: then nothing but calls is attended to. */
  #frozen = false;
  #bootPath = false;
  #guest: PretendedGuest | undefined;
  /** Set when the process is to end after the answer under way. */
  fatal: 'Restore' | null = null;

  constructor(options: VmmOptions) {
    this.#options = options;
    this.#parse = parserOf(options.knobs.version);
    this.#resources = new Resources(options.mmdsLimit, options.openTap);
    this.#balloon = new Balloon(this.#resources);
    this.#hotplug = new Hotplug(this.#resources);
  }

  /** Does a call. Throws Refused. */
  async handle(request: HttpRequest): Promise<{ readonly reply: Reply; readonly deprecated: boolean }> {
    const { log } = this.#options;
    const method = request.method[0] + request.method.slice(1).toLowerCase();
    const shown =
      request.body === undefined || request.path === '/mmds'
        ? ''
        : ` with body ${JSON.stringify(request.body)}`;
    log.info(`The API server received a ${method} request on ${JSON.stringify(request.path)}${shown}.`);
    try {
      const { call, deprecated } = this.#parse(request);
      const reply = this.#state === 'Not started' ? await this.#before(call) : this.#after(call);
      log.info(
        `The request was executed successfully. Status code: ${reply === undefined ? '204 No Content' : '200 OK'}.`,
      );
      return { reply, deprecated };
    } catch (error) {
      if (error instanceof Refused)
        log.error(
          `Received Error. Status code: ${error.status === 413 ? '413 Payload too large' : '400 Bad Request'}. Message: ${error.message}`,
        );
      throw error;
    }
  }

  /** What is answered the same in every state; `null` for a call that is not. */
  #always(call: Call): Reply | null {
    switch (call.name) {
      case 'getInfo':
        return JSON.stringify({
          id: this.#options.id,
          state: this.#state,
          vmm_version: this.#options.knobs.version.text,
          app_name: 'Firecracker',
        });
      case 'getVersion':
        return JSON.stringify({ firecracker_version: this.#options.knobs.version.text });
      case 'getVmConfig':
        return this.#resources.json;
      case 'getMachine': {
        const { cpu_template: template, ...machine } = this.#resources.machine;
        return JSON.stringify(template === null ? machine : { ...machine, cpu_template: template });
      }
      default:
        return null;
    }
  }

  async #before(call: Call): Promise<Reply> {
    const always = this.#always(call);
    if (always !== null) return always;
    const resources = this.#resources;
    if (BOOT_PATH.includes(call.name)) this.#bootPath = true;
    switch (call.name) {
      case 'getBalloon':
        if (!resources.balloon) throw new Refused('Balloon config error: No balloon device found.');
        return JSON.stringify(resources.balloon);
      case 'getMmds':
        return resources.mmds.json;
      case 'mmds':
        return void resources.mmds.put(call.body);
      case 'patchMmds':
        return void resources.mmds.patch(call.body);
      case 'logger':
        return this.#options.log.configure(call.body);
      case 'metrics':
        return this.#options.metrics.configure(call.body.metrics_path);
      case 'serial':
        resources.serial = { path: call.body.serial_out_path, limit: call.body.rate_limiter };
        return;
      case 'cpuConfig':
        resources.cpuConfig = call.body;
        return;
      case 'machine':
      case 'machineUpdate':
        return resources.setMachine(call.body);
      case 'bootSource':
        return resources.setBootSource(call.body);
      case 'drive':
        return resources.putDrive(call.body);
      case 'pmem':
        return resources.putPmem(call.body);
      case 'network':
        return resources.interfaces.put(call.body);
      case 'mmdsConfig':
        return resources.setMmdsConfig(call.body);
      case 'vsock':
        return resources.setVsock(call.body);
      case 'entropy':
        resources.entropy = call.body;
        return;
      case 'balloon':
        return resources.setBalloon(call.body);
      case 'hotplug':
        return resources.setHotplug(call.body);
      case 'snapshotLoad':
        return this.#load(call.body);
      case 'actions':
        this.#options.metrics.count((counts) => counts.actions++);
        if (call.body.action_type !== 'InstanceStart') throw new Refused(PRE_BOOT);
        return this.#start();
      default:
        throw new Refused(PRE_BOOT);
    }
  }

  #after(call: Call): Reply {
    const always = this.#always(call);
    if (always !== null) return always;
    const resources = this.#resources;
    switch (call.name) {
      case 'getBalloon':
        return this.#balloon.config();
      case 'getBalloonStatistics':
        return this.#balloon.statistics();
      case 'balloonUpdate':
        return this.#balloon.update(call.body);
      case 'balloonStatistics':
        return this.#balloon.updateStatistics(call.body);
      case 'startHinting':
        return this.#balloon.startHinting();
      case 'stopHinting':
        return this.#balloon.stopHinting();
      case 'getHinting':
        return this.#balloon.hintingStatus();
      case 'getHotplug':
        return this.#hotplug.status();
      case 'hotplugUpdate':
        return this.#hotplug.update(call.body);
      case 'getMmds':
        mustReachMmds(resources.mmdsConfig);
        return resources.mmds.json;
      case 'mmds':
        mustReachMmds(resources.mmdsConfig);
        return void resources.mmds.put(call.body);
      case 'patchMmds':
        mustReachMmds(resources.mmdsConfig);
        return void resources.mmds.patch(call.body);
      case 'driveUpdate':
        return updateDrive(resources, call.body);
      case 'networkUpdate':
        return updateNetwork(resources, call.body);
      case 'pmemUpdate':
        return updatePmem(resources, call.body);
      case 'drive':
      case 'network':
      case 'pmem':
      case 'delete':
        return this.#plug(call);
      case 'vm':
        return call.body.state === 'Paused' ? this.#pause() : this.#resume();
      case 'snapshotCreate':
        return this.#create(call.body);
      case 'actions':
        return this.#act(call.body.action_type);
      default:
        throw new Refused(POST_BOOT);
    }
  }

  /** Devices come and go with PCI only. */
  #plug(call: Extract<Call, { readonly name: 'drive' | 'network' | 'pmem' | 'delete' }>): void {
    if (!this.#options.knobs.version.has16) throw new Refused(POST_BOOT);
    if (!this.#options.pci) throw new Refused('PCI is not enabled');
    const { blocks, interfaces, pmem } = this.#resources;
    const has = {
      drive: (id: string) => blocks.find(id) !== undefined,
      network: (id: string) => interfaces.has(id),
      pmem: (id: string) => pmem.some((one) => one.id === id),
    };
    if (call.name !== 'delete') {
      const id =
        call.name === 'drive' ? call.body.drive_id : call.name === 'pmem' ? call.body.id : call.body.iface_id;
      if (has[call.name](id)) throw new Refused('Device ID in use');
      if (call.name === 'drive') return this.#resources.putDrive(call.body);
      if (call.name === 'network') return interfaces.put(call.body);
      return this.#resources.putPmem(call.body);
    }
    if (!has[call.kind](call.id)) throw new Refused('Device not found');
    if (call.kind === 'drive' && blocks.root?.config.drive_id === call.id)
      throw new Refused('Cannot unplug root device');
    if (call.kind === 'drive') blocks.remove(call.id);
    else if (call.kind === 'network') interfaces.remove(call.id);
    else this.#resources.pmem = pmem.filter((one) => one.id !== call.id);
  }

  #act(action: Body<'actions'>['action_type']): void {
    this.#options.metrics.count((counts) => counts.actions++);
    switch (action) {
      case 'InstanceStart':
        throw new Refused(POST_BOOT);
      case 'FlushMetrics':
        return this.#options.metrics.flush();
      case 'SendCtrlAltDel':
        if (!this.#guest?.pressCtrlAltDel())
          throw new Refused('Internal VMM error: I8042 error: i8042 internal buffer full.');
    }
  }

  #console(): SerialConsole {
    return openConsole(this.#resources, (written, dropped) =>
      this.#options.metrics.count((counts) => {
        counts.consoleBytes += written;
        counts.droppedBytes += dropped;
      }),
    );
  }

  #start(): void {
    const { pci, metrics, knobs } = this.#options;
    checkStart(this.#resources, pci, knobs.kvm);
    let serial: SerialConsole;
    try {
      serial = this.#console();
    } catch (error) {
      throw new Refused(
        `Start microvm error: Failed to create device manager: Error with EventFd: ${osError(error)}`,
      );
    }
    const root = this.#resources.blocks.root;
    if (root) metrics.moved(root.config.drive_id, Math.min(root.bytes, BOOT_READS), 0);
    const memory = newMemory(commandLine(this.#resources, pci));
    const resets = knobs.runsProbe && isProbe(this.#resources);
    const guest = this.#furnish(memory, serial, undefined, resets ? 'resets' : knobs.guest);
    this.#resources.vsock?.attach((port) => guest.accept(port));
    metrics.start(() => this.#frozen);
    this.#state = 'Running';
    guest.wake();
  }

  #furnish(
    memory: GuestMemory,
    serial: SerialConsole,
    mapped: MappedMemory | undefined,
    kind: GuestOptions['kind'] = this.#options.knobs.guest,
  ): PretendedGuest {
    const { knobs, end } = this.#options;
    this.#guest = new PretendedGuest({
      memory,
      say: (text) => serial.write(text),
      reset: () => {
        this.#options.log.info('Vmm is stopping.');
        end(0);
      },
      dropConnections: () => this.#resources.vsock?.dropAll(),
      touch: () => {
        if (mapped?.isCut()) end(BAD_MEMORY);
      },
      bootMs: knobs.bootMs,
      shutdownMs: knobs.shutdownMs,
      kind,
      deaf: knobs.deaf,
      ctrlAltDel: knobs.ctrlAltDel,
    });
    return this.#guest;
  }

  #pause(): void {
    this.#frozen = true;
    this.#guest?.stop();
    this.#resources.vsock?.freeze();
    this.#state = 'Paused';
  }

  /** A machine that runs is kicked like any other, as Firecracker does. */
  #resume(): void {
    this.#frozen = false;
    this.#state = 'Running';
    this.#guest?.wake();
    this.#resources.vsock?.thaw(this.#options.knobs.losesVsock);
  }

  #create(to: Body<'snapshotCreate'>): void {
    const { pci, knobs } = this.#options;
    if (this.#state !== 'Paused' || !this.#guest) {
      // The devices were told to get ready before anybody looked at the processors.
      this.#resources.vsock?.dropAll();
      throw new Refused(
        'Create snapshot error: Cannot save the microVM state: Operation not allowed: save/restore unavailable while running',
      );
    }
    this.#resources.vsock?.sendReset();
    createSnapshot(to, {
      resources: this.#resources,
      memory: this.#guest.memory,
      pci,
      requestedMib: this.#hotplug.requestedMib,
      version: knobs.version,
      wholeMemory: knobs.wholeMemory,
    });
  }

  async #load(from: Body<'snapshotLoad'>): Promise<void> {
    if (this.#bootPath)
      throw new Refused(
        'Load snapshot error: Loading a microVM snapshot not allowed after configuring boot-specific resources.',
      );
    const { knobs, metrics } = this.#options;
    try {
      let serial: SerialConsole | undefined;
      const { mapped, memory, requestedMib, behindMs } = await loadSnapshot(from, {
        resources: this.#resources,
        version: knobs.version,
        kvmProblem: kvmProblem(knobs.kvm),
        openSerial: () => (serial = this.#console()),
      });
      if (!serial) throw new Error('a snapshot was loaded without its serial port');
      this.#hotplug = new Hotplug(this.#resources, requestedMib);
      // A memory without a guest in it runs all the same, and nothing comes of it.
      const guest = this.#furnish(memory ?? { ...newMemory(''), stage: 'halted' }, serial, mapped);
      if (from.clock_realtime && behindMs !== null) guest.skip(behindMs);
      // The reset that was sent when the snapshot was made is in its memory.
      this.#resources.vsock?.freeze();
      this.#resources.vsock?.sendReset();
      this.#resources.vsock?.attach((port) => guest.accept(port));
    } catch (error) {
      this.fatal = 'Restore';
      throw error;
    }
    metrics.start(() => this.#frozen);
    this.#state = 'Paused';
    if (from.resume_vm) this.#resume();
  }
}

/** After one of these a snapshot is not loaded any more, whether it was refused or not. */
const BOOT_PATH: readonly Call['name'][] = [
  ...(['drive', 'network', 'pmem', 'balloon', 'bootSource', 'mmdsConfig'] as const),
  ...(['machine', 'machineUpdate', 'vsock', 'entropy', 'hotplug'] as const),
];
