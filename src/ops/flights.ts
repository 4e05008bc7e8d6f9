import type { SnapshotId, VmId } from '../base/ids.ts';
import type { Logger } from '../base/logger.ts';
import { errorFields } from '../base/logger.ts';
import { Failure } from '../model/failure.ts';
import type { Operation } from '../model/records.ts';
import { OPERATION_NAMES, type Verb } from '../model/vm.ts';
import { Busy, type Operations } from '../store/store.ts';
import { Closing, Stuck, TryAgain } from './steps.ts';
import { translate } from './translate.ts';

interface Flight {
  readonly verb: Verb;
  readonly ended: Promise<void>;
  readonly abort: AbortController;
  /** Whether what it makes of its VM may be seen already. */
  landing: boolean;
}

/**
 * The operations under way in this process: one per VM. The same verb joins the one under way, another is told `busy`, or waits for one
 * that is landing; and what the daemon's end cuts off stays unfinished in the journal, exactly as a crash leaves it.
 */
export class Flights {
  readonly #flights = new Map<VmId, Flight>();
  readonly #aside = new Map<VmId, Pick<Flight, 'ended' | 'abort'> & { readonly of: SnapshotId }>();
  readonly #operations: Pick<Operations, 'finish'>;
  readonly #log: Logger;
  #gate: Promise<void> = Promise.resolve();
  #phase: 'starting' | 'open' | 'closing' = 'starting';
  /** Called when an operation of a VM has begun. */
  onBegun: (vmId: VmId) => void = () => undefined;
  /** Called when a VM's operation has ended, whatever became of it. */
  onLanded: (vmId: VmId) => void = () => undefined;

  constructor(deps: { readonly operations: Pick<Operations, 'finish'>; readonly log: Logger }) {
    this.#operations = deps.operations;
    this.#log = deps.log;
  }

