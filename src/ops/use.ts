import type { UseSpan } from '../model/history.ts';

/** One use of a VM, for whoever carries it. */
export interface Use {
  /** Something went through it, either way. */
  payload(): void;
  /** It is over; saying so again does nothing. */
  end(): void;
}

/** The use of a VM by somebody who does not count as using it. */
export const NOT_COUNTED: Use = { payload: () => undefined, end: () => undefined };

/** A time in which a VM was used, in milliseconds of a clock that only goes forward. */
export type Span = Pick<UseSpan, 'by' | 'from' | 'until'>;
