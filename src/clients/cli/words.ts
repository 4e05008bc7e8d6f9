/** Someone typed something that is not understood; exit code 2. */
export class UsageError extends Error {
  override readonly name = 'UsageError';
}

const UNITS: readonly (readonly [string, number])[] = [
  ['d', 86_400],
  ['h', 3600],
  ['m', 60],
];

/** How long ago a time is, in one word: `12s`, `3m`, `5h`, `9d`. `now` in milliseconds. */
export function age(time: string, now: number): string {
  return duration(Math.max(0, (now - Date.parse(time)) / 1000));
}

/** How long something took, in its largest whole unit. */
export function duration(seconds: number): string {
  for (const [unit, length] of UNITS) if (seconds >= length) return `${Math.floor(seconds / length)}${unit}`;
  return `${Math.floor(seconds)}s`;
}

/** A size in bytes as people say it: `512B`, `1.5K`, `230M`, `2G`. */
export function formatBytes(bytes: number): string {
  let [size, at] = [bytes, 0];
  // What would be rounded to 1024 of a unit is one of the next.
  for (; rounded(size) >= 1024 && at < BYTE_UNITS.length - 1; at++) size /= 1024;
  return `${rounded(size)}${BYTE_UNITS[at] ?? ''}`;
}

const BYTE_UNITS = ['B', 'K', 'M', 'G', 'T'];

/** Three digits say enough. */
function rounded(size: number): number {
  return Number(size.toFixed(size < 100 ? 1 : 0));
}

/** A size in MiB as people say it: `512M`, `2G`, `1.5G`. */
export function formatMib(mib: number): string {
  if (mib < 1024) return `${mib}M`;
  return `${Number((mib / 1024).toFixed(1))}G`;
}

/**
 * Reads a size as people type it, in MiB: `512`, `512M`, `2G`, `1.5GiB`, `1T`. Throws a UsageError naming the option.
 */
export function parseMib(option: string, text: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*([MGT])?(?:i?B)?$/i.exec(text);
  const factor = { M: 1, G: 1024, T: 1024 * 1024 }[(match?.[2] ?? 'M').toUpperCase()] ?? Number.NaN;
  const mib = Number(match?.[1]) * factor;
  if (!Number.isInteger(mib))
    throw new UsageError(`${option} must be a size such as 512, 512M or 2G; it is "${text}".`);
  return mib;
}

/** Reads a whole number. Throws a UsageError naming the option. */
export function parseWhole(option: string, text: string): number {
  if (!/^\d{1,15}$/.test(text)) throw new UsageError(`${option} must be a whole number; it is "${text}".`);
  return Number(text);
}

/** Reads a duration as people type it, in seconds: `45`, `30s`, `5m`, `2h`, `1d`. Throws a UsageError. */
export function parseSeconds(option: string, text: string): number {
  const match = /^(\d{1,9})([smhd])?$/.exec(text);
  if (!match) throw new UsageError(`${option} must be a duration such as 30s, 5m or 2h; it is "${text}".`);
  const length = new Map([...UNITS, ['s', 1] as const]).get(match[2] ?? 's') ?? 1;
  return Number(match[1]) * length;
}

/** Reads `key=value` pairs; a later one wins. Throws a UsageError naming the option. */
export function parsePairs(option: string, pairs: readonly string[]): Record<string, string> {
  return Object.fromEntries(
    pairs.map((pair) => {
      const at = pair.indexOf('=');
      if (at < 1) throw new UsageError(`${option} must be key=value; it is "${pair}".`);
      return [pair.slice(0, at), pair.slice(at + 1)];
    }),
  );
}

/** Labels as they are typed: `a=b,c=d`; undefined when there are none. */
export function formatPairs(pairs: Readonly<Record<string, string>> | undefined): string | undefined {
  const words = Object.entries(pairs ?? {}).map(([key, value]) => `${key}=${value}`);
  return words.length === 0 ? undefined : words.join(',');
}
