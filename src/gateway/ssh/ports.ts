import { createServer, type Server, type Socket } from 'node:net';
import type { Clock } from '../../base/clock.ts';
import type { VmId } from '../../base/ids.ts';
import { KeyedLock } from '../../base/keyed-lock.ts';
import { errorFields, type Logger } from '../../base/logger.ts';
import { Failure } from '../../model/failure.ts';
import type { SshPorts } from '../../ops/hatch.ts';
import { Connection, makeRoom, type ConnectionDeps, type Silent } from './connection.ts';
import { allowSources, type SourceCheck } from './sources.ts';

interface Deps {
  readonly log: Logger;
  readonly clock: Clock;
  /** Who is asked where a connection leads; undefined: nobody yet, and connections are closed. */
  readonly visits: () => ConnectionDeps['visits'] | undefined;
  /** How long a guest may take to answer a connection, refusing it meanwhile; milliseconds. */
  readonly connectTimeoutMs: number;
  /** How long a client may take to show its SSH banner where the VM sleeps; milliseconds. 30 s unless told. */
  readonly bannerTimeoutMs?: number;
  /** 22 unless told. */
  readonly guestPort?: number;
  /** Connections a VM may have at once; those above are closed, unless one that has shown no banner makes room. 100 unless told. */
  readonly connectionsPerVm?: number;
  /** Connections that may wait without having shown a banner, on all ports; for those above it is the same. 1000 unless told. */
  readonly silentConnections?: number;
}

interface Options {
  /** The host's address to listen on. */
  readonly addr: string;
  /** Networks that may connect; everyone else's connections are closed unanswered. */
  readonly allowedCidrs: readonly string[];
}

type Target = Parameters<SshPorts['open']>[0];

/** The host's ports that lead to guests' SSH: one TCP listener per VM, and what goes through it. */
export interface OpenSshPorts extends SshPorts {
  /** Stops all listeners and ends all that is connected: for the daemon's own end. */
  closeAll(): Promise<void>;
  /** How many connections lead to a VM now. */
  connections(vmId: VmId): number;
}

/** Makes the keeper of SSH ports; nothing listens until `open`. Throws RangeError for an allowed CIDR that is none. */
export function openSshPorts(deps: Deps, options: Options): OpenSshPorts {
  return new Ports(deps, options);
}

interface Entry {
  readonly server: Server;
  readonly target: Target;
  readonly connections: Set<Connection>;
}

class Ports implements OpenSshPorts {
  readonly #deps: Deps;
  readonly #addr: string;
  readonly #allowed: SourceCheck;
  readonly #entries = new Map<VmId, Entry>();
  readonly #lock = new KeyedLock();
  readonly #silent: Silent;

  constructor(deps: Deps, { addr, allowedCidrs }: Options) {
    this.#deps = deps;
    this.#addr = addr;
    this.#silent = { all: new Set(), most: deps.silentConnections ?? 1000 };
    this.#allowed = allowSources(allowedCidrs);
  }

