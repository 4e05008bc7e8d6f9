import { randomUUID } from 'node:crypto';
import { duplexPair, type Duplex } from 'node:stream';
import { fakeAgent } from '../../fake/agent.ts';
import { changed } from '../../fake/guest-files.ts';
import { bornAs, CLOCK_PATH } from '../../fake/identity.ts';

/** Where the image's agent listens. */
export const AGENT_PORT = 1024;

/** What the guest's memory holds: all that a snapshot brings back. */
export interface GuestMemory {
  /** Its files, by their paths. */
  readonly files: Readonly<Record<string, string>>;
  /** /proc/cmdline. */
  readonly bootArgs: string;
  /** The same in every copy of a snapshot, as all that the guest drew from its entropy. */
  readonly bootId: string;
  /** What its clock said when it last stood still, in milliseconds since 1970. */
  readonly clockMs: number;
  /** `booting` has no agent yet; `halted` is over and does nothing more, for ever. */
  readonly stage: 'booting' | 'up' | 'halted';
}

export interface GuestOptions {
  /** A kernel's command line; on a PC this alone says whether it has a serial port and what it does after a panic. */
  readonly memory: GuestMemory;
  readonly say: (text: string) => void;
  /** The virtual machine ends: a reset on a PC. */
  readonly reset: () => void;
  readonly dropConnections: () => void;
  /** Called before the guest does anything: its memory must be there. */
  readonly touch: () => void;
  readonly bootMs: number;
  readonly shutdownMs: number;
  readonly kind: 'well' | 'silent' | 'panics' | 'resets';
  readonly deaf: boolean;
  readonly ctrlAltDel: 'reboot' | 'poweroff';
}

/** The memory of a guest that is about to boot. */
export function newMemory(bootArgs: string): GuestMemory {
  return { files: bornAs(null), bootArgs, bootId: randomUUID(), clockMs: Date.now(), stage: 'booting' };
}

/** The keyboard controller holds 16 bytes, and each press is four. */
const MOST_PRESSES = 4;

/**
 * The pretended guest: a kernel that speaks on the console, an agent on vsock, and the ends a guest can take on a PC under
 * Firecracker: a reboot resets the machine, which ends Firecracker; a power-off only halts it, and Firecracker stays.
 */
export class PretendedGuest {
  readonly #options: GuestOptions;
  #memory: GuestMemory;
  /** Set while it stands still. */
  #still: PromiseWithResolvers<void> | undefined;
  #wokenAt = Date.now();
  #presses = 0;
  #agentFree: Promise<unknown> = Promise.resolve();
  #ending = false;
  #booting = false;

  constructor(options: GuestOptions) {
    this.#options = options;
    this.#memory = options.memory;
    this.#still = Promise.withResolvers();
  }

  /** What a snapshot of it holds. */
  get memory(): GuestMemory {
    return { ...this.#memory, clockMs: this.#now() };
  }

  #now(): number {
    return this.#memory.clockMs + (this.#still ? 0 : Date.now() - this.#wokenAt);
  }

