import { mkdir, realpath, rm, symlink } from 'node:fs/promises';
import { join } from 'node:path';
import { systemClock } from '../../src/base/clock.ts';
import { silent } from '../../src/base/logger.ts';
import { until } from '../../src/base/until.ts';
import { openAgent } from '../../src/guest/agent-client.ts';
import { giveIdentity, newMachineId } from '../../src/guest/identity.ts';
import { tail } from '../../src/host/files.ts';
import { connectUnix } from '../../src/host/json-lines.ts';
import { isAlive, signalProcess, spawnDetached, type Detached } from '../../src/host/process.ts';
import { run, type Argv } from '../../src/host/run.ts';
import { tellsWhatIsWritten } from '../../src/vmm/qemu/send-machine.ts';
import { Qmp, type QmpEvent } from '../../src/vmm/qemu/qmp.ts';

/** The files of a guest that was saved: absolute paths. `folder` has what it booted with (kernel, initrd, seed). */
export interface SavedGuest {
  readonly folder: string;
  readonly state: string;
  readonly memory: string;
  readonly disk: string;
  /** The arguments of the QEMU it ran in. */
  readonly argv: readonly string[];
}

/** The arguments and files of a bare QEMU, laid out before any clock runs. */
export interface LaidOut {
  readonly folder: string;
  readonly state: string;
  readonly argv: Argv;
}

/** What of a command line takes rights away; each has a value after it. */
const CONFINEMENT = ['-sandbox', '-runas', '-run-with'];
const DISK = 'disk.qcow2';
const WITHIN_MS = 60_000;
const AGENT_AGAIN_MS = 250;
/** As hatchd has it (send-machine.ts), so that both guests stand still for as much memory. */
const PARAMETERS = { 'max-bandwidth': 2 ** 40, 'downtime-limit': 50 };

/**
 * Lays out what a saved guest needs to be loaded by hand: an overlay over its disk, and the command line it ran with, but for its
 * name, its tap, its sandbox and user, and whose memory it has: `private`, a map of the saved one; `own`, a copy it writes to.
 */
export async function layOut(
  saved: SavedGuest,
  {
    folder,
    tap,
    memory,
  }: { readonly folder: string; readonly tap: string; readonly memory: 'private' | 'own' },
): Promise<LaidOut> {
  await mkdir(folder);
  for (const name of ['kernel', 'initrd', 'seed.iso'])
    await symlink(await realpath(join(saved.folder, name)), join(folder, name));
  await overlay(saved.disk, join(folder, DISK));
  if (memory === 'private') await symlink(saved.memory, join(folder, 'mem.bin'));
  else await run(['cp', '--sparse=always', saved.memory, join(folder, 'mem.bin')], { timeoutMs: WITHIN_MS });
  const argv = argumentsByHand(saved.argv, { tap, share: memory === 'private' ? 'off' : 'on' });
  return { folder, state: saved.state, argv: [...argv, '-incoming', 'defer', '-S'] };
}

/**
 * The arguments of a QEMU that hatchd started as one types them: without its name, tap, sandbox, user and state; the guest's memory is
 * `mem.bin` beside it. It runs as soon as it is started.
 */
export function argumentsByHand(
  argv: readonly string[],
  { tap, share = 'on' }: { readonly tap: string; readonly share?: 'on' | 'off' },
): Argv {
  const args = argv
    .filter((word, i) => ![word, argv[i - 1] ?? ''].some((one) => CONFINEMENT.includes(one)))
    .map((word, i, all) => {
      if (all[i - 1] === '-name') return 'bare';
      if (all[i - 1] === '-object') return word.replace(/mem-path=.*/, `mem-path=mem.bin,share=${share}`);
      return word.replace(/ifname=[^,]*/, `ifname=${tap}`);
    })
    .filter((word) => word !== '-S');
  const at = args.indexOf('-incoming');
  if (at >= 0) args.splice(at, 2);
  const [program = 'qemu-system-x86_64', ...rest] = args;
  return [program, ...rest];
}

/** A guest under QEMU by hand: what can be had where nothing but QEMU takes time. */
export class BareQemu {
  readonly #folder: string;
  readonly #child: Detached;
  readonly #qmp: Qmp;
  readonly #events: QmpEvent[];
  readonly #tellsWhatIsWritten: boolean;
  /** The file its disk is written to. */
  #disk = DISK;

