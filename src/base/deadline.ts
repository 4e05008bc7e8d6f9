import { abortReason } from './clock.ts';

/** Thrown when something took longer than it was allowed to. */
export class DeadlineExceeded extends Error {
  override readonly name = 'DeadlineExceeded';
  readonly timeoutMs: number;
  constructor(what: string, timeoutMs: number) {
    super(`${what} took longer than ${timeoutMs} ms`);
    this.timeoutMs = timeoutMs;
  }
}

/** A signal that aborts when `signal` does, or after `timeoutMs` milliseconds with a DeadlineExceeded naming `what`. */
export function withTimeout(
  what: string,
  timeoutMs: number,
  signal?: AbortSignal,
): { readonly signal: AbortSignal; readonly clear: () => void } {
  const controller = new AbortController();
  const timer = setTimeout(() => controller.abort(new DeadlineExceeded(what, timeoutMs)), timeoutMs);
  return {
    signal: signal ? AbortSignal.any([signal, controller.signal]) : controller.signal,
    clear: () => clearTimeout(timer),
  };
}

/**
 * Waits for `work`, or rejects with the signal's reason when it aborts first. The work itself is not cancelled: whoever
 * gives up on it must release what it later produces.
 */
export function raceAbort<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    if (signal.aborted) {
      work.catch(() => undefined);
      return reject(abortReason(signal));
    }
    const onAbort = (): void => reject(abortReason(signal));
    signal.addEventListener('abort', onAbort, { once: true });
    work.then(resolve, reject).finally(() => signal.removeEventListener('abort', onAbort));
  });
}

/** Runs `work` with a signal that aborts after `timeoutMs`; rejects with DeadlineExceeded naming `what` when it does. */
export async function deadline<T>(
  what: string,
  timeoutMs: number,
  work: (signal: AbortSignal) => Promise<T>,
  signal?: AbortSignal,
): Promise<T> {
  const limit = withTimeout(what, timeoutMs, signal);
  try {
    return await raceAbort(work(limit.signal), limit.signal);
  } finally {
    limit.clear();
  }
}