  open(target: Target): Promise<void> {
    return this.#lock.run(target.vmId, async () => {
      const open = this.#entries.get(target.vmId);
      if (open?.target.port === target.port) return;
      const entry = await this.#listen(target);
      if (open) await closeEntry(open);
      this.#entries.set(target.vmId, entry);
    });
  }

  hangUp(vmId: VmId): void {
    for (const connection of this.#entries.get(vmId)?.connections ?? []) connection.hangUp();
  }

  close(vmId: VmId): Promise<void> {
    return this.#lock.run(vmId, async () => {
      const entry = this.#entries.get(vmId);
      if (!entry) return;
      this.#entries.delete(vmId);
      await closeEntry(entry);
    });
  }

  async closeAll(): Promise<void> {
    await Promise.all([...this.#entries.keys()].map((vmId) => this.close(vmId)));
  }

  connections(vmId: VmId): number {
    return this.#entries.get(vmId)?.connections.size ?? 0;
  }

  vmIds(): readonly VmId[] {
    return [...this.#entries.keys()];
  }

  async isFree(port: number): Promise<boolean> {
    const server = createServer();
    try {
      await listen(server, this.#addr, port);
    } catch (error) {
      if (codeOf(error) === 'EADDRINUSE' || codeOf(error) === 'EACCES') return false;
      throw cannotListen(error, this.#addr, port);
    }
    await new Promise((resolve) => server.close(resolve));
    return true;
  }

  async #listen(target: Target): Promise<Entry> {
    // Paused: nothing is read of who may not come in.
    const server = createServer({ allowHalfOpen: true, pauseOnConnect: true });
    const entry: Entry = { server, target, connections: new Set() };
    server.on('connection', (client) => void this.#accept(entry, client));
    try {
      await listen(server, this.#addr, target.port);
    } catch (error) {
      throw cannotListen(error, this.#addr, target.port);
    }
    server.on('error', (error) => {
      this.#deps.log.warn({ vm: target.vmId, ...errorFields(error) }, 'could not take an SSH connection');
    });
    return entry;
  }

  async #accept(entry: Entry, client: Socket): Promise<void> {
    const { log, clock, connectTimeoutMs } = this.#deps;
    const { bannerTimeoutMs = 30_000, guestPort = 22, connectionsPerVm = 100 } = this.#deps;
    const { vmId } = entry.target;
    client.on('error', () => undefined);
    const refuse = (why: string): void => {
      log.debug({ vm: vmId, from: client.remoteAddress, why }, 'refused an SSH connection');
      client.destroy();
    };
    if (!this.#allowed(client.remoteAddress)) return refuse('source not allowed');
    if (entry.connections.size >= connectionsPerVm && !makeRoom(entry.connections))
      return refuse('too many connections');
    const visits = this.#deps.visits();
    if (!visits) return refuse('the server is starting or stopping');
    const silent = this.#silent;
    const deps = { clock, visits, guestPort, connectTimeoutMs, bannerTimeoutMs, silent };
    const connection = new Connection(deps, vmId, client);
    entry.connections.add(connection);
    const from = client.remoteAddress;
    const failure = await connection.serve();
    entry.connections.delete(connection);
    if (failure) log.debug({ vm: vmId, from, ...errorFields(failure) }, 'an SSH connection ended early');
  }
}

function listen(server: Server, host: string, port: number): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen({ host, port, exclusive: true }, () => {
      server.off('error', reject);
      resolve();
    });
  });
}

/** Resolves when nothing listens and nothing is connected any more. */
function closeEntry({ server, connections }: Entry): Promise<void> {
  return new Promise((resolve) => {
    server.close(() => resolve());
    for (const connection of connections) connection.end();
  });
}

function codeOf(error: unknown): unknown {
  return error instanceof Error && 'code' in error ? error.code : undefined;
}

function cannotListen(cause: unknown, addr: string, port: number): Failure {
  const details = { port };
  switch (codeOf(cause)) {
    case 'EADDRINUSE':
      return new Failure(
        'unavailable',
        `Port ${port} on ${addr} is used by another program on the host; stop it, or move HATCH_SSH_PORT_MIN and HATCH_SSH_PORT_MAX away from it.`,
        { details, cause },
      );
    case 'EACCES':
      return new Failure(
        'unavailable',
        `The server has no right to listen on port ${port}; use ports above 1023 in HATCH_SSH_PORT_MIN.`,
        {
          details,
          cause,
        },
      );
    case 'EADDRNOTAVAIL':
    case 'ENOTFOUND':
      return new Failure('unavailable', `The host has no address ${addr}; correct HATCH_SSH_ADDR.`, {
        details,
        cause,
      });
    default:
      return new Failure('unavailable', `The server could not listen on port ${port} of ${addr}.`, {
        details,
        cause,
      });
  }
}