  private constructor(
    { folder, argv }: LaidOut,
    {
      child,
      qmp,
      events,
      version,
    }: { readonly child: Detached; readonly qmp: Qmp; readonly events: QmpEvent[]; readonly version: string },
  ) {
    const accel = argv.some((word) => word.startsWith('kvm')) ? 'kvm' : 'tcg';
    this.#tellsWhatIsWritten = tellsWhatIsWritten({ accel, version });
    this.#folder = folder;
    this.#child = child;
    this.#qmp = qmp;
    this.#events = events;
  }

  /** Starts it and loads the guest; resolves when the guest's agent has answered. */
  static async load({ folder, state, argv }: LaidOut): Promise<BareQemu> {
    const child = await spawnDetached(argv, { cwd: folder, log: join(folder, 'qemu.log') });
    const events: QmpEvent[] = [];
    let qmp: Qmp | undefined;
    try {
      const connected = connectQmp(join(folder, 'qmp.sock'), (event) => events.push(event));
      qmp = await Promise.race([connected, child.exited.then(() => Promise.reject(new Error('it ended')))]);
      const bare = new BareQemu(
        { folder, state, argv },
        { child, qmp, events, version: await versionOf(qmp) },
      );
      await bare.#capabilities(true);
      await qmp.execute('migrate-incoming', { uri: `exec:cat ${state}` });
      await bare.#migrated(0);
      await qmp.execute('cont');
      await agentAnswers(join(folder, 'agent.sock'));
      return bare;
    } catch (cause) {
      qmp?.close();
      await end(child);
      const said = await tail(join(folder, 'qemu.log'), 1000);
      await rm(folder, { recursive: true });
      throw new Error(`the bare QEMU did not load the guest: ${said}`, { cause });
    }
  }

