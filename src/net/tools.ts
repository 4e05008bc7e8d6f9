import { CommandFailed, type Argv, type Run, type RunOptions } from '../host/run.ts';
import { NetError } from './network.ts';

/** The programs the network is made with (iproute2, nftables, dnsmasq), their JSON read, their failures as sentences. */

/** Each program, the Debian package it is in, and a harmless call that shows it is there. */
const PROGRAMS: readonly { readonly probe: Argv; readonly package: string }[] = [
  { probe: ['ip', '-V'], package: 'iproute2' },
  { probe: ['nft', '--version'], package: 'nftables' },
  { probe: ['dnsmasq', '--version'], package: 'dnsmasq-base' },
  { probe: ['dhcp_release'], package: 'dnsmasq-utils' },
];

/** Throws NetError `missing` naming program and package when one is not installed. */
export async function checkTools(run: Run): Promise<void> {
  for (const { probe } of PROGRAMS) await command(run, probe, { okExitCodes: [0, 1] });
}

/** Runs a command; its failure is a NetError. Gives what it printed. */
export async function command(
  run: Run,
  argv: Argv,
  options: Pick<RunOptions, 'input' | 'rest' | 'okExitCodes'> = {},
): Promise<string> {
  try {
    return (await run(argv, { timeoutMs: 15_000, ...options })).stdout;
  } catch (error) {
    throw asNetError(error);
  }
}

/**
 * Several `ip` commands in one process, in order; the first that fails ends it. Those of `rest` are carried out once it resolves; where it
 * rejects that is thrown, when the others have been.
 */
export async function ipBatch(
  run: Run,
  lines: readonly string[],
  rest?: Promise<readonly string[]>,
): Promise<void> {
  const text = (some: readonly string[]): string => some.map((line) => `${line}\n`).join('');
  if (rest) await command(run, ['ip', '-batch', '-'], { input: text(lines), rest: rest.then(text) });
  else if (lines.length > 0) await command(run, ['ip', '-batch', '-'], { input: text(lines) });
}

/** Applies nftables text in one transaction: all of it or nothing. */
export async function nftApply(run: Run, text: string): Promise<void> {
  if (text !== '') await command(run, ['nft', '-f', '-'], { input: text });
}

/** One object of `nft -j`: a table, set, chain, rule, each under its own key. */
export type NftObject = Readonly<Record<string, Readonly<Record<string, unknown>> | undefined>>;

/** What `nft -j list ...` shows; undefined when there is no such thing. */
export async function nftList(
  run: Run,
  ...what: readonly string[]
): Promise<readonly NftObject[] | undefined> {
  try {
    const { stdout } = await run(['nft', '-j', 'list', ...what]);
    return (JSON.parse(stdout) as { nftables: readonly NftObject[] }).nftables;
  } catch (error) {
    if (isNotThere(error)) return undefined;
    throw asNetError(error);
  }
}

function isNotThere(error: unknown): boolean {
  return error instanceof CommandFailed && /No such file or directory/.test(error.stderrTail);
}

/** What nftables text shows, set elements left out; undefined when something it names is not there. */
export async function nftShow(run: Run, text: string): Promise<string | undefined> {
  try {
    return (await run(['nft', '--terse', '-f', '-'], { input: text })).stdout;
  } catch (error) {
    if (isNotThere(error)) return undefined;
    throw asNetError(error);
  }
}

/** A link as `ip -json -details address show` has it. */
export interface Link {
  readonly ifname: string;
  readonly ifindex: number;
  readonly flags: readonly string[];
  readonly mtu: number;
  readonly master?: string;
  readonly ifalias?: string;
  readonly linkinfo?: {
    readonly info_kind?: string;
    /** Of a tap: its owner. */
    readonly info_data?: { readonly user?: number | string };
    readonly info_slave_data?: { readonly isolated?: boolean };
  };
  readonly addr_info: readonly {
    readonly family: string;
    readonly local?: string;
    readonly prefixlen: number;
  }[];
}

