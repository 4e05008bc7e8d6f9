export class Stop extends Error {}
export function duration(ms: number): string;
export function step(
  what: string,
  work: (progress: (text: string) => void) => Promise<string | undefined | void>,
): Promise<void>;
export function command(
  program: string,
  args: readonly string[],
  options?: {
    readonly onLine?: (line: string) => void;
    readonly env?: Readonly<Record<string, string>>;
    readonly cwd?: string;
    readonly okCodes?: readonly number[];
  },
): Promise<{ readonly code: number; readonly output: string }>;
export function main(work: () => Promise<number | undefined | void>): Promise<void>;
