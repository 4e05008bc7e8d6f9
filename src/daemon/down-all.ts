import { basename, dirname } from 'node:path';
import type { Logger } from '../base/logger.ts';
import { exists, readIfThere } from '../host/files.ts';
import { environmentOf, neighbours, type Seen } from '../host/processes.ts';
import { CommandFailed, run, type Argv } from '../host/run.ts';
import { planAddresses } from '../model/cidr.ts';
import { dhcpFiles } from '../net/dhcp-server.ts';
import { readConf } from '../net/dnsmasq.ts';
import { endProcess } from '../vmm/processes.ts';
import { openNetwork } from './assemble.ts';
import type { Values } from './config.ts';
import { claimant, dataFolder } from './data-folder.ts';
import { downCommand } from './down.ts';
import { openLogger } from './logger.ts';

const MAIN = '/src/daemon/main.ts';
/** What a `down` may take beside the grace of its guests. */
const DOWN_MS = 120_000;

/**
 * `hatchd down --all`: takes down all that Hatch runs in this network namespace, whatever its data folder. Each hatchd that serves is
 * taken down by its own program and configuration, then this one's data folder, then guests and DHCP servers whose hatchd has gone.
 * Disks and rows stay. Gives the exit code: 1 where something could not be taken down, which is said.
 */
export async function downAllCommand(values: Values, graceSeconds: number): Promise<number> {
  const data = dataFolder(values.HATCH_DATA_DIR);
  const argv = ['down', '--grace', String(graceSeconds)] as const;
  const timeoutMs = DOWN_MS + graceSeconds * 1000;
  const codes: number[] = [];
  const own = await claimant(data);
  for (const { identity, argv: theirs, cwd } of await neighbours()) {
    const program = serving(theirs);
    const env = program && identity.pid !== own?.pid ? await environmentOf(identity.pid) : undefined;
    if (program && env) codes.push(await takeDown([...program, ...argv], { cwd, env, timeoutMs }));
  }
  if (await exists(data.vms)) codes.push(await downCommand(values, graceSeconds));

  const log = openLogger('warn', process.stderr.isTTY);
  for (const root of dataFoldersOf(await neighbours())) {
    const conf = readConf((await readIfThere(dhcpFiles(dataFolder(root).net).conf)) ?? '');
    const env = {
      HATCH_DATA_DIR: root,
      ...(conf && { HATCH_BRIDGE_NAME: conf.bridge, HATCH_BRIDGE_CIDR: conf.cidr }),
    };
    const me: Argv = [process.execPath, ...process.execArgv, process.argv[1] ?? MAIN];
    // Without its database nobody knows how to ask these guests.
    if (await exists(dataFolder(root).database))
      codes.push(await takeDown([...me, ...argv], { cwd: '/', env, timeoutMs }));
    codes.push(await sweep(values, root, conf, log));
  }
  const code = Math.max(0, ...codes);
  process.stdout.write(
    code === 0
      ? 'Nothing of Hatch runs here any more.\n'
      : 'Not everything could be taken down: see above.\n',
  );
  return code;
}

/** The program of a hatchd that serves, with its own options; undefined for any other process. */
function serving(argv: readonly string[]): Argv | undefined {
  const at = argv.findIndex((one) => one.endsWith(MAIN));
  const [node] = argv;
  if (at < 1 || node === undefined) return undefined;
  const words = argv.slice(at + 1).filter((one) => one !== 'serve');
  const options = words.filter((one, i) => one.startsWith('--settings') || words[i - 1] === '--settings');
  return options.length === words.length ? [node, ...argv.slice(1, at + 1), ...options] : undefined;
}

/** Runs a `down` of another folder, and says what it says. */
async function takeDown(
  argv: Argv,
  how: { readonly cwd: string; readonly env: Readonly<Record<string, string>>; readonly timeoutMs: number },
): Promise<number> {
  try {
    const { stdout, stderr, exitCode } = await run(argv, { ...how, okExitCodes: [0, 1, 2] });
    process.stdout.write(stdout);
    process.stderr.write(stderr);
    return exitCode;
  } catch (error) {
    if (!(error instanceof CommandFailed)) throw error;
    process.stderr.write(`hatchd: ${error.message}\n`);
    return 1;
  }
}

/** The data folders of hypervisors and DHCP servers that run: a hypervisor works in its VM's folder. */
function dataFoldersOf(seen: readonly Seen[]): ReadonlySet<string> {
  return new Set(seen.map(folderOf).filter((root) => root !== undefined));
}

function folderOf({ argv, cwd }: Seen): string | undefined {
  const program = basename(argv[0] ?? '');
  const conf = argv.find((one) => one.startsWith('--conf-file='))?.slice('--conf-file='.length);
  if (program === 'dnsmasq' && conf?.endsWith('/net/dnsmasq.conf')) return dirname(dirname(conf));
  return /^(qemu-system-|firecracker)/.test(program)
    ? /^(.+)\/vms\/vm-[a-z0-9]{12}(\/|$)/.exec(cwd)?.[1]
    : undefined;
}

/** Ends what still runs of a data folder, and removes its network. */
async function sweep(
  values: Values,
  root: string,
  conf: ReturnType<typeof readConf>,
  log: Logger,
): Promise<number> {
  try {
    for (const { identity, argv } of (await neighbours()).filter((one) => folderOf(one) === root)) {
      process.stdout.write(
        `Ending ${basename(argv[0] ?? '')} (pid ${identity.pid}), which is left of ${root}.\n`,
      );
      await endProcess(identity, basename(argv[0] ?? ''));
    }
    if (conf === undefined) return 0;
    const plan = planAddresses(conf.cidr);
    const theirs = { ...values, HATCH_BRIDGE_NAME: conf.bridge, HATCH_BRIDGE_CIDR: plan };
    await openNetwork(theirs, dataFolder(root), log).down();
    return 0;
  } catch (error) {
    process.stderr.write(`hatchd: ${root}: ${error instanceof Error ? error.message : String(error)}\n`);
    return 1;
  }
}
