import { randomBytes } from 'node:crypto';
import type { Clock } from '../base/clock.ts';
import { raceAbort } from '../base/deadline.ts';
import { idsFrom, type AccountId, type MakeId } from '../base/ids.ts';
import { KeyedLock } from '../base/keyed-lock.ts';
import { Failure } from '../model/failure.ts';
import type { GivenAnswer, IdempotentRequest } from '../store/idempotency.ts';
import type { Store } from '../store/store.ts';

/** An answer is given again for so long, in milliseconds. */
export const IDEMPOTENCY_KEPT_MS = 24 * 3_600_000;
/** How often it is looked whether another host has answered, and for how long, in milliseconds. */
const ELSEWHERE = { lookMs: 500, mostMs: 60_000 } as const;

/** A request that is to be carried out now, and no other time. */
export interface Turn {
  /** The ids of what it makes: the same at every try. */
  readonly newId: MakeId;
  /** Keeps the answer, to be given to whoever asks again; null: it came to nothing that lasts, and may be tried again. Resolves once that is on disk. */
  settle(answer: GivenAnswer | null): Promise<void>;
}

type Step =
  | { readonly kind: 'answered'; readonly is: GivenAnswer }
  | { readonly kind: 'turn'; readonly is: Turn }
  | { readonly kind: 'here'; readonly is: Promise<void> }
  | { readonly kind: 'elsewhere' };

/** Requests that may be sent again with the same key: each is carried out once, and answered alike. */
export class IdempotentRequests {
  readonly #deps: {
    readonly store: Pick<Store, 'idempotency'>;
    readonly clock: Clock;
    readonly hostId: string;
  };
  /** This daemon, among those that were and are. */
  readonly #worker: string;
  readonly #underWay = new Map<string, Promise<void>>();
  readonly #lock = new KeyedLock();

  constructor(deps: {
    readonly store: Pick<Store, 'idempotency'>;
    readonly clock: Clock;
    readonly hostId: string;
  }) {
    this.#deps = deps;
    this.#worker = `${deps.hostId} ${randomBytes(8).toString('hex')}`;
  }

  /**
   * Gives the answer that a request with this key was given, once there is one, or its turn to be carried out. `fingerprint`: of all that
   * makes it another request. Throws `already_exists` for a key that another request was sent with, `unavailable` when another host has not answered
   * for a minute, and the signal's reason.
   */
  async of(
    { accountId }: { readonly accountId: AccountId },
    key: string,
    fingerprint: string,
    signal: AbortSignal,
  ): Promise<GivenAnswer | Turn> {
    const { clock } = this.#deps;
    const name = `${accountId} ${key}`;
    const until = clock.steady() + ELSEWHERE.mostMs;
    for (;;) {
      signal.throwIfAborted();
      // One after the other: who comes second finds the first at it.
      const step = await this.#lock.run(name, () => this.#claim(name, accountId, key, fingerprint));
      if (step.kind !== 'elsewhere' && step.kind !== 'here') return step.is;
      if (step.kind === 'here') {
        await raceAbort(step.is, signal);
        continue;
      }
      if (clock.steady() > until)
        throw new Failure('unavailable', 'Another host is at this request and has not answered; ask again.', {
          details: { retry_after_seconds: 5 },
        });
      await clock.sleep(ELSEWHERE.lookMs, signal);
    }
  }

  async #claim(name: string, accountId: AccountId, key: string, fingerprint: string): Promise<Step> {
    const { store, clock, hostId } = this.#deps;
    const secret = randomBytes(32).toString('hex');
    const asked = { accountId, key, fingerprint, secret, worker: this.#worker };
    const found = await store.idempotency.claim(asked, clock.now() - IDEMPOTENCY_KEPT_MS);
    if (found.fingerprint !== fingerprint) throw another();
    if (found.answer) return { kind: 'answered', is: found.answer };
    const here = this.#underWay.get(name);
    if (here) return { kind: 'here', is: here };
    const { worker } = found;
    if (found.secret !== secret) {
      // What a daemon before this one was at, or nobody is any more, is taken up; what another host is at is its own.
      const left = worker === null || worker.startsWith(`${hostId} `);
      if (!left || !(await store.idempotency.takeUp(found, worker, this.#worker)))
        return { kind: 'elsewhere' };
    }
    return { kind: 'turn', is: this.#turn(name, found) };
  }

  #turn(name: string, of: Pick<IdempotentRequest, 'accountId' | 'key' | 'secret'>): Turn {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#underWay.set(name, promise);
    return {
      newId: idsFrom(of.secret),
      settle: async (answer) => {
        try {
          await this.#deps.store.idempotency.settle(
            { accountId: of.accountId, key: of.key, worker: this.#worker },
            answer,
          );
        } finally {
          this.#underWay.delete(name);
          resolve();
        }
      },
    };
  }
}

function another(): Failure {
  return new Failure(
    'already_exists',
    '"Idempotency-Key" was sent with another request before: use a fresh key for each thing you want made.',
    { details: { field: 'Idempotency-Key' } },
  );
}