  /**
   * Saves it while it runs (or, where that loses what it writes, stands still), all of its memory in the state, lets its disk be frozen
   * under an overlay, and lets it go on. Gives how long it stood still, in milliseconds, and what it said then.
   */
  async saveAndGoOn(name: string): Promise<{ readonly still: number; readonly said: string }> {
    const over = `${name}.qcow2`;
    await overlay(join(this.#folder, this.#disk), join(this.#folder, over));
    await this.#capabilities(false);
    await this.#qmp.execute('migrate-set-parameters', PARAMETERS);
    const from = this.#events.length;
    if (!this.#tellsWhatIsWritten) await this.#qmp.execute('stop');
    await this.#qmp.execute('migrate', { uri: `exec:cat > ${name}.bin` });
    await this.#migrated(from);
    await Promise.all([
      this.#qmp.execute('blockdev-snapshot-sync', {
        device: 'disk0',
        'snapshot-file': over,
        format: 'qcow2',
        mode: 'existing',
      }),
      this.#qmp.execute('cont'),
    ]);
    this.#disk = over;
    const events = this.#events.slice(from);
    return { still: stoodStill(events), said: timeline(events) };
  }

  /** Tells the guest that it is somebody else, as hatchd tells a copy, with nothing of hatchd besides. */
  async giveIdentity(hostname: string, mac: string): Promise<void> {
    const signal = AbortSignal.timeout(WITHIN_MS);
    const agent = openAgent({
      connect: (within) => connectUnix(join(this.#folder, 'agent.sock'), within),
      clock: systemClock,
      log: silent,
    });
    try {
      const identity = { hostname, mac, machineId: newMachineId() };
      await giveIdentity({ agent, clock: systemClock }, identity, signal);
    } finally {
      agent.close();
    }
  }

  /** Ends it and removes its folder. */
  async kill(): Promise<void> {
    this.#qmp.close();
    await end(this.#child);
    await rm(this.#folder, { recursive: true });
  }

  async #capabilities(ignoreShared: boolean): Promise<void> {
    await this.#qmp.execute('migrate-set-capabilities', {
      capabilities: [
        { capability: 'events', state: true },
        { capability: 'x-ignore-shared', state: ignoreShared },
      ],
    });
  }

  /** Waits for the event that says that a migration is over, from the event of that number on. */
  async #migrated(from: number): Promise<void> {
    await until(
      { clock: systemClock, signal: AbortSignal.timeout(WITHIN_MS) },
      () => {
        const said = this.#events.slice(from).filter(({ event }) => event === 'MIGRATION');
        if (said.some(({ data }) => data['status'] === 'failed')) throw new Error('the migration failed');
        return said.some(({ data }) => data['status'] === 'completed') ? true : undefined;
      },
      { firstMs: 1, mostMs: 1 },
    );
  }
}

async function versionOf(qmp: Qmp): Promise<string> {
  const { qemu } = (await qmp.execute('query-version')) as { readonly qemu: { readonly major: number } };
  return String(qemu.major);
}

/** Makes a tap anew that no bridge has; `address`: that of the guest behind it, to which the bridge's owner speaks by it. */
export async function makeTap(name: string, address?: string): Promise<void> {
  const { stdout } = await run(['ip', '-json', 'address', 'show', 'dev', 'hatch0']);
  const [bridge] = JSON.parse(stdout) as readonly {
    readonly address: string;
    readonly addr_info: readonly { readonly local: string }[];
  }[];
  await run(['ip', 'link', 'del', 'dev', name], { okExitCodes: [0, 1] });
  await run(['ip', 'tuntap', 'add', 'dev', name, 'mode', 'tap']);
  // The guest knows its gateway by the bridge's address.
  await run(['ip', 'link', 'set', 'dev', name, 'address', bridge?.address ?? '', 'up']);
  if (address === undefined) return;
  const source = bridge?.addr_info[0]?.local ?? '';
  await run(['ip', 'route', 'add', `${address}/32`, 'dev', name, 'src', source]);
}

/** Connects to a monitor as soon as there is one. */
export function connectQmp(path: string, onEvent: (event: QmpEvent) => void): Promise<Qmp> {
  const signal = AbortSignal.timeout(WITHIN_MS);
  return until(
    { clock: systemClock, signal },
    () => Qmp.connect(path, onEvent, signal).catch(() => undefined),
    { firstMs: 1, mostMs: 1 },
  );
}

/** What was said from the first STOP to the RESUME after it, each with its milliseconds since then. */
export function timeline(events: readonly QmpEvent[]): string {
  const stop = events.findIndex(({ event }) => event === 'STOP');
  const resume = events.findIndex(({ event }, i) => event === 'RESUME' && i > stop);
  const from = events[stop];
  if (!from) return 'it never stood still';
  return events
    .slice(stop, resume + 1)
    .map((one) => {
      const what = one.event === 'MIGRATION' ? JSON.stringify(one.data['status']) : one.event;
      return `${what} ${(at(one) - at(from)).toFixed(1)}`;
    })
    .join(', ');
}

/** Milliseconds from the first STOP to the RESUME after it, by QEMU's clock. */
export function stoodStill(events: readonly QmpEvent[]): number {
  const stop = events.findIndex(({ event }) => event === 'STOP');
  const resume = events.find(({ event }, i) => event === 'RESUME' && i > stop);
  const stopped = events[stop];
  if (!stopped || !resume) throw new Error('the guest did not stand still and go on');
  return at(resume) - at(stopped);
}

function at({ timestamp: { seconds, microseconds } }: QmpEvent): number {
  return seconds * 1000 + microseconds / 1000;
}

/** Ends it, and resolves when it is gone. */
export async function end({ identity }: Detached): Promise<void> {
  await signalProcess(identity, 'SIGKILL');
  const wait = { clock: systemClock, signal: AbortSignal.timeout(WITHIN_MS) };
  await until(wait, async () => ((await isAlive(identity)) ? undefined : true));
}

async function overlay(below: string, path: string): Promise<void> {
  await run(['qemu-img', 'create', '-q', '-f', 'qcow2', '-b', below, '-F', 'qcow2', path]);
}

/** Resolves when the agent behind that socket, which need not be there yet, answers; rejects when it ends before, or after `withinMs`. */
export async function agentAnswers(path: string, withinMs = WITHIN_MS): Promise<void> {
  const signal = AbortSignal.timeout(withinMs);
  const socket = await until(
    { clock: systemClock, signal },
    () => connectUnix(path, signal).catch(() => undefined),
    { firstMs: 1, mostMs: 5 },
  );
  signal.addEventListener('abort', () => socket.destroy(new Error('the agent did not answer in time')));
  const id = 4711;
  const ask = (): void => {
    socket.write(`\xff{"execute":"guest-sync-delimited","arguments":{"id":${id}}}\n`, 'latin1');
  };
  const again = setInterval(ask, AGENT_AGAIN_MS);
  try {
    ask();
    let said = '';
    for await (const piece of socket) {
      said += String(piece);
      if (said.includes(`"return": ${id}`)) return;
    }
    throw new Error('the agent hung up');
  } finally {
    clearInterval(again);
    socket.destroy();
  }
}
