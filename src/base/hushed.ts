/** Tells of what comes again and again no more often than once in a while, for each key by itself. */
export class Hushed<Key> {
  readonly #quietMs: number;
  readonly #told = new Map<Key, { readonly at: number; untold: number }>();

  /** `quietMs`: how long a key is silent after it was told of, in milliseconds. */
  constructor(quietMs: number) {
    this.#quietMs = quietMs;
  }

  /** Notes that it came once more, at `now` in milliseconds of any clock. Gives how many are to be told of now, this one counted; 0: not now. */
  times(key: Key, now: number): number {
    for (const [other, { at, untold }] of this.#told)
      if (untold === 0 && now - at >= this.#quietMs) this.#told.delete(other);
    const before = this.#told.get(key);
    if (before && now - before.at < this.#quietMs) {
      before.untold++;
      return 0;
    }
    this.#told.set(key, { at: now, untold: 0 });
    return 1 + (before?.untold ?? 0);
  }

  /** Forgets a key that is no more. */
  forget(key: Key): void {
    this.#told.delete(key);
  }
}
