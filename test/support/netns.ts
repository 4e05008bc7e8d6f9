import { randomBytes } from 'node:crypto';
import { readdir, readlink, stat } from 'node:fs/promises';
import { run, type Run } from '../../src/host/run.ts';
import { commandLine } from '../../src/host/process.ts';

/** A network namespace of a test's own: nothing in it reaches the machine's network. Needs root and iproute2. */
export interface Netns {
  readonly name: string;
  /** `/run/netns/<name>` */
  readonly path: string;
  /** Runs commands inside it; the file system stays the machine's. */
  readonly run: Run;
  /** Prefixes a command so that it runs inside. */
  enter(argv: readonly string[]): [string, ...string[]];
  /** Links but lo, nftables tables and processes that are in it now, one a line. */
  contents(): Promise<readonly string[]>;
  /** Ends the processes in it and removes it. */
  dispose(): Promise<void>;
}

/** Makes a namespace with lo up; its name begins with `prefix`. */
export async function makeNetns(prefix: string): Promise<Netns> {
  const name = `${prefix}-${randomBytes(3).toString('hex')}`;
  const path = `/run/netns/${name}`;
  // The prefix keeps /sys/fs/cgroup, which `ip netns exec` would hide.
  const enter = (argv: readonly string[]): [string, ...string[]] => [
    'nsenter',
    `--net=${path}`,
    '--',
    ...argv,
  ];
  const inside: Run = (argv, options) => run(enter(argv), options);
  await run(['ip', 'netns', 'add', name]);
  await inside(['ip', 'link', 'set', 'dev', 'lo', 'up']);
  return {
    name,
    path,
    run: inside,
    enter,
    contents: async () => {
      const links = JSON.parse((await inside(['ip', '-json', 'link', 'show'])).stdout) as {
        ifname: string;
      }[];
      const nft = await inside(['nft', 'list', 'tables']);
      const made = links.map(({ ifname }) => `link ${ifname}`).filter((line) => !STANDARD_LINKS.test(line));
      const processes = await Promise.all(
        (await processesIn(path)).map(
          async (pid) => `process ${pid} ${(await commandLine(pid))?.join(' ') ?? ''}`,
        ),
      );
      return [...made, ...nft.stdout.split('\n').filter((line) => line !== ''), ...processes];
    },
    dispose: async () => {
      for (const pid of await processesIn(path)) kill(pid);
      await run(['ip', 'netns', 'del', name]);
    },
  };
}

/** What some kernels put into every namespace by themselves. */
const STANDARD_LINKS = /^link (lo|ifb\d+|tunl0|sit0|gre0|gretap0|erspan0|ip_vti0|ip6tnl0|ip6_vti0|ip6gre0)$/;

/** The processes that live in a namespace. */
export async function processesIn(path: string): Promise<readonly number[]> {
  const { ino } = await stat(path);
  const found: number[] = [];
  for (const entry of await readdir('/proc')) {
    if (!/^\d+$/.test(entry)) continue;
    try {
      if ((await readlink(`/proc/${entry}/ns/net`)) === `net:[${ino}]`) found.push(Number(entry));
    } catch {
      // It ended meanwhile.
    }
  }
  return found;
}

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // It ended meanwhile.
  }
}
