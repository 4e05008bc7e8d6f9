import { mkdir, readFile, symlink } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { systemClock } from '../../src/base/clock.ts';
import { until } from '../../src/base/until.ts';
import { HatchClient } from '../../src/clients/http.ts';
import type { Event } from '../../src/contract/event.ts';
import type { Vm } from '../../src/contract/vm.ts';
import { commandLine, isAlive, signalProcess, spawnDetached, type Detached } from '../../src/host/process.ts';
import { run, type Argv, type RunResult } from '../../src/host/run.ts';
import { makeKey } from './booted-vm.ts';
import { processesIn } from './netns.ts';
import { builtImage } from './built-image.ts';

const ROOT = join(import.meta.dirname, '../..');
/** Where the launcher has it too: a daemon that is started another way starts as fast. */
const NODE_COMPILE_CACHE = join(ROOT, 'node_modules/.cache/compiled');

/** A hatchd of a test's own: the program itself, in the namespace the test runs in. */
export interface Hatchd {
  readonly data: string;
  readonly url: string;
  /** With the admin key. */
  readonly client: HatchClient;
  readonly key: string;
  /** Resolves when the daemon has ended by itself. */
  readonly gone: () => Promise<void>;
  /** Ends the daemon with a signal and gives its exit code; the guests run on. */
  readonly end: (signal: 'SIGTERM' | 'SIGKILL') => Promise<{ readonly code: number | null }>;
  /** Starts it again on the same folder; resolves when /readyz says so. */
  readonly start: (env?: Readonly<Record<string, string>>) => Promise<void>;
  /** The `hatch` command with its arguments. */
  readonly hatch: (...args: readonly string[]) => Promise<RunResult>;
  /** A command in the guest, over SSH by its port; throws when it fails. */
  readonly ssh: (
    vm: Vm,
    user: string,
    command: string,
    options?: { readonly timeoutMs?: number },
  ) => Promise<string>;
  /** The public half of the key `ssh` uses. */
  readonly publicKey: string;
  /** The private half's file. */
  readonly keyFile: string;
  /** What it has logged. */
  readonly log: () => Promise<string>;
  /** `hatchd down`: ends all guests and removes bridge and rules. */
  readonly down: () => Promise<void>;
}

/**
 * Starts hatchd on a fresh data folder in `folder`, with the image that was built; resolves when it is ready. `program`: the
 * script and arguments of another daemon in its place. `like`: another with the same database, whose keys are good here too.
 */
