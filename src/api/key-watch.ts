import { errorFields } from '../base/logger.ts';
import type { KeyId } from '../base/ids.ts';
import { Failure } from '../model/failure.ts';
import type { Caller } from '../ops/hatch.ts';
import type { ApiDeps } from './app.ts';

/** How often keys with answers that go on are looked at, in milliseconds: one that was revoked, on any host, is dead within a second. */
const LOOK_MS = 500;

interface Held {
  readonly caller: Caller;
  readonly streams: Set<AbortController>;
}

/** Ends answers that go on when the keys they were asked with are revoked or expire. */
export class KeyWatch {
  readonly #deps: Pick<ApiDeps, 'hatch' | 'log' | 'clock'> & { readonly signal: AbortSignal };
  readonly #held = new Map<KeyId, Held>();
  #looks = false;

  /** `signal` ends it. */
  constructor(deps: Pick<ApiDeps, 'hatch' | 'log' | 'clock'> & { readonly signal: AbortSignal }) {
    this.#deps = deps;
  }

  /** An answer goes on; it is aborted when its caller's key is good no more. */
  join(caller: Caller, stream: AbortController): void {
    const held = this.#held.get(caller.keyId) ?? { caller, streams: new Set() };
    this.#held.set(caller.keyId, held);
    held.streams.add(stream);
    if (!this.#looks) void this.#look();
  }

  /** It is over. */
  leave({ keyId }: Caller, stream: AbortController): void {
    const held = this.#held.get(keyId);
    held?.streams.delete(stream);
    if (held?.streams.size === 0) this.#held.delete(keyId);
  }

  async #look(): Promise<void> {
    const { clock, signal } = this.#deps;
    this.#looks = true;
    while (this.#held.size > 0 && !signal.aborted) {
      // Rejects only because the server closed.
      await clock.sleep(LOOK_MS, signal).catch(() => undefined);
      if (!signal.aborted) await Promise.all([...this.#held.values()].map((held) => this.#check(held)));
    }
    this.#looks = false;
  }

  async #check({ caller, streams }: Held): Promise<void> {
    const { hatch, log } = this.#deps;
    try {
      if (await hatch.accounts.isGood(caller)) return;
      const why = new Failure('unauthorized', 'This API key has expired or was revoked.');
      for (const stream of streams) stream.abort(why);
    } catch (error) {
      log.warn({ key: caller.keyId, ...errorFields(error) }, 'could not look whether a key is still good');
    }
  }
}
