import type { AccountId } from '../base/ids.ts';

/** The answer a request was given, to be given again. */
export interface GivenAnswer {
  readonly status: number;
  readonly body: string;
  readonly location: string | null;
}

/** A request that was sent with an Idempotency-Key. */
export interface IdempotentRequest {
  readonly accountId: AccountId;
  readonly key: string;
  /** Of the request it was first sent with. */
  readonly fingerprint: string;
  /** What the ids of the things it makes come from. */
  readonly secret: string;
  /** Who is at it; null: nobody any more. */
  readonly worker: string | null;
  readonly answer: GivenAnswer | null;
  readonly createdAt: number;
}

/** Requests that may be sent again, and what was answered. */
export interface Idempotency {
  /**
   * Claims a key for a request, unless there is a row of it that was made after `since`; gives the row there is then: it is the caller's own
   * when `worker` is.
   */
  claim(
    request: Pick<IdempotentRequest, 'accountId' | 'key' | 'fingerprint' | 'secret'> & {
      readonly worker: string;
    },
    since: number,
  ): Promise<IdempotentRequest>;
  /** Takes up a request that `from` was at, or nobody, and that has no answer; false: somebody else did. */
  takeUp(
    of: Pick<IdempotentRequest, 'accountId' | 'key'>,
    from: string | null,
    worker: string,
  ): Promise<boolean>;
  /** Keeps the answer; null: the worker leaves it without one, for another try. */
  settle(
    of: Pick<IdempotentRequest, 'accountId' | 'key'> & { readonly worker: string },
    answer: GivenAnswer | null,
  ): Promise<void>;
  /** Removes those made before a time; gives how many. */
  prune(before: number): Promise<number>;
}
