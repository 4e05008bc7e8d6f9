/** A figure as one line of JSON: what was measured, beside the bare reference of the same run. Times in milliseconds. */
export interface Figure {
  readonly name: string;
  readonly runs: number;
  readonly p50: number;
  readonly p95: number;
  readonly bare: { readonly what: string; readonly p50: number; readonly p95: number };
}

/** The value below which the share `q` (0 to 1) of the values lies. */
export function quantile(values: readonly number[], q: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))] ?? Number.NaN;
}

/** Runs the two in turn, `runs` times each after one that does not count, so that both see the same weather. */
export async function beside(
  name: string,
  runs: number,
  measured: () => Promise<number>,
  bare: { readonly what: string; readonly run: () => Promise<number> },
): Promise<Figure> {
  const [ours, theirs]: [number[], number[]] = [[], []];
  for (let i = -1; i < runs; i++) {
    const pair = [await measured(), await bare.run()] as const;
    if (i < 0) continue;
    ours.push(pair[0]);
    theirs.push(pair[1]);
  }
  const round = (value: number): number => Math.round(value * 100) / 100;
  return {
    name,
    runs,
    p50: round(quantile(ours, 0.5)),
    p95: round(quantile(ours, 0.95)),
    bare: { what: bare.what, p50: round(quantile(theirs, 0.5)), p95: round(quantile(theirs, 0.95)) },
  };
}
