import assert from 'node:assert/strict';
import { lstat, open, readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Hatchd } from './hatchd.ts';

/** Somebody on the host who is neither root nor any VM's user. */
const STRANGER = 65_001;

/** What /proc says of a process's rights. */
export interface Rights {
  readonly uids: readonly number[];
  readonly gids: readonly number[];
  readonly groups: readonly number[];
  /** Permitted, effective, inheritable and ambient capabilities, as bits. */
  readonly capabilities: bigint;
  readonly noNewPrivileges: boolean;
  /** 2: a filter. */
  readonly seccomp: number;
}

/** The rights of a process, or of one of its threads (`thread`). */
export async function rightsOf(pid: number, thread = pid): Promise<Rights> {
  const status = await readFile(`/proc/${pid}/task/${thread}/status`, 'utf8');
  const words = (name: string): string[] =>
    (new RegExp(`^${name}:[ \t]*(.*)$`, 'm').exec(status)?.[1] ?? '')
      .split(/\s+/)
      .filter((word) => word !== '');
  const caps = ['CapPrm', 'CapEff', 'CapInh', 'CapAmb'].map((name) => BigInt(`0x${words(name)[0] ?? 'f'}`));
  return {
    uids: words('Uid').map(Number),
    gids: words('Gid').map(Number),
    groups: words('Groups').map(Number),
    capabilities: caps.reduce((all, one) => all | one),
    noNewPrivileges: words('NoNewPrivs')[0] === '1',
    seccomp: Number(words('Seccomp')[0]),
  };
}

/** Every thread of a VM's hypervisor has one user of the range, its group, no capability, and can get nothing more. Gives that user. */
export async function mustBeConfined(pid: number): Promise<number> {
  const threads = (await readdir(`/proc/${pid}/task`)).map(Number);
  const [uid] = (await rightsOf(pid)).uids;
  assert.ok(uid !== undefined && uid >= 61_000 && uid <= 64_999, `it runs as ${uid}`);
  const only = { uids: [uid, uid, uid, uid], gids: [uid, uid, uid, uid], groups: [uid] };
  for (const thread of threads)
    assert.deepEqual(await rightsOf(pid, thread), {
      ...only,
      capabilities: 0n,
      noNewPrivileges: true,
      seccomp: 2,
    });
  const limits = await readFile(`/proc/${pid}/limits`, 'utf8');
  // With 1 the kernel starts no program for a core dump either (core(5)).
  assert.match(limits, /^Max core file size +1 +1 /m);
  return uid;
}

/**
 * What of a folder a user with no other group may read or write, though every name in it were known to him, and the folders above let
 * him through.
 */
export async function openTo(uid: number, folder: string): Promise<readonly string[]> {
  const found: string[] = [];
  const look = async (path: string, name: string): Promise<void> => {
    const about = await lstat(path).catch(() => undefined);
    // A link opens nothing: what it leads to has rights of its own, where it lies.
    if (!about || about.isSymbolicLink()) return;
    const shift = about.uid === uid ? 6 : about.gid === uid ? 3 : 0;
    const rights = (about.mode >> shift) & 7;
    if (!about.isDirectory()) {
      if ((rights & 6) !== 0) found.push(name);
      return;
    }
    // A folder he may write to is his to fill; one he may list tells only names.
    if ((rights & 3) === 3) found.push(`${name}/`);
    if ((rights & 1) === 0) return;
    for (const one of await readdir(path)) await look(join(path, one), name === '' ? one : `${name}/${one}`);
  };
  await look(folder, '');
  return found.sort();
}

/** What of a data folder everyone may read: which process is its hatchd, what its host is called, and whether KVM runs code. */
export const PUBLIC = ['hatchd.pid', 'host-name', 'kvm.json'] as const;

/** What of a data folder anybody on the host may open. */
export function openToStrangers(data: string): Promise<readonly string[]> {
  return openTo(STRANGER, data);
}

/** Where a secret shows that others may see: logs, command lines and environments of all processes, files everyone may read. */
export async function whereSeen(
  secrets: readonly string[],
  { data, log }: Pick<Hatchd, 'data' | 'log'>,
): Promise<readonly string[]> {
  const found: string[] = [];
  const look = (where: string, text: string): void => {
    secrets.forEach((secret, i) => {
      if (text.includes(secret)) found.push(`secret ${i} in ${where}`);
    });
  };
  const { pid: daemon } = JSON.parse(await readFile(join(data, 'hatchd.pid'), 'utf8')) as { pid: number };
  // What is no line of the log is the first key, shown once.
  const lines = (await log()).split('\n').filter((line) => line.startsWith('{'));
  assert.notEqual(lines.length, 0);
  look("hatchd's log", lines.join('\n'));
  for (const name of await readdir('/proc')) {
    const pid = Number(name);
    // The daemon was given them by its environment, which nobody but its own user may read.
    if (!Number.isInteger(pid) || pid === process.pid) continue;
    for (const file of pid === daemon ? ['cmdline'] : ['cmdline', 'environ'])
      look(`/proc/${pid}/${file}`, await readFile(`/proc/${pid}/${file}`, 'utf8').catch(() => ''));
  }
  for (const name of await openToStrangers(data)) {
    if (name.endsWith('/')) continue;
    await using file = await open(join(data, name));
    look(name, await file.readFile('latin1'));
  }
  return found;
}
