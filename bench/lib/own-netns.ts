import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { makeNetns } from '../../test/support/netns.ts';

const INSIDE = 'BENCH_INSIDE';

/** Runs the program once more in a network namespace of its own, and `work` there; what is left in it then ends with it. */
export async function inOwnNetns(file: string, work: () => Promise<void>): Promise<void> {
  if (process.env[INSIDE] === '1') return work();
  const netns = await makeNetns('hatch-bench');
  // Ours to the end: what was interrupted in there ends by itself, and is cleared away here.
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => undefined);
  try {
    const [program, ...args] = netns.enter([
      process.execPath,
      '--disable-warning=ExperimentalWarning',
      file,
      ...process.argv.slice(2),
    ]);
    const child = spawn(program, args, { stdio: 'inherit', env: { ...process.env, [INSIDE]: '1' } });
    const [code] = (await once(child, 'exit')) as [number | null];
    process.exitCode = code ?? 1;
  } finally {
    await netns.dispose();
  }
}