  /** Lets operations begin: recovery is done. Before, they are told `unavailable`. */
  open(): void {
    if (this.#phase === 'starting') this.#phase = 'open';
  }

  /** The VMs that have one under way. */
  get vmIds(): ReadonlySet<VmId> {
    return new Set([...this.#flights.keys(), ...this.#aside.keys()]);
  }

  /** Whether an operation is under way on a VM in this process. */
  has(vmId: VmId): boolean {
    return this.#flights.has(vmId) || this.#aside.has(vmId);
  }

  /** What is under way on a VM in this process. */
  verbOf(vmId: VmId): Verb | undefined {
    return this.#flights.get(vmId)?.verb;
  }

  /**
   * Carries out an operation: `claim` makes its row (or finds the one a crash left), `work` does it. Resolves when it is done; rejects
   * with a Failure. Joins one of the same verb; throws `busy` for another, unless that is landing. Both are given a signal that aborts when
   * it is cut off.
   */
  async fly(
    vmId: VmId,
    verb: Verb,
    claim: (signal: AbortSignal) => Promise<Operation>,
    work: (operation: Operation, signal: AbortSignal) => Promise<void>,
  ): Promise<void> {
    for (let flying = this.#flights.get(vmId); flying; flying = this.#flights.get(vmId)) {
      if (flying.verb === verb) return flying.ended;
      if (!flying.landing) throw busy(flying.verb);
      await flying.ended.catch(() => undefined);
    }
    if (this.#phase === 'starting')
      throw new Failure('unavailable', 'The server is still starting; ask again in a moment.');
    if (this.#phase === 'closing') throw translate(new Closing());
    const abort = new AbortController();
    const ended = this.#run(verb, claim, work, abort.signal).finally(() => {
      this.#flights.delete(vmId);
      this.onLanded(vmId);
    });
    // Whoever joined hears of a failure; nobody may be there to hear it.
    ended.catch(() => undefined);
    this.#flights.set(vmId, { verb, ended, abort, landing: false });
    this.onBegun(vmId);
    return ended;
  }

  /**
   * Works on a machine whose id no VM has: reconciling leaves what bears it alone meanwhile. The signal aborts when the daemon ends;
   * nothing is journalled, so the work takes back what it did itself. `of`: the snapshot it stands on.
   */
  async aside<T>(vmId: VmId, of: SnapshotId, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
    if (this.#phase === 'starting')
      throw new Failure('unavailable', 'The server is still starting; ask again in a moment.');
    if (this.#phase === 'closing') throw translate(new Closing());
    const abort = new AbortController();
    const doing = this.#gate.then(() => work(abort.signal)).finally(() => this.#aside.delete(vmId));
    this.#aside.set(vmId, {
      ended: doing.then(
        () => undefined,
        () => undefined,
      ),
      abort,
      of,
    });
    return doing;
  }

  /** Whether somebody works aside on what stands on a snapshot. */
  standsOn(snapshot: SnapshotId): boolean {
    return [...this.#aside.values()].some(({ of }) => of === snapshot);
  }

  /** Ends what is worked on aside on a snapshot that is about to change, and resolves when nothing stands on it any more. */
  async clearOff(snapshot: SnapshotId, reason: Error): Promise<void> {
    for (const { of, abort, ended } of this.#aside.values()) {
      if (of !== snapshot) continue;
      abort.abort(reason);
      await ended;
    }
  }

  async #run(
    verb: Verb,
    claim: (signal: AbortSignal) => Promise<Operation>,
    work: (operation: Operation, signal: AbortSignal) => Promise<void>,
    signal: AbortSignal,
  ): Promise<void> {
    await this.#gate;
    let operation: Operation;
    try {
      operation = await claim(signal);
    } catch (error) {
      if (!(error instanceof Busy)) throw translate(error);
      // One of the same verb that nobody carries out was left by a crash or has to be tried again: it is taken up.
      if (error.operation.verb !== verb) throw busy(error.operation.verb);
      operation = error.operation;
    }
    try {
      await work(operation, signal);
      await this.#operations.finish(operation.id, 'done');
      this.#log.info({ operation: operation.id, verb: operation.verb, vm: operation.vmId }, 'operation done');
    } catch (error) {
      if (error instanceof Closing) throw translate(error);
      if (error instanceof TryAgain) {
        this.#log.error(
          { operation: operation.id, verb: operation.verb, vm: operation.vmId, ...errorFields(error) },
          'an operation is tried again later',
        );
        throw translate(error.cause);
      }
      const failure = translate(error);
      this.#log.warn(
        { operation: operation.id, verb: operation.verb, vm: operation.vmId, ...errorFields(error) },
        'operation failed',
      );
      await this.#operations.finish(operation.id, error instanceof Stuck ? 'stuck' : 'failed', {
        code: failure.code,
        message: failure.message,
      });
      throw failure;
    }
  }

  /** Cancels what is under way on a VM, if it is another verb than `but`, and resolves when it has ended. */
  async cancel(vmId: VmId, but: Verb, reason: Error): Promise<void> {
    const flying = this.#flights.get(vmId);
    if (!flying || flying.verb === but) return;
    flying.abort.abort(reason);
    await flying.ended.catch(() => undefined);
  }

  /**
   * Says that what is under way on a VM is about to show as its new state, and ends right after: whoever sees that state and asks for the
   * next thing waits that long, and is not told that the VM is busy.
   */
  landing(vmId: VmId): void {
    const flying = this.#flights.get(vmId);
    if (flying) flying.landing = true;
  }

  /** Resolves when nothing is under way on the VM. */
  async landed(vmId: VmId): Promise<void> {
    await this.#flights.get(vmId)?.ended.catch(() => undefined);
  }

  /** Runs `work` while no operation may begin; those under way go on, and `work` is told whose. */
  async hold<T>(work: (flying: ReadonlySet<VmId>) => Promise<T>): Promise<T> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const before = this.#gate;
    this.#gate = before.then(() => promise);
    await before;
    try {
      return await work(this.vmIds);
    } finally {
      resolve();
    }
  }

  /** Cuts everything off, leaving it to the next daemon's recovery, and resolves when all have let go. */
  async close(): Promise<void> {
    this.#phase = 'closing';
    const flights = [...this.#flights.values(), ...this.#aside.values()];
    for (const flight of flights) flight.abort.abort(new Closing());
    await Promise.allSettled(flights.map((flight) => flight.ended));
  }
}

/** A 409 for a VM on which something is under way. */
export function busy(verb: Verb): Failure {
  return new Failure('busy', `The VM is ${OPERATION_NAMES[verb]}; wait until that is done.`, {
    details: { operation: OPERATION_NAMES[verb] },
  });
}
