import { setImmediate } from 'node:timers/promises';

/** Turns of the event loop in which those who were let go at once come equally far. */
const GATHERING_TURNS = 2;

/**
 * Does in one go what several asked for while the one before was at work: who comes first begins, who comes meanwhile waits and shares
 * the next round.
 */
export class Together<T> {
  readonly #begin: (round: () => Promise<void>) => Promise<void>;
  readonly #work: (items: readonly T[]) => Promise<void>;
  #waiting: { readonly item: T; readonly done: PromiseWithResolvers<void> }[] = [];

  /**
   * `work` is given all items of a round, and must be such that it can be done again after it failed: then each is given to it by itself,
   * so that who is at fault is told, and nobody else. `begin` lets a round begin when its time has come: those who ask until then are in it.
   */
  constructor(
    begin: (round: () => Promise<void>) => Promise<void>,
    work: (items: readonly T[]) => Promise<void>,
  ) {
    this.#begin = begin;
    this.#work = work;
  }

  /** Resolves when the item was done; rejects with what it, done by itself, failed with. */
  async do(item: T): Promise<void> {
    const done = Promise.withResolvers<void>();
    this.#waiting.push({ item, done });
    if (this.#waiting.length === 1)
      this.#begin(() => this.#round()).catch((error: unknown) => {
        // It never began.
        for (const one of this.#waiting.splice(0)) one.done.reject(error);
      });
    return done.promise;
  }

  async #round(): Promise<void> {
    const all = this.#waiting.splice(0);
    try {
      await this.#work(all.map(({ item }) => item));
      for (const { done } of all) done.resolve();
    } catch (error) {
      if (all.length === 1) all[0]?.done.reject(error);
      else for (const { item, done } of all) await this.#work([item]).then(done.resolve, done.reject);
    }
  }
}

/**
 * Resolves when those who came at the same time have come as far: less than a millisecond for one alone. Of twenty the first would be a round
 * by itself, and the others wait for it.
 */
export async function gathered(): Promise<void> {
  for (let turns = 0; turns < GATHERING_TURNS; turns++) await setImmediate();
}
