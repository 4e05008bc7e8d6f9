import { createHash } from 'node:crypto';
import { join } from 'node:path';
import type { Clock } from '../base/clock.ts';
import { errorFields, type Logger } from '../base/logger.ts';
import { makeFolder, readIfThere, remove, truncateLog, writeFileAtomic } from '../host/files.ts';
import { commandLine, identify, isAlive, signalProcess, type ProcessIdentity } from '../host/process.ts';
import type { Run } from '../host/run.ts';
import { pruneLeases, readHosts, readLeases, renderHosts, staleLeases, type DhcpFiles } from './dnsmasq.ts';
import { NetError, type Port } from './network.ts';
import { command } from './tools.ts';

interface Deps {
  readonly run: Run;
  readonly log: Logger;
  readonly clock: Clock;
}

interface Options {
  readonly bridge: string;
  /** Absolute path of the folder for configuration, leases, pid and log. */
  readonly folder: string;
}

const LOOK_EVERY_MS = 1000;
const MOST_BACKOFF_MS = 30_000;
const LOG_LIMIT = 1024 * 1024;
const END_TRIES = 40;
const TRY_MS = 25;

/**
 * The DHCP server's files. The reservations lie under /run, where the server may read them after it has given up root: a data
 * folder is closed to all but its owner. The name there is made from the folder's, so that two servers never share one.
 */
export function dhcpFiles(folder: string): DhcpFiles {
  const name = createHash('sha256').update(folder).digest('hex').slice(0, 12);
  return {
    folder,
    conf: join(folder, 'dnsmasq.conf'),
    hosts: `/run/hatch-dhcp-${name}`,
    leases: join(folder, 'dnsmasq.leases'),
    pid: join(folder, 'dnsmasq.pid'),
    log: join(folder, 'dnsmasq.log'),
  };
}

/**
 * One dnsmasq that outlives us: it goes into the background by itself and is known by its pid file, its start time and its
 * command line. Looked after once a second while we are there. Callers hold the network's lock.
 */
export class DhcpServer {
  readonly #deps: Deps;
  readonly #bridge: string;
  readonly files: DhcpFiles;
  #identity: ProcessIdentity | undefined;
  #watch: AbortController | undefined;
  /** The file of reservations as we read or wrote it last: each VM that comes or goes asks for it. */
  #reserved: { readonly text: string | undefined; readonly ports: readonly Port[] } | undefined;

  constructor(deps: Deps, { bridge, folder }: Options) {
    this.#deps = deps;
    this.#bridge = bridge;
    this.files = dhcpFiles(folder);
  }

