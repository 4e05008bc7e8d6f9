import { setImmediate } from 'node:timers/promises';
import { abortReason } from '../../base/clock.ts';

/** How long work may go on before others get their turn. */
const SLICE_MS = 8;

/**
 * Keeps long work on bytes in memory from holding up everything else: who works calls `breathe` at every step, and is let go
 * on, made to wait its turn, or ended by the signal.
 */
export class Pace {
  readonly #signal: AbortSignal;
  #since = performance.now();

  constructor(signal: AbortSignal) {
    this.#signal = signal;
  }

  /** Nothing to wait for: undefined. Throws the signal's reason. */
  breathe(): Promise<void> | undefined {
    if (this.#signal.aborted) throw abortReason(this.#signal);
    return performance.now() - this.#since < SLICE_MS ? undefined : this.#wait();
  }

  async #wait(): Promise<void> {
    await setImmediate();
    this.#since = performance.now();
    if (this.#signal.aborted) throw abortReason(this.#signal);
  }
}
