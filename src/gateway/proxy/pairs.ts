/** Names and values in turn, as Node takes and gives them: what comes more than once stays so. */
export type RawHeaders = readonly string[];

/** Names with their values. */
export function pairs(raw: RawHeaders): [string, string][] {
  return raw.flatMap((name, i) => (i % 2 === 0 ? [[name, raw[i + 1] ?? '']] : []));
}
