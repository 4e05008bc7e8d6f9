import assert from 'node:assert/strict';
import { raceAbort } from '../../base/deadline.ts';
import type { VmmProcess } from '../../model/vm.ts';
import type { Driver, LoadOptions, Machine, MachineExit, MachineSpec, SavedMachine } from '../driver.ts';

/** What the suite asks of the agent in a guest; the guest room's client is one. */
export interface SuiteAgent {
  ping(signal: AbortSignal): Promise<void>;
  exec(
    command: {
      readonly command: string;
      readonly cwd: null;
      readonly env: Readonly<Record<string, string>>;
      readonly stdin: null;
      readonly timeoutMs: number;
    },
    signal: AbortSignal,
  ): Promise<{ readonly exitCode: number | null; readonly stdout: string; readonly stderr: string }>;
  shutdown(mode: 'powerdown' | 'reboot', signal: AbortSignal): Promise<void>;
  close(): void;
}

/** A host of the suite's own: a driver, guests for it, and a hand to end them behind its back. */
export interface DriverHost {
  readonly driver: Driver;
  /** What it stands on, for the report of the run: `its double, not jailed`. */
  readonly about: string;
  /** Another driver on the same folder, as the next daemon would open it. */
  reopen(): Promise<Driver>;
  /** A machine that can be launched, in a folder of its own. */
  fresh(): Promise<MachineSpec>;
  /**
   * A guest that is up and whose agent answers. With `privateMapping` two of them run on private maps of one memory file.
   * Its shell has `echo WORD > FILE` and `cat FILE` for files of /run and /dev/ttyS0, and SysRq.
   */
  guest(): Promise<{ readonly spec: MachineSpec; readonly machine: Machine }>;
  /** A guest that was saved and has ended; it stays so, whatever is loaded from it. */
  saved(): Promise<Saved>;
  /** What a machine like that one needs to be loaded: a folder of its own, and a disk that stands on its. */
  copyOf(spec: MachineSpec): Promise<MachineSpec>;
  agent(machine: Machine): SuiteAgent;
  /** Ends a VMM behind its driver's back, as the kernel does when memory is short. */
  killVmm(process: VmmProcess): Promise<void>;
  /** Whether it opens taps of this host. */
  readonly opensTaps: boolean;
  /** How long a guest that can answer may take, and how long one is listened to that should not, in milliseconds. */
  readonly patience: { readonly answerMs: number; readonly silenceMs: number };
  dispose(): Promise<void>;
}

/** What is left of a machine that was saved. */
export interface Saved {
  readonly spec: MachineSpec;
  readonly saved: SavedMachine;
}

/** A machine under test, with its agent; one agent at a time. */
export interface Subject {
  readonly spec: MachineSpec;
  readonly machine: Machine;
  readonly agent: SuiteAgent;
}

/** What each case works with: the host, and machines that are ended with it. */
export class Bench {
  readonly host: DriverHost;
  readonly driver: Driver;
  readonly #subjects: Subject[] = [];

  constructor(host: DriverHost) {
    this.host = host;
    this.driver = host.driver;
  }

  /** A signal for whatever a guest takes part in. */
  patience(): AbortSignal {
    return AbortSignal.timeout(this.host.patience.answerMs);
  }

  async guest(): Promise<Subject> {
    return this.take(await this.host.guest());
  }

  /** Takes charge of a machine: it is ended when the case is over. */
  take({ spec, machine }: Omit<Subject, 'agent'>): Subject {
    const subject = { spec, machine, agent: this.host.agent(machine) };
    this.#subjects.push(subject);
    return subject;
  }

  async launch(spec: MachineSpec): Promise<Subject> {
    return this.take({ spec, machine: await this.driver.launch(spec, this.patience()) });
  }

  /** Loads and, if it is to run, waits for its agent. */
  async load(spec: MachineSpec, saved: SavedMachine, options: Partial<LoadOptions> = {}): Promise<Subject> {
    const { mapping = 'private', resume = true } = options;
    const machine = await this.driver.load(spec, saved, { mapping, resume }, this.patience());
    const subject = this.take({ spec, machine });
    if (resume) await subject.agent.ping(this.patience());
    return subject;
  }

  /** Lets go of a machine as a daemon does that ends, and takes it up again as the next one. */
  async adopt({ spec, machine, agent }: Subject): Promise<Subject> {
    agent.close();
    await machine.release();
    const adopted = await (await this.host.reopen()).adopt(spec, machine.process, this.patience());
    assert(adopted, 'the guest that runs on was not found');
    return this.take({ spec, machine: adopted });
  }

  /** Pauses and saves into the machine's folder. */
  async save({ spec, machine, agent }: Subject, name = 'saved'): Promise<SavedMachine> {
    agent.close();
    await machine.pause();
    return machine.save({
      statePath: `${spec.folder}/${name}.state`,
      memoryPath: `${spec.folder}/${name}.memory`,
    });
  }

  /** Ends a machine and waits until that is known. */
  async end({ machine, agent }: Subject): Promise<void> {
    agent.close();
    await machine.kill();
    await this.exit(machine);
  }

  exit(machine: Machine): Promise<MachineExit> {
    return raceAbort(machine.exited, this.patience());
  }

  async exec({ agent }: Subject, command: string): Promise<string> {
    const timeoutMs = this.host.patience.answerMs;
    const result = await agent.exec({ command, cwd: null, env: {}, stdin: null, timeoutMs }, this.patience());
    assert.equal(result.exitCode, 0, `${command}: ${result.stderr}`);
    return result.stdout.trim();
  }

  /** Has the guest keep a word in its memory, under a name. */
  async remember(subject: Subject, name: string, word: string): Promise<void> {
    await this.exec(subject, `echo ${word} > /run/${name}`);
  }

  recall(subject: Subject, name: string): Promise<string> {
    return this.exec(subject, `cat /run/${name}`);
  }

  /** Whether the driver sees a VMM of this VM. */
  async isObserved({ vmId }: MachineSpec): Promise<boolean> {
    return (await this.driver.observe()).some((found) => found.vmId === vmId);
  }

  /** Ends what the case left running. Throws when something of it cannot be ended. */
  async tidy(): Promise<void> {
    for (const { machine, agent } of this.#subjects) {
      agent.close();
      await machine.kill();
      await machine.release();
    }
  }
}

/**
 * Declares a case: a sentence, and what shows that it is true. What says so (`withoutGuest`) needs no code to run in the guest: it
 * can be tried where a VMM starts machines whose processors stand still.
 */
export interface Declare {
  (title: string, body: (bench: Bench) => Promise<void>): void;
  withoutGuest(title: string, body: (bench: Bench) => Promise<void>): void;
}