/** All links with their addresses, or the one named; empty when that is not there. */
export async function listLinks(run: Run, name?: string): Promise<readonly Link[]> {
  try {
    const { stdout } = await run([
      'ip',
      '-json',
      '-details',
      'address',
      'show',
      ...(name ? ['dev', name] : []),
    ]);
    return (JSON.parse(stdout || '[]') as readonly (Link | Record<string, never>)[]).filter(
      (link): link is Link => 'ifname' in link,
    );
  } catch (error) {
    if (error instanceof CommandFailed && /does not exist/.test(error.stderrTail)) return [];
    throw asNetError(error);
  }
}

/** Those of the named links that are there, looked at by one process. */
export async function listNamed(run: Run, names: readonly string[]): Promise<ReadonlyMap<string, Link>> {
  const input = names.map((name) => `address show dev ${name}\n`).join('');
  // -force: one that is not there does not end it; a line of JSON for each that is.
  const said = await command(run, ['ip', '-json', '-details', '-force', '-batch', '-'], {
    input,
    okExitCodes: [0, 1],
  });
  const links = said
    .split('\n')
    .filter((line) => line.startsWith('['))
    .flatMap((line) => JSON.parse(line) as readonly (Link | Record<string, never>)[])
    .filter((link): link is Link => 'ifname' in link);
  return new Map(links.map((link) => [link.ifname, link]));
}

interface LinkCounters {
  readonly bytes: number;
  readonly packets: number;
}

/** What a link has received and sent, in the kernel's 64-bit counters; undefined when it is not there. */
export async function linkCounters(
  run: Run,
  name: string,
): Promise<{ readonly rx: LinkCounters; readonly tx: LinkCounters } | undefined> {
  try {
    const { stdout } = await run(['ip', '-json', '-statistics', 'link', 'show', 'dev', name]);
    const [link] = JSON.parse(stdout) as readonly {
      readonly stats64: { readonly rx: LinkCounters; readonly tx: LinkCounters };
    }[];
    return link?.stats64;
  } catch (error) {
    if (error instanceof CommandFailed && /does not exist/.test(error.stderrTail)) return undefined;
    throw asNetError(error);
  }
}

export interface Route {
  /** `default` or a network; a single address has no prefix. */
  readonly dst: string;
  readonly dev?: string;
  readonly type?: string;
}

/** The IPv4 routes of all tables but the one of local addresses. */
export async function listRoutes(run: Run): Promise<readonly Route[]> {
  const shown = await command(run, ['ip', '-4', '-json', 'route', 'show', 'table', 'all']);
  const routes = JSON.parse(shown || '[]') as readonly (Route & { readonly table?: string })[];
  return routes.filter((route) => route.table !== 'local');
}

/** A failure of the machine as a NetError; what is one already stays. */
export function asNetError(error: unknown): unknown {
  if (error instanceof NetError) return error;
  if (error instanceof CommandFailed) {
    const [program] = error.argv;
    if (error.missing) {
      const found = PROGRAMS.find(({ probe }) => probe[0] === program)?.package;
      const hint = found === undefined ? 'install it' : `install the package ${found}`;
      return new NetError(`the program ${program} is not installed; ${hint}`, {
        kind: 'missing',
        cause: error,
      });
    }
    if (/not permitted|permission denied|must be root/i.test(error.stderrTail)) {
      return new NetError('the host does not let us change its network; run hatchd as root', {
        kind: 'no_permission',
        cause: error,
      });
    }
    if (/no space left/i.test(error.stderrTail)) {
      return new NetError('the disk is full', { kind: 'no_space', cause: error });
    }
    return new NetError(error.message, { cause: error });
  }
  if (error instanceof Error && 'code' in error) {
    if (error.code === 'ENOSPC' || error.code === 'EDQUOT') {
      return new NetError('the disk is full', { kind: 'no_space', cause: error });
    }
    if (error.code === 'EACCES' || error.code === 'EPERM') {
      return new NetError('a file of the network could not be written; run hatchd as root', {
        kind: 'no_permission',
        cause: error,
      });
    }
  }
  return error;
}

/** Throws a failure of the machine as a NetError. */
export function throwAsNetError(error: unknown): never {
  throw asNetError(error);
}
