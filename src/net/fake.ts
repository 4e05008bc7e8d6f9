import { join } from 'node:path';
import { isErrno } from '../base/errno.ts';
import { parseId, type VmId } from '../base/ids.ts';
import { KeyedLock } from '../base/keyed-lock.ts';
import { makeFolder, readIfThere, remove, writeFileAtomic } from '../host/files.ts';
import { NetError, type GuestTraffic, type Network, type NetworkOptions, type Port } from './network.ts';

/** The calls of a network that can be told to fail. */
export type FakeCall = Exclude<keyof Network, 'health'>;

/** Which calls fail, before or after their effect. Read at every call: change the object to change what fails. */
export type FakeFailures = { [Call in FakeCall]?: 'before' | 'after' };

/** What the fake host has: what a real one would show of links, filter, DHCP server. */
export interface FakeHost {
  bridge: boolean;
  tables: boolean;
  /** Counts what was ever made, so that a test can tell a thing taken up from one made anew. */
  made: number;
  /** The DHCP server, by the number it was made with; null: none runs. */
  dhcp: number | null;
  /** `traffic`: what a test says has gone through it; left out, nothing has. */
  taps: Record<string, { made: number; joined: boolean; apart: boolean; traffic?: GuestTraffic }>;
  filters: Record<string, { ip: string; mac: string }>;
  reservations: Record<string, { ip: string; mac: string; hostname: string }>;
}

const NO_TRAFFIC: GuestTraffic = { receivedBytes: 0, receivedPackets: 0, sentBytes: 0, sentPackets: 0 };

const EMPTY: FakeHost = {
  bridge: false,
  tables: false,
  made: 0,
  dhcp: null,
  taps: {},
  filters: {},
  reservations: {},
};

/**
 * A network that is only a file in `options.folder`: it survives its process as the kernel's does, and can be damaged by
 * `changeFakeHost`. Passes the same suite as the real one.
 */
export function openFakeNetwork(
  options: Pick<NetworkOptions, 'folder'>,
  { fail = {} }: { readonly fail?: FakeFailures } = {},
): Network {
  return new FakeNetwork(options.folder, fail);
}

/** What the fake host in a folder has now. */
export async function readFakeHost(folder: string): Promise<FakeHost> {
  const text = await readIfThere(stateFile(folder));
  return text === undefined ? structuredClone(EMPTY) : (JSON.parse(text) as FakeHost);
}

/** Changes the fake host behind the network's back, as an operator or a crash would. */
export async function changeFakeHost(folder: string, change: (host: FakeHost) => void): Promise<void> {
  const host = await readFakeHost(folder);
  change(host);
  await save(folder, host);
}

function stateFile(folder: string): string {
  return join(folder, 'fake-network.json');
}

async function save(folder: string, host: FakeHost): Promise<void> {
  await makeFolder(folder);
  await writeFileAtomic(stateFile(folder), JSON.stringify(host, null, 1));
}

class FakeNetwork implements Network {
  readonly #folder: string;
  readonly #fail: FakeFailures;
  readonly #lock = new KeyedLock();

  constructor(folder: string, fail: FakeFailures) {
    this.#folder = folder;
    this.#fail = fail;
  }

