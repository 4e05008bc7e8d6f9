import { readdir, readFile, readlink } from 'node:fs/promises';
import { commandLine, identify, type ProcessIdentity } from './process.ts';

/** A process of this machine, as /proc shows it. */
export interface Seen {
  readonly identity: ProcessIdentity;
  readonly argv: readonly string[];
  /** The folder it works in, as this process would name it; that of a removed one without the kernel's remark. */
  readonly cwd: string;
}

/** The processes in this one's network namespace that we may look into, this one left out. */
export async function neighbours(): Promise<readonly Seen[]> {
  const here = await readlink('/proc/self/ns/net');
  const found: Seen[] = [];
  for (const name of await readdir('/proc')) {
    const pid = Number(name);
    if (!Number.isInteger(pid) || pid === process.pid) continue;
    try {
      if ((await readlink(`/proc/${pid}/ns/net`)) !== here) continue;
      const cwd = (await readlink(`/proc/${pid}/cwd`)).replace(/ \(deleted\)$/, '');
      const [identity, argv] = [await identify(pid), await commandLine(pid)];
      if (identity && argv && argv.length > 0) found.push({ identity, argv, cwd });
    } catch {
      // It has ended, or is not ours to look into.
    }
  }
  return found;
}

/** The environment a process was started with; undefined when it has ended or is another user's. */
export async function environmentOf(pid: number): Promise<Readonly<Record<string, string>> | undefined> {
  try {
    const lines = (await readFile(`/proc/${pid}/environ`, 'utf8')).split('\0').filter((line) => line !== '');
    return Object.fromEntries(
      lines.map((line) => [line.slice(0, line.indexOf('=')), line.slice(line.indexOf('=') + 1)]),
    );
  } catch {
    return undefined;
  }
}
