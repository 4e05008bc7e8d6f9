/** One thing that was looked at: what was seen, and what to do about it. */
export interface Finding {
  readonly check: string;
  readonly verdict: 'ok' | 'warn' | 'fail';
  readonly message: string;
}

/** What a check gives; what it throws is a failure in its own words. */
export type Found = Omit<Finding, 'check'>;

export const ok = (message: string): readonly Found[] => [{ verdict: 'ok', message }];
export const warn = (message: string): readonly Found[] => [{ verdict: 'warn', message }];
export const fail = (message: string): readonly Found[] => [{ verdict: 'fail', message }];
