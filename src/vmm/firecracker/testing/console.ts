import type { Body } from './bodies.ts';
import { OutputFile } from './output-file.ts';

export type RateLimit = Body<'serial'>['rate_limiter'];

/** The serial port: what the guest writes to it goes to a file or to standard output, and what is over the rate is lost. */
export class SerialConsole {
  readonly #out: OutputFile;
  readonly #limit: RateLimit;
  readonly #count: (written: number, dropped: number) => void;
  #burst: number;
  #tokens: number;
  #since = performance.now();

  /** Throws the system's error when the file cannot be opened. */
  constructor(path: string | null, limit: RateLimit, count: (written: number, dropped: number) => void) {
    this.#out = path === null ? OutputFile.standardOutput : OutputFile.open(path);
    // A bucket of no size, or never refilled, is none.
    this.#limit = limit && limit.size > 0 && limit.refill_time > 0 ? limit : null;
    this.#count = count;
    this.#burst = this.#limit?.one_time_burst ?? 0;
    this.#tokens = this.#limit?.size ?? 0;
  }

  write(text: string): void {
    const bytes = Buffer.from(text);
    const allowed = this.#take(bytes.length);
    if (allowed > 0) this.#out.write(bytes.subarray(0, allowed).toString('utf8'));
    this.#count(allowed, bytes.length - allowed);
  }

  #take(wanted: number): number {
    if (!this.#limit) return wanted;
    const now = performance.now();
    const refilled = ((now - this.#since) / this.#limit.refill_time) * this.#limit.size;
    this.#since = now;
    this.#tokens = Math.min(this.#limit.size, this.#tokens + refilled);
    const fromBurst = Math.min(wanted, this.#burst);
    this.#burst -= fromBurst;
    const fromBucket = Math.min(wanted - fromBurst, Math.floor(this.#tokens));
    this.#tokens -= fromBucket;
    return fromBurst + fromBucket;
  }
}
