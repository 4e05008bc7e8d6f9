import { readdir, readFile, readlink } from 'node:fs/promises';
import { run } from '../../src/host/run.ts';

/** What of ours stands on the machine: each line names one thing, and is the same as long as that thing is there. */
export interface HostSnapshot {
  readonly processes: readonly string[];
  readonly links: readonly string[];
  readonly namespaces: readonly string[];
  readonly tables: readonly string[];
  readonly mounts: readonly string[];
}

/** Programs that Hatch starts and must end. */
const OURS = /(^|\/)(qemu-system-\S+|dnsmasq|firecracker|qemu-img|genisoimage)$|src\/daemon\/main\.ts$/;

/**
 * Looks at the machine: guests, dnsmasq and daemons that run (in whatever namespace) and processes that live in `folder`,
 * links and nftables tables of the namespace we are in, named namespaces, mounts but for the one `ip netns add` makes for all
 * namespaces when it is first called. Zombies are nobody.
 */
export async function lookAtHost(folder?: string): Promise<HostSnapshot> {
  const [processes, links, namespaces, tables, mounts] = await Promise.all([
    ourProcesses(folder),
    readdir('/sys/class/net'),
    readdir('/run/netns').catch(() => []),
    run(['nft', 'list', 'tables']),
    readFile('/proc/self/mountinfo', 'utf8'),
  ]);
  return {
    processes,
    links: [...links].sort(),
    namespaces: [...namespaces].sort(),
    tables: tables.stdout.split('\n').filter((line) => line !== ''),
    mounts: mounts
      .split('\n')
      .map((line) => line.split(' ')[4] ?? '')
      .filter((path) => path !== '' && path !== '/run/netns'),
  };
}

/** What is there after and was not before, in words; empty when nothing was left. */
export function leaks(before: HostSnapshot, after: HostSnapshot): readonly string[] {
  const fresh = (what: string, kind: keyof HostSnapshot): string[] => {
    const old = new Set(before[kind]);
    return after[kind].filter((thing) => !old.has(thing)).map((thing) => `${what} ${thing}`);
  };
  return [
    ...fresh('process', 'processes'),
    ...fresh('link', 'links'),
    ...fresh('network namespace', 'namespaces'),
    ...fresh('nftables', 'tables'),
    ...fresh('mount', 'mounts'),
  ];
}

/** The processes that live in a folder or were told of it, each as in a HostSnapshot. */
export function processesOf(folder: string): Promise<readonly string[]> {
  return processes(({ argv, cwd }) => cwd.startsWith(folder) || argv.some((word) => word.includes(folder)));
}

function ourProcesses(folder: string | undefined): Promise<readonly string[]> {
  return processes(
    ({ argv, cwd }) =>
      argv.slice(0, 3).some((word) => OURS.test(word)) ||
      (folder !== undefined && (cwd.startsWith(folder) || argv.some((word) => word.includes(folder)))),
  );
}

interface Seen {
  readonly argv: readonly string[];
  readonly cwd: string;
}

async function processes(wanted: (seen: Seen) => boolean): Promise<readonly string[]> {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name) && name !== String(process.pid));
  const found = await Promise.all(pids.map((pid) => describe(pid, wanted)));
  return found.filter((line) => line !== undefined).sort();
}

/** `1234 (started 5678) qemu-system-x86_64 -name ...`, when it is wanted; undefined when not, or when it has ended. */
async function describe(pid: string, wanted: (seen: Seen) => boolean): Promise<string | undefined> {
  try {
    const [cmdline, stat, cwd] = await Promise.all([
      readFile(`/proc/${pid}/cmdline`, 'utf8'),
      readFile(`/proc/${pid}/stat`, 'utf8'),
      readlink(`/proc/${pid}/cwd`).catch(() => ''),
    ]);
    const argv = cmdline.split('\0').filter((word) => word !== '');
    // Field 3 is the state, field 22 the start time; the name before them is in brackets and may hold anything.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    if (argv.length === 0 || fields[0] === 'Z' || !wanted({ argv, cwd })) return undefined;
    return `${pid} (started ${fields[19]}) ${argv.join(' ').slice(0, 160)}`;
  } catch {
    // It ended while we looked.
    return undefined;
  }
}
