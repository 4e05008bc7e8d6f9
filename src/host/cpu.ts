import { readFile } from 'node:fs/promises';

/** The host's processor, as its kernel tells it. */
export interface Cpu {
  readonly model: string;
  /** What it can do (`avx2`, `sha_ni`...), sorted. */
  readonly flags: readonly string[];
}

/** Reads the processor from /proc/cpuinfo (proc(5)); of several, the first: a host's are alike. */
export async function hostCpu(): Promise<Cpu> {
  return parseCpu(await readFile('/proc/cpuinfo', 'utf8'));
}

/** The processor in the text of a /proc/cpuinfo, of x86 (`model name`, `flags`) or ARM (`CPU part`, `Features`). */
export function parseCpu(text: string): Cpu {
  const field = (name: string): string | undefined =>
    new RegExp(`^${name}\\s*:\\s*(.+)$`, 'm').exec(text)?.[1]?.trim();
  const arm = [field('CPU implementer'), field('CPU part')].filter((part) => part !== undefined).join(' ');
  const flags = (field('flags') ?? field('Features') ?? '').split(/\s+/).filter((flag) => flag !== '');
  return { model: field('model name') ?? (arm === '' ? 'unknown' : arm), flags: flags.toSorted() };
}