  #has(argument: RegExp): boolean {
    return this.#memory.bootArgs.split(/\s+/).some((one) => argument.test(one));
  }

  /** What the kernel says; nowhere without a serial console. */
  #kernel(text: string): void {
    if (this.#has(/^console=ttyS0\b/)) this.#serial(`[    0.000000] ${text}\r\n`);
  }

  #serial(text: string): void {
    if (!this.#has(/^8250\.nr_uarts=0$/)) this.#options.say(text);
  }

  /** Lets it run: from its kernel, or from where it stood. */
  wake(): void {
    this.#wokenAt = Date.now();
    this.#still?.resolve();
    this.#still = undefined;
    if (this.#presses > 0 && !this.#options.deaf) this.#pressed();
    if (this.#memory.stage === 'booting' && !this.#booting) void this.#boot();
  }

  stop(): void {
    if (this.#still) return;
    this.#memory = this.memory;
    this.#still = Promise.withResolvers();
  }

  /** Advances its clock, as KVM does for `clock_realtime`. */
  skip(ms: number): void {
    this.#memory = { ...this.#memory, clockMs: this.#memory.clockMs + ms };
  }

  async #awake(): Promise<void> {
    while (this.#still) await this.#still.promise;
    this.#options.touch();
    if (this.#memory.stage === 'halted') await new Promise(() => undefined);
  }

  async #pass(ms: number): Promise<void> {
    // Never at once: the call that asked for it is answered before the guest can do anything.
    await new Promise((resolve) => (ms > 0 ? setTimeout(resolve, ms).unref() : setImmediate(resolve)));
    await this.#awake();
  }

  async #boot(): Promise<void> {
    this.#booting = true;
    this.#kernel('Linux version 6.1.0-pretended (hatch)');
    this.#kernel(`Command line: ${this.#memory.bootArgs}`);
    if (this.#options.kind === 'resets') return this.#pass(0).then(() => this.#reset());
    if (this.#options.kind === 'panics')
      return this.#panic('VFS: Unable to mount root fs on unknown-block(0,0)');
    await this.#pass(this.#options.bootMs);
    this.#memory = { ...this.#memory, stage: 'up' };
    this.#serial('\r\npretended login: ');
  }

  /** Whether somebody listens on a port, and the stream to them if so. */
  accept(port: number): Duplex | 'refused' | 'silent' {
    if (this.#memory.stage === 'halted' || this.#ending) return 'silent';
    const listens = this.#memory.stage === 'up' && this.#options.kind === 'well' && port === AGENT_PORT;
    return listens ? this.#agent() : 'refused';
  }

  /**
   * The agent serves one connection at a time. The kernel takes more (listen(2)'s backlog), and they wait until the one
   * before has ended.
   */
  #agent(): Duplex {
    const [outer, inner] = duplexPair();
    const before = this.#agentFree;
    this.#agentFree = Promise.all([before, new Promise((done) => outer.once('close', done))]);
    inner.on('error', () => undefined);
    void before.then(() => {
      if (outer.destroyed) return;
      const agent = fakeAgent({
        awake: () => this.#awake(),
        shutdown: (mode) => void this.shutDown(mode === 'reboot' ? 'reboot' : 'poweroff'),
        read: (path) => Promise.resolve(this.#read(path)),
        write: (path, text) => Promise.resolve(this.#write(path, text)),
        all: async () => this.#memory.files,
        change: async (files) => {
          this.#memory = { ...this.#memory, files: changed(this.#memory.files, files) };
        },
        list: (prefix) =>
          Promise.resolve(Object.keys(this.#memory.files).filter((path) => path.startsWith(prefix))),
      });
      agent.on('error', () => undefined);
      inner.pipe(agent).pipe(inner);
      agent.once('close', () => outer.destroy());
      outer.once('close', () => agent.destroy());
    });
    return outer;
  }

  #read(path: string): string | undefined {
    if (path === '/proc/cmdline') return `${this.#memory.bootArgs}\n`;
    if (path === '/proc/sys/kernel/random/boot_id') return `${this.#memory.bootId}\n`;
    if (path === CLOCK_PATH) return `${Math.floor(this.#now() / 1000)}\n`;
    return this.#memory.files[path];
  }

  #write(path: string, text: string): void {
    if (path === '/dev/ttyS0') return this.#serial(text.replaceAll('\n', '\r\n'));
    if (path === CLOCK_PATH) return this.skip(Number(text) * 1000 - this.#now());
    if (path !== '/proc/sysrq-trigger') {
      this.#memory = { ...this.#memory, files: { ...this.#memory.files, [path]: text } };
      return;
    }
    // https://docs.kernel.org/admin-guide/sysrq.html: crash, reboot, off, all of them at once and with no service stopped.
    if (text.startsWith('c')) void this.#panic('sysrq triggered crash');
    if (text.startsWith('b')) this.#reset();
    if (text.startsWith('o')) this.#halt();
  }

  /** The guest's own way down: services stop, the image's last hook says which it is, and the kernel does it. */
  async shutDown(how: 'reboot' | 'poweroff'): Promise<void> {
    if (this.#ending || this.#memory.stage === 'halted') return;
    this.#ending = true;
    await this.#pass(this.#options.shutdownMs);
    this.#options.dropConnections();
    this.#serial(`\r\nhatch-shutdown: ${how}\r\n`);
    this.#kernel(how === 'reboot' ? 'reboot: Restarting system' : 'reboot: Power down');
    if (how === 'reboot') this.#reset();
    else this.#halt();
  }

  async #panic(why: string): Promise<void> {
    this.#ending = true;
    this.#options.dropConnections();
    this.#kernel(`Kernel panic - not syncing: ${why}`);
    this.#kernel(`---[ end Kernel panic - not syncing: ${why} ]---`);
    // Seconds until it reboots; negative: at once; 0 or not there: never.
    const seconds = Number(/(?:^|\s)panic=(-?\d+)/.exec(this.#memory.bootArgs)?.[1] ?? 0);
    if (seconds === 0) return this.#halt();
    await this.#pass(Math.max(0, seconds) * 1000);
    this.#reset();
  }

  #reset(): void {
    this.#halt();
    setImmediate(() => this.#options.reset());
  }

  #halt(): void {
    this.#memory = { ...this.#memory, stage: 'halted' };
    this.#options.dropConnections();
  }

  /** Ctrl-Alt-Del is pressed; false when the keyboard controller has no room for it. */
  pressCtrlAltDel(): boolean {
    if (this.#presses >= MOST_PRESSES) return false;
    this.#presses++;
    if (!this.#still && !this.#options.deaf && this.#memory.stage !== 'halted') this.#pressed();
    return true;
  }

  #pressed(): void {
    if (this.#memory.stage === 'halted') return;
    this.#presses = 0;
    if (this.#memory.stage === 'up') void this.shutDown(this.#options.ctrlAltDel);
  }
}