  start(ports: readonly Port[]): Promise<void> {
    return this.#change('start', (host) => {
      ensureBase(host);
      for (const port of ports) ensurePort(host, port);
    });
  }

  attach(port: Port, { apart = false, join = false } = {}): Promise<{ readonly tap: string }> {
    return this.#change('attach', (host) => {
      if (!host.bridge) throw new NetError('the bridge is not there; the network was not started');
      ensurePort(host, port);
      const tap = host.taps[port.vmId];
      if (apart && tap) [tap.apart, tap.joined] = [true, false];
      if (join && tap) [tap.apart, tap.joined] = [false, true];
      return { tap: port.vmId };
    });
  }

  attachApart({ vmId }: Pick<Port, 'vmId'>): Promise<{ readonly tap: string }> {
    return this.#change('attachApart', (host) => {
      host.taps[vmId] ??= { made: ++host.made, joined: false, apart: true };
      return { tap: vmId };
    });
  }

  detach(vmId: VmId): Promise<void> {
    return this.#change('detach', (host) => void removePort(host, vmId));
  }

  setJoined(vmId: VmId, joined: boolean): Promise<void> {
    return this.#change('setJoined', (host) => {
      const tap = host.taps[vmId];
      if (!tap) throw new NetError(`${vmId} has no tap`);
      tap.apart = !joined;
      tap.joined = joined;
    });
  }

  traffic(vmId: VmId): Promise<GuestTraffic> {
    return this.#change('traffic', (host) => {
      const tap = host.taps[vmId];
      if (!tap) throw new NetError(`${vmId} has no tap`);
      return tap.traffic ?? NO_TRAFFIC;
    });
  }

  observe(): Promise<readonly VmId[]> {
    return this.#change('observe', known);
  }

  repair(ports: readonly Port[], leave: ReadonlySet<VmId> = new Set()): Promise<readonly string[]> {
    return this.#change('repair', (host) => {
      const did = ensureBase(host);
      const wanted = new Set<VmId>(ports.map((port) => port.vmId));
      for (const vmId of known(host)) {
        if (!wanted.has(vmId) && !leave.has(vmId)) did.push(...removePort(host, vmId));
      }
      for (const port of ports) if (!leave.has(port.vmId)) did.push(...ensurePort(host, port));
      return did;
    });
  }

  async health(): Promise<readonly string[]> {
    const host = await readFakeHost(this.#folder);
    return [
      ...(host.bridge ? [] : ['The bridge is gone.']),
      ...(host.tables ? [] : ['The firewall tables are gone.']),
      ...(host.dhcp !== null ? [] : ['The DHCP server does not run.']),
    ];
  }

  release(): Promise<void> {
    return this.#change('release', () => undefined);
  }

  async down(): Promise<void> {
    this.#failIf('down', 'before');
    await this.#lock.run('host', () => remove(stateFile(this.#folder)));
    this.#failIf('down', 'after');
  }

  /** One change of the host at a time, whole or not at all. */
  #change<T>(call: FakeCall, work: (host: FakeHost) => T): Promise<T> {
    return this.#lock.run('host', async () => {
      this.#failIf(call, 'before');
      const host = await readFakeHost(this.#folder);
      const before = JSON.stringify(host);
      const result = work(host);
      try {
        if (JSON.stringify(host) !== before) await save(this.#folder, host);
      } catch (error) {
        if (isErrno(error, 'ENOSPC'))
          throw new NetError('the disk is full', { kind: 'no_space', cause: error });
        throw error;
      }
      this.#failIf(call, 'after');
      return result;
    });
  }

  #failIf(call: FakeCall, when: 'before' | 'after'): void {
    if (this.#fail[call] === when) throw new NetError(`${call} was told to fail ${when} its effect`);
  }
}

function known(host: FakeHost): readonly VmId[] {
  const names = new Set([host.taps, host.filters, host.reservations].flatMap((part) => Object.keys(part)));
  return [...names].sort().flatMap((name) => parseId('vm', name) ?? []);
}

function ensureBase(host: FakeHost): string[] {
  const did: string[] = [];
  if (!host.bridge) did.push('made the bridge');
  if (!host.tables) did.push('made the firewall tables');
  if (host.dhcp === null) {
    host.dhcp = ++host.made;
    did.push('started the DHCP server');
  }
  host.bridge = true;
  host.tables = true;
  return did;
}

function ensurePort(host: FakeHost, { vmId, ip, mac, hostname }: Port): string[] {
  const did: string[] = [];
  const tap = host.taps[vmId];
  if (!tap) {
    host.taps[vmId] = { made: ++host.made, joined: true, apart: false };
    did.push(`made the tap of ${vmId}`);
  } else if (!tap.joined && !tap.apart) {
    tap.joined = true;
    did.push(`put the tap of ${vmId} back on the bridge`);
  }
  const filter = host.filters[vmId];
  if (filter?.ip !== ip || filter.mac !== mac) {
    host.filters[vmId] = { ip, mac };
    did.push(`let ${vmId} through the filter`);
  }
  const reservation = host.reservations[vmId];
  if (reservation?.ip !== ip || reservation.mac !== mac || reservation.hostname !== hostname) {
    host.reservations[vmId] = { ip, mac, hostname };
    did.push(`reserved ${ip} for ${vmId}`);
  }
  return did;
}

function removePort(host: FakeHost, vmId: VmId): string[] {
  if (!(vmId in host.taps) && !(vmId in host.filters) && !(vmId in host.reservations)) return [];
  for (const part of [host.taps, host.filters, host.reservations]) Reflect.deleteProperty(part, vmId);
  return [`removed what was left of ${vmId}`];
}
