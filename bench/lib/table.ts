import { loadavg } from 'node:os';

/** A figure beside its reference of the same run; `limit` says what it may be. */
export interface Line {
  readonly figure: string;
  readonly ours: number;
  readonly reference: number | null;
  readonly what: string;
  readonly ratio: number | null;
  readonly limit: string;
}

/** Makes a line of two values, with their ratio. */
export function line(
  figure: string,
  { ours, theirs }: { readonly ours: number; readonly theirs: number },
  what: string,
  limit: string,
): Line {
  return { figure, ours: round(ours), reference: round(theirs), what, ratio: round(ours / theirs), limit };
}

/** A value as a table has it: to the hundredth. */
export function round(value: number): number {
  return Math.round(value * 100) / 100;
}

/** Prints a figure as one line of JSON, with the machine's load. */
export function print(one: Line): void {
  console.log(JSON.stringify({ ...one, load: loadavg()[0] }));
}