export async function startHatchd(
  folder: string,
  env: Readonly<Record<string, string>> = {},
  program?: readonly string[],
  like?: Pick<Hatchd, 'key' | 'keyFile'>,
): Promise<Hatchd> {
  const data = join(folder, 'data');
  const image = await builtImage();
  await mkdir(data, { recursive: true });
  // As hatchd makes it.
  await mkdir(join(data, 'images'), { recursive: true, mode: 0o700 });
  await symlink(image.dir, join(data, 'images', basename(image.dir)));
  const url = 'http://127.0.0.1:8080';
  const logFile = join(folder, 'hatchd.log');
  const keyFile = like?.keyFile ?? join(folder, 'id_ed25519');
  if (!like) await makeKey(keyFile);
  const settings: Record<string, string> = { HATCH_DATA_DIR: data, HATCH_RATE_LIMIT: '0', ...env };
  let daemon: Detached | undefined;

  const end: Hatchd['end'] = async (signal) => {
    if (!daemon || !(await signalProcess(daemon.identity, signal))) throw new Error('hatchd does not run');
    return daemon.exited;
  };
  const start = async (more: Readonly<Record<string, string>> = {}): Promise<void> => {
    const argv: Argv = program
      ? [process.execPath, '--disable-warning=ExperimentalWarning', ...program]
      : [join(ROOT, 'bin/hatchd')];
    const child = await spawnDetached(argv, {
      cwd: folder,
      log: logFile,
      env: { ...settings, ...more, NODE_COMPILE_CACHE },
    });
    daemon = child;
    const probe = new HatchClient({ url });
    const signal = AbortSignal.timeout(60_000);
    try {
      await until({ clock: systemClock, signal }, async () => {
        if (!(await isAlive(child.identity)))
          throw new Error(`hatchd ended instead of serving:\n${await readFile(logFile, 'utf8')}`);
        return probe.ready().then(
          () => true,
          () => undefined,
        );
      });
    } finally {
      await probe.close();
    }
  };

  await start();
  const key = like?.key ?? (await readFile(join(data, 'admin-key'), 'utf8')).trim();
  const ssh = async (
    vm: Vm,
    user: string,
    command: string,
    { timeoutMs = 60_000 }: { readonly timeoutMs?: number } = {},
  ): Promise<string> => {
    const options = [
      'BatchMode=yes',
      'ConnectTimeout=20',
      'StrictHostKeyChecking=no',
      'UserKnownHostsFile=/dev/null',
      'LogLevel=ERROR',
    ];
    const argv: Argv = [
      'ssh',
      ...['-i', keyFile, '-p', String(vm.ssh_port)],
      ...options.flatMap((option) => ['-o', option]),
      `${user}@127.0.0.1`,
      command,
    ];
    return (await run(argv, { timeoutMs })).stdout.trim();
  };
  const client = new HatchClient({ url, apiKey: key });
  return {
    data,
    url,
    client,
    key,
    gone: async () => void (await daemon?.exited),
    end,
    start,
    ssh,
    keyFile,
    publicKey: (await readFile(`${keyFile}.pub`, 'utf8')).trim(),
    hatch: (...args) =>
      run([join(ROOT, 'bin/hatch'), ...args], {
        env: { HATCH_URL: url, HATCH_API_KEY: key },
        okExitCodes: [0, 1, 2, 3, 4, 5, 6],
        timeoutMs: 300_000,
      }),
    log: () => readFile(logFile, 'utf8'),
    down: async () => {
      await client.close();
      await run([join(ROOT, 'bin/hatchd'), 'down', '--grace', '0'], {
        env: settings,
        timeoutMs: 120_000,
      });
    },
  };
}

/** Waits until a VM is as `wanted` says; throws with what it was last. */
export async function untilVm(
  { client }: Pick<Hatchd, 'client'>,
  id: string,
  wanted: (vm: Vm) => boolean,
  timeoutMs = 300_000,
): Promise<Vm> {
  let last: Vm | undefined;
  try {
    return await until({ clock: systemClock, signal: AbortSignal.timeout(timeoutMs) }, async () => {
      last = await client.vms.get(id);
      return wanted(last) ? last : undefined;
    });
  } catch (cause) {
    throw new Error(`the VM did not get there; it is ${JSON.stringify(last)}`, { cause });
  }
}

/** A VM's events of a kind, newest first. */
export async function eventsOf(
  { client }: Pick<Hatchd, 'client'>,
  id: string,
  kind: string,
): Promise<readonly Event[]> {
  return client.vms.events(id, { kind });
}

/** The pids of the QEMUs in this namespace, by the VMs whose names they bear. */
export async function qemus(): Promise<ReadonlyMap<string, number>> {
  const found = new Map<string, number>();
  for (const pid of await processesIn('/proc/self/ns/net')) {
    const name = ((await commandLine(pid)) ?? []).find((word) => /^hatch-vm-[a-z0-9]{12}$/.test(word));
    if (name !== undefined) found.set(name.slice('hatch-'.length), pid);
  }
  return found;
}

/** The pid of a VM's QEMU; undefined when none runs. */
export async function qemuOf(id: string): Promise<number | undefined> {
  return (await qemus()).get(id);
}

/** The pids of the Firecrackers in this namespace, by the VMs they are of, those that are still jailers too. */
export async function firecrackers(): Promise<ReadonlyMap<string, number>> {
  const found = new Map<string, number>();
  for (const pid of await processesIn('/proc/self/ns/net')) {
    const argv = (await commandLine(pid)) ?? [];
    const id = argv[argv.indexOf('--id') + 1];
    if (argv.includes('--id') && argv.includes('--api-sock') && id !== undefined) found.set(id, pid);
  }
  return found;
}

/** The pid of a VM's Firecracker; undefined when none runs. */
export async function firecrackerOf(id: string): Promise<number | undefined> {
  return (await firecrackers()).get(id);
}
