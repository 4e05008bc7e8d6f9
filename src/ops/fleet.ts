import type { Clock } from '../base/clock.ts';
import type { VmId } from '../base/ids.ts';
import { errorFields, type Logger } from '../base/logger.ts';
import { sooner } from '../base/sooner.ts';
import type { GuestAgent } from '../guest/agent.ts';
import type { Vm } from '../model/vm.ts';
import type { Machine, MachineExit } from '../vmm/driver.ts';

/** A guest that runs on this host, as this daemon holds it: nothing here is the only copy of anything. */
export interface Live {
  readonly machine: Machine;
  readonly agent: GuestAgent;
  /** Set once the machine has ended. */
  readonly exit: MachineExit | undefined;
  /** Resolves when commands may be run in it. */
  readonly commandable: Promise<unknown>;
  /** Aborts when the machine has ended, or is not held any more. */
  readonly ended: AbortSignal;
}

interface Held extends Live {
  commandable: Promise<unknown>;
  agent: GuestAgent;
  exit: MachineExit | undefined;
  readonly watch: AbortController;
}

interface Deps {
  readonly clock: Clock;
  readonly log: Logger;
  readonly openAgent: (machine: Machine) => GuestAgent;
  /** Resolves when the guest has answered, with what answered first; rejects when the signal aborts. */
  readonly waitReady: (vm: Vm, agent: GuestAgent, signal: AbortSignal) => Promise<'agent' | 'ssh'>;
}

/** How long after it could not be told that a guest answers it is told again. */
const TELL_AGAIN_MS = 1000;

/** The running guests of this host, and the watching of them: for their being ready, and for their end. */
export class Fleet {
  readonly #live = new Map<VmId, Held>();
  readonly #changed = new Map<VmId, Set<() => void>>();
  readonly #deps: Deps;
  /** Called once when a guest first answers. */
  onReady: (vmId: VmId, by: 'agent' | 'ssh') => Promise<void> = async () => undefined;
  /** Called once when a guest has ended, whoever wanted it. */
  onExit: (vmId: VmId, exit: MachineExit) => void = () => undefined;
  /** Called when a guest begins to stand still for want of room on the host's disk, and when it has gone on. */
  onNoSpace: (vmId: VmId, lacking: boolean) => void = () => undefined;

  constructor(deps: Deps) {
    this.#deps = deps;
  }

  get(vmId: VmId): Live | undefined {
    return this.#live.get(vmId);
  }

  /** Those it holds. */
  all(): readonly (readonly [VmId, Live])[] {
    return [...this.#live];
  }

  /**
   * Takes charge of a machine. `ready`: whether it is known to have answered before; one that does not run yet can be `later`, to be
   * listened to from `answered` or `listen` on.
   */
  add(vm: Vm, machine: Machine, { ready }: { readonly ready: boolean | 'later' }): void {
    this.drop(vm.id);
    const watch = new AbortController();
    const held: Held = {
      machine,
      agent: this.#deps.openAgent(machine),
      exit: undefined,
      commandable: Promise.resolve(),
      watch,
      ended: watch.signal,
    };
    this.#live.set(vm.id, held);
    machine.onNoSpace((lacking) => {
      if (this.#live.get(vm.id) === held) this.onNoSpace(vm.id, lacking);
    });
    void machine.exited.then((exit) => {
      if (this.#live.get(vm.id) !== held) return;
      held.exit = exit;
      held.watch.abort(new Error('the guest has ended'));
      this.touch(vm.id);
      this.onExit(vm.id, exit);
    });
    if (ready === false) void this.#watchReady(vm, held);
  }

  /** Listens for a guest's first answer, by its agent or its SSH port. */
  listen(vm: Vm): void {
    const held = this.#live.get(vm.id);
    if (held) void this.#watchReady(vm, held);
  }

  /** Notes that a guest has answered its agent's client. */
  answered(vm: Vm): void {
    const held = this.#live.get(vm.id);
    if (held) void this.#noteReady(vm, held, async () => 'agent');
  }

  #watchReady(vm: Vm, held: Held): Promise<void> {
    return this.#noteReady(vm, held, () => this.#deps.waitReady(vm, held.agent, held.watch.signal));
  }

  async #noteReady(vm: Vm, held: Held, answer: () => Promise<'agent' | 'ssh'>): Promise<void> {
    try {
      const by = await answer();
      for (;;) {
        if (this.#live.get(vm.id) !== held) return;
        try {
          await this.onReady(vm.id, by);
          break;
        } catch (error) {
          // The guest answers only once for us to hear: what could not be told now is told later.
          this.#deps.log.warn({ vm: vm.id, ...errorFields(error) }, 'could not note that a guest answers');
          await this.#deps.clock.sleep(TELL_AGAIN_MS, held.watch.signal);
        }
      }
      this.touch(vm.id);
    } catch (error) {
      if (!held.watch.signal.aborted)
        this.#deps.log.warn({ vm: vm.id, ...errorFields(error) }, 'readiness watch failed');
    }
  }

  /** Has commands for a guest wait until something else has settled that is being done to it. */
  holdCommands(vmId: VmId, until: Promise<unknown>): void {
    const held = this.#live.get(vmId);
    if (held) held.commandable = until.catch(() => undefined);
  }

  /** Ends what is said to a guest's agent; whoever asks it something next is connected anew. */
  hush(vmId: VmId): void {
    const held = this.#live.get(vmId);
    if (!held) return;
    held.agent.close();
    held.agent = this.#deps.openAgent(held.machine);
  }

  /** Lets go of a machine without touching the guest. */
  drop(vmId: VmId): void {
    const held = this.#live.get(vmId);
    if (!held) return;
    this.#live.delete(vmId);
    held.watch.abort(new Error('no longer watched'));
    held.agent.close();
  }

  /** Lets go of all of them, for the daemon's end: the guests run on. */
  async releaseAll(): Promise<void> {
    const machines = [...this.#live.values()].map((held) => held.machine);
    for (const vmId of [...this.#live.keys()]) this.drop(vmId);
    await Promise.allSettled(machines.map((machine) => machine.release()));
  }

  /** Tells those who wait on a VM to look again. */
  touch(vmId: VmId): void {
    for (const wake of this.#changed.get(vmId) ?? []) wake();
  }

  /**
   * Looks, and looks again whenever the VM may have changed, until `look` gives something other than undefined; also every
   * `againMs` milliseconds while that gives some, for a VM of which nothing is heard here. Rejects with the signal's reason when
   * it aborts.
   */
  async watch<T>(
    vmId: VmId,
    look: () => Promise<T | undefined>,
    signal: AbortSignal,
    againMs: () => number | undefined = () => undefined,
  ): Promise<T> {
    for (;;) {
      signal.throwIfAborted();
      const { promise, resolve } = Promise.withResolvers<void>();
      const waiting = this.#changed.get(vmId) ?? new Set();
      waiting.add(resolve);
      this.#changed.set(vmId, waiting);
      const onAbort = (): void => resolve();
      signal.addEventListener('abort', onAbort, { once: true });
      try {
        const found = await look();
        if (found !== undefined) return found;
        const ms = againMs();
        await (ms === undefined ? promise : sooner({ clock: this.#deps.clock, signal }, promise, ms));
      } finally {
        signal.removeEventListener('abort', onAbort);
        waiting.delete(resolve);
        if (waiting.size === 0 && this.#changed.get(vmId) === waiting) this.#changed.delete(vmId);
      }
    }
  }
}
