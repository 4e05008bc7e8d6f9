import type { Clock } from '../base/clock.ts';
import { raceAbort } from '../base/deadline.ts';
import type { AccountId, EventId, VmId } from '../base/ids.ts';
import { invalid } from '../model/failure.ts';
import type { HatchEvent } from '../model/records.ts';
import type { Store } from '../store/store.ts';

/** How soon those who follow hear of what has happened, in milliseconds; on other hosts of the same database too. */
const LOOK_MS = 200;
/** So many are read at a time. */
const MOST = 100;

/** Which events somebody asks for; undefined: whatever. */
export interface EventsAsked {
  /** By id or name. */
  readonly vm?: string | undefined;
  readonly kind?: string | undefined;
  /** Of all accounts. */
  readonly everyone?: boolean;
}

/** The same, found out; undefined: whatever. */
export interface EventFilter {
  readonly accountId: AccountId | undefined;
  readonly vmId: VmId | undefined;
  readonly kind: string | undefined;
}

/** Events as they happen. However many follow them, the database is asked by one of them whether there is anything new. */
export class EventFeed {
  readonly #store: Pick<Store, 'events'>;
  readonly #clock: Clock;
  #newest = 0;
  #looking: Promise<void> | undefined;

  constructor({ store, clock }: { readonly store: Pick<Store, 'events'>; readonly clock: Clock }) {
    this.#store = store;
    this.#clock = clock;
  }

  /**
   * The events after the one with this id, or from now on, the oldest first, until the signal aborts: then it ends. Each is read when it
   * is asked for, so that whoever is slow keeps nothing in memory. Throws `invalid_request` for an id that is not kept, or is not among
   * them.
   */
  async begin(
    filter: EventFilter,
    after: EventId | undefined,
    signal: AbortSignal,
  ): Promise<AsyncIterable<HatchEvent>> {
    const { events } = this.#store;
    const seen = after === undefined ? await events.newest() : await this.#seqOf(after, filter);
    return this.#follow(filter, seen, signal);
  }

  async *#follow(filter: EventFilter, from: number, signal: AbortSignal): AsyncGenerator<HatchEvent> {
    const { events } = this.#store;
    let seen = from;
    while (!signal.aborted) {
      // Before they are read: what comes meanwhile is read the next time.
      const newest = await events.newest();
      const found = newest > seen ? await events.after(seen, filter, MOST) : [];
      for (const event of found) {
        yield event;
        if (signal.aborted) return;
      }
      if (found.length === MOST) {
        seen = found.at(-1)?.seq ?? seen;
        continue;
      }
      seen = Math.max(newest, found.at(-1)?.seq ?? 0);
      await this.#anythingAfter(seen, signal);
    }
  }

  async #seqOf(id: EventId, { accountId, vmId }: EventFilter): Promise<number> {
    const event = await this.#store.events.get(id);
    const among =
      event &&
      (accountId === undefined || event.accountId === accountId) &&
      (vmId === undefined || event.vmId === vmId);
    if (!among)
      throw invalid(
        'Last-Event-ID',
        'There is no such event any more: follow from now on, and read the list for what was before.',
      );
    return event.seq;
  }

  /** Resolves when there are events after a number, or the signal aborts. */
  async #anythingAfter(seq: number, signal: AbortSignal): Promise<void> {
    while (!signal.aborted && this.#newest <= seq) {
      this.#looking ??= this.#look().finally(() => (this.#looking = undefined));
      try {
        await raceAbort(this.#looking, signal);
      } catch (error) {
        if (!signal.aborted) throw error;
      }
    }
  }

  async #look(): Promise<void> {
    await this.#clock.sleep(LOOK_MS);
    this.#newest = await this.#store.events.newest();
  }
}
