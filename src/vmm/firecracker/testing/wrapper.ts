import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';

/** The doubles, to be named as HATCH_FIRECRACKER_BIN and the like. */
export const FIRECRACKER_DOUBLE = join(import.meta.dirname, 'firecracker-double');
export const JAILER_DOUBLE = join(import.meta.dirname, 'jailer-double');

/**
 * Writes a script, at the absolute path `path`, that is a double with knobs set (knobs.ts): for whoever hands no environment
 * on. A jail around the script is called as the script is.
 */
export async function wrapDouble(
  path: string,
  knobs: Readonly<Record<`FC_DOUBLE_${string}`, string>>,
  program: string = FIRECRACKER_DOUBLE,
): Promise<string> {
  const quoted = (text: string): string => `'${text.replaceAll("'", "'\\''")}'`;
  const lines = Object.entries(knobs).map(([name, value]) => `export ${name}=${quoted(value)}`);
  await writeFile(path, `#!/bin/sh\n${lines.join('\n')}\nexec ${quoted(program)} "$@"\n`, { mode: 0o755 });
  return path;
}
