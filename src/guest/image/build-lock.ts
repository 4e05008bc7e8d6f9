import { readFile, rm, writeFile } from 'node:fs/promises';
import { isErrno } from '../../base/errno.ts';
import type { Clock } from '../../base/clock.ts';
import { until } from '../../base/until.ts';
import { identify, isAlive, type ProcessIdentity } from '../../host/process.ts';

export interface LockDeps {
  readonly clock: Clock;
  /** Called once when another process has the lock. */
  readonly onWait: (owner: number) => void;
}

/**
 * Does `work` while no other process that asks for the same lock file does. The file names its owner; an owner that runs no
 * longer has lost it. Two that find the same dead owner at once may both go on: what is done under it must bear that.
 */
export async function withLockFile<T>(
  { clock, onWait }: LockDeps,
  path: string,
  signal: AbortSignal,
  work: () => Promise<T>,
): Promise<T> {
  const me = await identify(process.pid);
  if (!me) throw new Error('this process has no entry in /proc');
  let told = false;
  await until(
    { clock, signal },
    async () => {
      if (await take(path, me)) return true;
      const owner = await readOwner(path);
      if (owner === 'gone') return undefined;
      if (owner === 'unreadable' || !(await isAlive(owner))) {
        await rm(path, { force: true });
      } else if (!told) {
        told = true;
        onWait(owner.pid);
      }
      return undefined;
    },
    { firstMs: 20, mostMs: 1000 },
  );
  try {
    return await work();
  } finally {
    await rm(path, { force: true });
  }
}

async function take(path: string, me: ProcessIdentity): Promise<boolean> {
  try {
    await writeFile(path, JSON.stringify(me), { flag: 'wx', mode: 0o600 });
    return true;
  } catch (error) {
    if (isErrno(error, 'EEXIST')) return false;
    throw error;
  }
}

async function readOwner(path: string): Promise<ProcessIdentity | 'gone' | 'unreadable'> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return 'gone';
    throw error;
  }
  try {
    const value: unknown = JSON.parse(text);
    return isIdentity(value) ? value : 'unreadable';
  } catch {
    return 'unreadable';
  }
}

function isIdentity(value: unknown): value is ProcessIdentity {
  return (
    typeof value === 'object' &&
    value !== null &&
    'pid' in value &&
    Number.isSafeInteger(value.pid) &&
    'startTime' in value &&
    typeof value.startTime === 'string' &&
    'bootId' in value &&
    typeof value.bootId === 'string'
  );
}
