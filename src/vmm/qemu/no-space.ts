import { systemClock, type Clock } from '../../base/clock.ts';
import { VmmError } from '../driver.ts';
import type { QmpEvent } from './qmp.ts';

/** How often a guest that stands still is let try again, in milliseconds. */
const RETRY_MS = 5000;
/** One that has gone on for so long has its room, in milliseconds. */
const SETTLED_MS = 10_000;
const LOOK_MS = 1000;

/** What QEMU says when a write found no room on the host's disk: it has stopped the guest, and keeps the write (BLOCK_IO_ERROR, `werror=enospc`). */
export function isNoSpace({ event, data }: QmpEvent): boolean {
  return event === 'BLOCK_IO_ERROR' && data['action'] === 'stop' && data['nospace'] === true;
}

/**
 * A guest whose writes may find no room on the host's disk. QEMU stops it then and keeps what it wrote; `cont` has it written again. So it
 * is let go on every few seconds, until there is room.
 */
export class NoSpace {
  readonly #cont: () => Promise<boolean>;
  readonly #ended: AbortSignal;
  readonly #clock: Clock;
  #times = 0;
  #lacking = false;
  #hear: (lacking: boolean) => void = () => undefined;

  /**
   * `cont`: lets the guest go on where it stands still for want of room and nobody paused it, and gives whether it runs now. `ended`: aborts
   * when nothing is to be done any more.
   */
  constructor(cont: () => Promise<boolean>, ended: AbortSignal, clock: Clock = systemClock) {
    this.#cont = cont;
    this.#ended = ended;
    this.#clock = clock;
  }

  /** `hear`: with true when the guest begins to stand still, also where it does already, and with false when it has gone on. */
  listen(hear: (lacking: boolean) => void): void {
    this.#hear = hear;
    if (this.#lacking) hear(true);
  }

  /** QEMU has said that it stopped the guest, again perhaps. */
  stopped(): void {
    this.#times++;
    if (this.#lacking || this.#ended.aborted) return;
    this.#lacking = true;
    this.#hear(true);
    this.#tryAgain().catch(() => undefined);
  }

  /** Ends when the guest has gone on; rejects when it has ended. */
  async #tryAgain(): Promise<void> {
    do await this.#clock.sleep(RETRY_MS, this.#ended);
    while (!(await this.#goesOn()));
    this.#lacking = false;
    this.#hear(false);
  }

  async #goesOn(): Promise<boolean> {
    const times = this.#times;
    try {
      if (!(await this.#cont())) return false;
    } catch (error) {
      // A QEMU that does not answer now may do so later; one that has ended ends this by its signal.
      if (error instanceof VmmError) return false;
      throw error;
    }
    for (let waited = 0; waited < SETTLED_MS; waited += LOOK_MS) {
      await this.#clock.sleep(LOOK_MS, this.#ended);
      if (this.#times !== times) return false;
    }
    return true;
  }
}
