import { randomUUID } from 'node:crypto';
import type { ErrorBody } from '../contract/error-body.ts';
import { ERRORS } from '../contract/errors.ts';
import type { Failure } from './failure.ts';

/** Failures as answers over HTTP: the API's and the proxy's are the same. */

/** Headers of every answer: no guessing of types, and nothing kept by caches on the way. */
export const ANSWER_HEADERS = { 'x-content-type-options': 'nosniff', 'cache-control': 'no-store' } as const;

/** The status a failure is answered with: the only place where a code becomes HTTP. */
export function statusOf(failure: Failure): number {
  return ERRORS[failure.code].status;
}

/** A failure as the body of an answer. */
export function errorBody(failure: Failure, requestId: string): ErrorBody {
  return {
    error: failure.message,
    code: failure.code,
    details: { ...failure.details },
    request_id: requestId,
  };
}

/** Headers that go with a failure: how to sign in, when to come again. */
export function errorHeaders(failure: Failure): Record<string, string> {
  const retryAfter = failure.details['retry_after_seconds'];
  return {
    ...(failure.code === 'unauthorized' ? { 'www-authenticate': 'Bearer realm="hatch"' } : {}),
    ...(typeof retryAfter === 'number' ? { 'retry-after': String(Math.ceil(retryAfter)) } : {}),
  };
}

/** A fresh name for a request, for its answer and the log. */
export function newRequestId(): string {
  // Its random bits are drawn many at a time, which makes it ten times as fast as eight bytes of its own.
  const random = randomUUID();
  return `req-${random.slice(0, 8)}${random.slice(-8)}`;
}
