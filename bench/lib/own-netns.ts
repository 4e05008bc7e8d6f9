import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { makeNetns } from '../../test/support/netns.ts';

const INSIDE = 'BENCH_INSIDE';

/**
 * Runs the program once more in a network namespace of its own, and `work` there, with a folder of its own for what is temporary; what is
 * left in them then ends with them.
 */
export async function inOwnNetns(file: string, work: () => Promise<void>): Promise<void> {
  if (process.env[INSIDE] === '1') return work();
  const netns = await makeNetns('hatch-bench');
  const folder = await mkdtemp(join(tmpdir(), 'own-'));
  // Hypervisors may be another user's.
  await chmod(folder, 0o755);
  // Ours to the end: what was interrupted in there ends by itself, and is cleared away here.
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => undefined);
  try {
    const [program, ...args] = netns.enter([
      process.execPath,
      '--disable-warning=ExperimentalWarning',
      file,
      ...process.argv.slice(2),
    ]);
    const env = { ...process.env, TMPDIR: folder, [INSIDE]: '1' };
    const child = spawn(program, args, { stdio: 'inherit', env });
    const [code] = (await once(child, 'exit')) as [number | null];
    process.exitCode = code ?? 1;
  } finally {
    await netns.dispose();
    await rm(folder, { recursive: true, maxRetries: 5 });
  }
}
