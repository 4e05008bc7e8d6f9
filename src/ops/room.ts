import type { Clock } from '../base/clock.ts';
import type { VmId } from '../base/ids.ts';
import { Hushed } from '../base/hushed.ts';
import { KeyedLock } from '../base/keyed-lock.ts';

/** A VM that could not be put to sleep for another is not tried again for so long, in milliseconds. */
const LEFT_ALONE_MS = 60_000;
/** The same refusal is told no more often than this, in milliseconds: whoever asks all the time is not to fill the events. */
const QUIET_MS = 60_000;

/** What was promised to VMs that are about to run, until it is taken back. */
export interface Promised {
  /** Twice is as good as once. */
  release(): void;
}

/**
 * The memory guests may take of this host, and what of it was promised to VMs that do not hold it yet. It lives in memory: with the
 * daemon all operations end that were promised any.
 */
export class Room {
  /** In MiB; null: no limit, and nothing is counted. */
  readonly budgetMib: number | null;
  readonly clock: Clock;
  readonly #lock = new KeyedLock();
  readonly #promised = new Map<VmId, number>();
  readonly #failedUntil = new Map<VmId, number>();
  readonly #told = new Hushed<string>(QUIET_MS);

  constructor({ budgetMib, clock }: { readonly budgetMib: number | null; readonly clock: Clock }) {
    this.budgetMib = budgetMib;
    this.clock = clock;
  }

  /** One after the other, in the order they came: of two that each would fit, the second must see the first, and a large one is not passed by. */
  inTurn<T>(work: () => Promise<T>): Promise<T> {
    return this.#lock.run('memory', work);
  }

  /** What was promised to whom, in MiB, as it is at this moment. */
  promised(): ReadonlyMap<VmId, number> {
    return new Map(this.#promised);
  }

  /** Promises memory to some VMs. */
  promise(vms: readonly { readonly vmId: VmId; readonly memMib: number }[]): Promised {
    for (const { vmId, memMib } of vms) this.#promised.set(vmId, memMib);
    let held = true;
    return {
      release: () => {
        // What was promised to the same VM since then is not taken back with this.
        if (held) for (const { vmId } of vms) this.#promised.delete(vmId);
        held = false;
      },
    };
  }

  /** Notes that a VM could not be put to sleep. */
  noteFailed(vmId: VmId): void {
    this.#failedUntil.set(vmId, this.clock.steady() + LEFT_ALONE_MS);
  }

  /** Until when a VM is left alone, on the steady clock; null: it is not. */
  failedUntil(vmId: VmId): number | null {
    const until = this.#failedUntil.get(vmId) ?? null;
    if (until === null || until > this.clock.steady()) return until;
    this.#failedUntil.delete(vmId);
    return null;
  }

  /** How many refusals under a key are to be told now, this one counted; 0: not now. */
  tell(key: string): number {
    return this.#told.times(key, this.clock.steady());
  }
}
