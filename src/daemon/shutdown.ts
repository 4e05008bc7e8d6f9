import { errorFields, type Logger } from '../base/logger.ts';

/** What has to be closed, in the order it was opened; it is closed in the reverse. Closing twice is fine. */
export class Shutdown {
  readonly #log: Logger;
  readonly #parts: { readonly name: string; readonly close: () => Promise<void> }[] = [];
  #running: Promise<void> | undefined;

  constructor(log: Logger) {
    this.#log = log;
  }

  /** Adds a part; `close` is called once. */
  add(name: string, close: () => Promise<void>): void {
    this.#parts.push({ name, close });
  }

  /** Closes every part, the last first; one that fails does not keep the others from closing. */
  run(why: string): Promise<void> {
    this.#running ??= this.#close(why);
    return this.#running;
  }

  async #close(why: string): Promise<void> {
    this.#log.info({ why }, 'stopping');
    for (const { name, close } of this.#parts.toReversed()) {
      try {
        await close();
      } catch (error) {
        this.#log.error({ part: name, ...errorFields(error) }, 'could not close a part');
      }
    }
    this.#log.info({}, 'stopped');
  }
}
