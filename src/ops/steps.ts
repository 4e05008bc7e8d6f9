import { abortReason, type Clock } from '../base/clock.ts';
import { errorFields, type Logger } from '../base/logger.ts';
import type { Operation, StepPhase } from '../model/records.ts';
import type { Operations } from '../store/store.ts';

/**
 * One thing an operation does to the host, and how it is taken back. `run` and `undo` work twice, after half a run and
 * after none: a crash may lie anywhere between the journal's row and the effect. Names of what they make come from the
 * VM's id alone, so that a later process can undo what it does not remember.
 */
export interface Step {
  readonly name: string;
  run(signal: AbortSignal): Promise<void>;
  undo(): Promise<void>;
}

/** Steps of which none needs another run side by side; they are undone one by one. */
export type Stage = Step | readonly Step[];

interface Deps {
  readonly operations: Pick<Operations, 'record'>;
  readonly clock: Clock;
  readonly log: Logger;
}

/** Who asks how far an operation came wants to see that a step ended which took longer than this, though others still run. */
const LONG_MS = 200;

/** The daemon is ending: what is under way stays as its journal says, for the next one to settle. */
export class Closing extends Error {
  override readonly name = 'Closing';
  constructor() {
    super('the server is stopping');
  }
}

/** The VM is being deleted: what is under way on it is cut short. */
export class Overtaken extends Error {
  override readonly name = 'Overtaken';
  constructor() {
    super('the VM is being deleted');
  }
}

/** Some of what an operation did could not be taken back; reconcile keeps trying. */
export class Stuck extends AggregateError {
  override readonly name = 'Stuck';
}

/**
 * Runs the steps in order, each journalled before it runs. When one fails, those beside it are ended, and all of them and those
 * before are undone in reverse; its error is thrown, a Stuck when the undoing failed too. On Closing nothing is undone.
 */
export async function runSteps(
  deps: Deps,
  operation: Operation,
  stages: readonly Stage[],
  signal: AbortSignal,
): Promise<void> {
  const journal = new Journal(deps, operation);
  let begun = 0;
  try {
    for (const stage of stages) {
      signal.throwIfAborted();
      begun++;
      const steps = [stage].flat();
      await journal.begin(steps, 'begun');
      await sideBySide(steps, signal, (step, until) =>
        journal.carryOut(step, 'begun', steps.length > 1, () => step.run(until)),
      );
    }
    signal.throwIfAborted();
    await journal.end();
  } catch (cause) {
    if (cause instanceof Closing || signal.reason instanceof Closing) throw new Closing();
    await undoAll(journal, operation, stages.slice(0, begun), cause);
    throw cause;
  }
}

/** Resolves when all are done. Once one fails the others are told to end; when all have ended, its error is thrown. */
async function sideBySide(
  steps: readonly Step[],
  signal: AbortSignal,
  run: (step: Step, signal: AbortSignal) => Promise<void>,
): Promise<void> {
  const first = new AbortController();
  const until = AbortSignal.any([signal, first.signal]);
  await Promise.allSettled(
    steps.map((step) => run(step, until).catch((error: unknown) => first.abort(error))),
  );
  first.signal.throwIfAborted();
}

/** Undoes the steps in reverse, all of them whatever fails; throws Stuck with every failure. */
export async function undoSteps(deps: Deps, operation: Operation, stages: readonly Stage[]): Promise<void> {
  await undoAll(new Journal(deps, operation), operation, stages);
}

/** `cause`: why; it is the first of the failures of a Stuck. */
async function undoAll(
  journal: Journal,
  operation: Operation,
  stages: readonly Stage[],
  cause?: unknown,
): Promise<void> {
  const failures: unknown[] = [];
  for (const step of stages.flat().toReversed()) {
    try {
      await journal.begin([step], 'undoing');
      await journal.carryOut(step, 'undoing', false, () => step.undo());
    } catch (error) {
      failures.push(error);
    }
  }
  await journal.end().catch((error: unknown) => failures.push(error));
  if (failures.length > 0) {
    throw new Stuck(
      [...(cause === undefined ? [] : [cause]), ...failures],
      `could not take back all of ${operation.verb}`,
    );
  }
}

/** An operation that failed on its way and has no way back: it stays unfinished, to be tried again until it works. */
export class TryAgain extends Error {
  override readonly name = 'TryAgain';
}

/**
 * Runs the steps of an operation that has no way back. Throws TryAgain when one fails, Closing when the daemon ends, and the
 * signal's reason when it is overtaken.
 */
export async function runForward(
  deps: Deps,
  operation: Operation,
  steps: readonly Omit<Step, 'undo'>[],
  signal: AbortSignal,
): Promise<void> {
  const journal = new Journal(deps, operation);
  try {
    for (const step of steps) {
      signal.throwIfAborted();
      await journal.begin([step], 'begun');
      await journal.carryOut(step, 'begun', false, () => step.run(signal));
    }
    await journal.end();
  } catch (cause) {
    if (signal.aborted) throw abortReason(signal);
    throw new TryAgain(`${operation.verb} is not done yet`, { cause });
  }
}

/**
 * An operation's journal. That steps begin is on disk before they do anything. That a step ended which had nothing beside it is written
 * with the next row: whoever settles a crash takes back what had begun, ended or not.
 */
class Journal {
  readonly #deps: Deps;
  readonly #operation: Operation;
  #toWrite: { readonly step: string; readonly phase: StepPhase }[] = [];

  constructor(deps: Deps, operation: Operation) {
    this.#deps = deps;
    this.#operation = operation;
  }

  /** Writes that steps begin, or their undoing. */
  async begin(steps: readonly { readonly name: string }[], phase: 'begun' | 'undoing'): Promise<void> {
    this.#toWrite.push(...steps.map(({ name }) => ({ step: name, phase })));
    await this.end();
  }

  /** Does a step that has begun, and notes its end: at once where it took long and others go on beside it. */
  async carryOut(
    { name }: { readonly name: string },
    phase: 'begun' | 'undoing',
    beside: boolean,
    work: () => Promise<void>,
  ): Promise<void> {
    const { clock, log } = this.#deps;
    const { id, verb, vmId } = this.#operation;
    const from = clock.now();
    const fields = { operation: id, verb, vm: vmId, step: name, phase };
    try {
      await work();
      this.#toWrite.push({ step: name, phase: phase === 'begun' ? 'done' : 'undone' });
      if (beside && clock.now() - from > LONG_MS) await this.end();
      log.info({ ...fields, ms: clock.now() - from }, 'step done');
    } catch (error) {
      log.warn({ ...fields, ms: clock.now() - from, ...errorFields(error) }, 'step failed');
      throw error;
    }
  }

  /** Writes what is not yet written. */
  async end(): Promise<void> {
    const rows = this.#toWrite.splice(0);
    const last = rows.pop();
    if (last) await this.#deps.operations.record(this.#operation.id, last.step, last.phase, rows);
  }
}