  /** The configuration of a server that another hatchd keeps on this bridge, for a data folder that is still there. */
  async another(): Promise<string | undefined> {
    const sockets = await command(this.#deps.run, ['ss', '-Hulnp', 'sport = :67']);
    for (const line of sockets.split('\n').filter((one) => one.includes(`%${this.#bridge}:67 `))) {
      for (const [, pid] of line.matchAll(/pid=(\d+)/g)) {
        const option = (await commandLine(Number(pid)))?.find((one) => one.startsWith('--conf-file='));
        const conf = option?.slice('--conf-file='.length) ?? this.files.conf;
        if (conf !== this.files.conf && (await readIfThere(conf)) !== undefined) return conf;
      }
    }
    return undefined;
  }

  /** What is reserved now; `anew`: by the file, which somebody may have changed since we wrote it. */
  async reserved({ anew = false } = {}): Promise<readonly Port[]> {
    if (anew || !this.#reserved) {
      const text = await readIfThere(this.files.hosts);
      this.#reserved = { text, ports: readHosts(text ?? '') };
    }
    return this.#reserved.ports;
  }

  async alive(): Promise<boolean> {
    return (await this.#find()) !== undefined;
  }

  /** Makes these the reservations; gives true when they were others. Leases of those that left are released. */
  async reserve(ports: readonly Port[]): Promise<boolean> {
    const before = await this.reserved();
    const text = renderHosts(ports);
    if (this.#reserved?.text === text) return false;
    this.#reserved = undefined;
    // What a power loss takes of it is written anew at the next start.
    await writeFileAtomic(this.files.hosts, text, 0o644, { flush: false });
    this.#reserved = { text, ports };
    const server = await this.#find();
    if (!server) return true;
    await signalProcess(server, 'SIGHUP');
    const now = new Set(ports.map(({ ip, mac }) => `${ip} ${mac}`));
    const left = before.filter(({ ip, mac }) => !now.has(`${ip} ${mac}`));
    if (left.length > 0) await this.#release(left, ports);
    return true;
  }

  /** Sees to it that a server runs with this configuration; gives what it did, if anything. `anew`: whatever runs. */
  async ensure(conf: string, { anew = false } = {}): Promise<string | undefined> {
    const { files } = this;
    const server = await this.#find();
    const same = !anew && (await readIfThere(files.conf)) === conf;
    if (server && same) return undefined;
    if (server) await this.#end(server);
    await makeFolder(files.folder);
    await writeFileAtomic(files.conf, conf);
    if ((await readIfThere(files.hosts)) === undefined) {
      await writeFileAtomic(files.hosts, '', 0o644);
      this.#reserved = undefined;
    }
    const leases = await readIfThere(files.leases);
    if (leases !== undefined) {
      await writeFileAtomic(files.leases, pruneLeases(leases, await this.reserved()));
    }
    await remove(files.pid);
    await this.#launch();
    return server ? 'started the DHCP server anew with its new configuration' : 'started the DHCP server';
  }

  /** Looks after the server until `letGo`: `restart` is called, under the network's lock, when it is found dead. */
  supervise(restart: () => Promise<void>): void {
    if (this.#watch) return;
    this.#watch = new AbortController();
    void this.#look(restart, this.#watch.signal);
  }

  letGo(): void {
    this.#watch?.abort(new Error('released'));
    this.#watch = undefined;
  }

  /** Ends the server and removes its files. */
  async down(): Promise<void> {
    this.letGo();
    const server = await this.#find();
    if (server) await this.#end(server);
    const { conf, hosts, leases, pid, log } = this.files;
    this.#reserved = undefined;
    for (const file of [conf, hosts, leases, pid, log]) await remove(file);
  }

  async #look(restart: () => Promise<void>, signal: AbortSignal): Promise<void> {
    const { clock, log } = this.#deps;
    let wait = LOOK_EVERY_MS;
    for (;;) {
      try {
        await clock.sleep(wait, signal);
      } catch {
        return;
      }
      try {
        await truncateLog(this.files.log, LOG_LIMIT);
        if (await this.alive()) {
          wait = LOOK_EVERY_MS;
          continue;
        }
        log.warn({}, 'the DHCP server has ended; starting it again');
        wait = Math.min(wait * 2, MOST_BACKOFF_MS);
        if (!signal.aborted) await restart();
      } catch (error) {
        log.error(errorFields(error), 'could not start the DHCP server');
      }
    }
  }

  async #launch(): Promise<void> {
    const { run } = this.#deps;
    try {
      // It goes into the background only once it has its sockets, and says on stderr why not.
      await command(run, ['dnsmasq', `--conf-file=${this.files.conf}`]);
    } catch (error) {
      if (error instanceof NetError && /Address already in use/.test(error.message)) {
        throw new NetError(
          'another DHCP server listens on port 67 of every interface; stop it or bind it to its own interfaces',
          {
            cause: error,
          },
        );
      }
      throw error;
    }
    for (let tries = 0; tries < END_TRIES; tries++) {
      if (await this.#find()) return;
      await this.#deps.clock.sleep(TRY_MS);
    }
    throw new NetError('the DHCP server ended right after its start; see dnsmasq.log in its folder');
  }

  /** The server that runs with our files, ours or one left by a daemon before us. */
  async #find(): Promise<ProcessIdentity | undefined> {
    if (this.#identity && (await isAlive(this.#identity))) return this.#identity;
    this.#identity = undefined;
    const text = await readIfThere(this.files.pid);
    const pid = /^[1-9]\d{0,9}\n?$/.test(text ?? '') ? Number(text) : undefined;
    if (pid === undefined) return undefined;
    const argv = await commandLine(pid);
    if (!argv?.includes(`--conf-file=${this.files.conf}`)) return undefined;
    this.#identity = await identify(pid);
    return this.#identity;
  }

  async #end(server: ProcessIdentity): Promise<void> {
    for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
      await signalProcess(server, signal);
      for (let tries = 0; tries < END_TRIES; tries++) {
        if (!(await isAlive(server))) return;
        await this.#deps.clock.sleep(TRY_MS);
      }
    }
    throw new NetError(`the DHCP server (pid ${server.pid}) does not end`);
  }

  /**
   * A live lease keeps its address from the next MAC. dhcp_release only sends a packet: the leases file says when it was heard.
   * One that stays is dropped when the server is next started.
   */
  async #release(before: readonly Port[], now: readonly Port[]): Promise<void> {
    const { run, clock, log } = this.#deps;
    const stale = async (): Promise<readonly { readonly ip: string; readonly mac: string }[]> =>
      staleLeases(readLeases((await readIfThere(this.files.leases)) ?? ''), before, now);
    for (let tries = 0; tries < END_TRIES; tries++) {
      const left = await stale();
      if (left.length === 0) return;
      if (tries % 10 === 0) {
        for (const { ip, mac } of left) {
          await command(run, ['dhcp_release', this.#bridge, ip, mac]);
        }
      }
      await clock.sleep(TRY_MS);
    }
    log.warn({ leases: (await stale()).map(({ ip }) => ip) }, 'leases could not be released');
  }
}
