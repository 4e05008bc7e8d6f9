/** Time as a thing one is given, so that tests decide what time it is. */
export interface Clock {
  /** Milliseconds since 1970, UTC. */
  now(): number;
  /** Milliseconds since some moment, for measuring: it only goes forward, whoever sets the time of day. */
  steady(): number;
  /** Resolves after `ms` milliseconds; rejects with the signal's reason when it aborts first. */
  sleep(ms: number, signal?: AbortSignal): Promise<void>;
}

/** A thread measures from its own start; with this, all of a process from the same moment. */
const STARTED = Number(process.hrtime.bigint()) / 1e6 - performance.now();

/** The machine's own clock. Whoever sleeps by it keeps the process from ending. */
export const systemClock: Clock = {
  now: () => Date.now(),
  steady: () => STARTED + performance.now(),
  sleep: (ms, signal) =>
    new Promise((resolve, reject) => {
      if (signal?.aborted) return reject(abortReason(signal));
      const onAbort = (): void => {
        clearTimeout(timer);
        if (signal) reject(abortReason(signal));
      };
      const timer = setTimeout(() => {
        signal?.removeEventListener('abort', onAbort);
        resolve();
      }, ms);
      signal?.addEventListener('abort', onAbort, { once: true });
    }),
};

/** The reason a signal aborted with, as an Error whatever was given. */
export function abortReason(signal: AbortSignal): Error {
  return signal.reason instanceof Error ? signal.reason : new Error(String(signal.reason));
}

/** A clock for tests: it stands still until `advance` moves it, and wakes those whose time has come, in order. */
export class FakeClock implements Clock {
  #now: number;
  /** What the time of day is off what it has measured. */
  #off = 0;
  #sleepers: { at: number; wake: () => void }[] = [];

  constructor(start = Date.UTC(2026, 2, 6, 10, 30)) {
    this.#now = start;
  }

  now(): number {
    return this.#now + this.#off;
  }

  /** Somebody sets the time of day, `ms` on or back; what is measured goes on. */
  jump(ms: number): void {
    this.#off += ms;
  }

  steady(): number {
    return this.#now;
  }

  sleep(ms: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      if (signal?.aborted) return reject(abortReason(signal));
      const sleeper = { at: this.#now + ms, wake: resolve };
      this.#sleepers.push(sleeper);
      signal?.addEventListener(
        'abort',
        () => {
          this.#sleepers = this.#sleepers.filter((other) => other !== sleeper);
          reject(abortReason(signal));
        },
        { once: true },
      );
    });
  }

  /** How many are asleep: lets a test wait until the code under test has gone to sleep. */
  get sleepers(): number {
    return this.#sleepers.length;
  }

  /** Moves time on by `ms` and lets everyone run whose time has come. */
  async advance(ms: number): Promise<void> {
    const until = this.#now + ms;
    for (;;) {
      const next = this.#sleepers.filter((s) => s.at <= until).sort((a, b) => a.at - b.at)[0];
      if (!next) break;
      this.#now = Math.max(this.#now, next.at);
      this.#sleepers = this.#sleepers.filter((other) => other !== next);
      next.wake();
      await new Promise((resolve) => setImmediate(resolve));
    }
    this.#now = until;
    await new Promise((resolve) => setImmediate(resolve));
  }
}
