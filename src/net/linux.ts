import type { Clock } from '../base/clock.ts';
import type { VmId } from '../base/ids.ts';
import { parseId } from '../base/ids.ts';
import { allDone } from '../base/all-done.ts';
import { KeyedLock } from '../base/keyed-lock.ts';
import type { Logger } from '../base/logger.ts';
import { gathered, Together } from '../base/together.ts';
import { makeFolder, readIfThere } from '../host/files.ts';
import type { Run } from '../host/run.ts';
import { planAddresses, type AddressPlan } from '../model/cidr.ts';
import {
  aliasOf,
  bridgeCommands,
  checkAddresses,
  checkBridgeName,
  checkRoom,
  guestMtu,
  joinCommands,
  ourTaps,
  partCommands,
  believedTap,
  tapCommands,
  tapStages,
} from './bridge.ts';
import { deleteBridge, deleteTaps } from './delete-links.ts';
import { DhcpServer } from './dhcp-server.ts';
import { checkPort, idsOf, renderConf, withPorts } from './dnsmasq.ts';
import { FirewallTables } from './firewall.ts';
import { ensureForwarding, ensurePassage, forwards, removePassage, restoreForwarding } from './forward.ts';
import { NetError, type GuestTraffic, type Network, type NetworkOptions, type Port } from './network.ts';
import { guestResolvers, RESOLVER_FILES } from './resolvers.ts';
import {
  asNetError,
  checkTools,
  ipBatch,
  linkCounters,
  listLinks,
  listNamed,
  listRoutes,
  throwAsNetError,
  type Link,
} from './tools.ts';

interface Deps {
  /** Runs commands in the network namespace the network is to be in. */
  readonly run: Run;
  readonly log: Logger;
  readonly clock: Clock;
}

/**
 * The guests' network made of Linux's own parts: a bridge and taps, nftables, dnsmasq. What is there the kernel and files say, not we: each
 * call looks and changes what differs, one at a time; attaching, for which somebody waits, looks only where it was wrong about what it
 * believed. Throws NetError for options that cannot be.
 */
export function openLinuxNetwork(deps: Deps, options: NetworkOptions): Network {
  return new LinuxNetwork(deps, options);
}

interface Attaching {
  readonly port: Port;
  readonly apart: boolean;
  readonly join: boolean;
}

class LinuxNetwork implements Network {
  readonly #deps: Deps;
  readonly #options: NetworkOptions;
  readonly #plan: AddressPlan;
  readonly #tables: FirewallTables;
  readonly #dhcp: DhcpServer;
  readonly #lock = new KeyedLock();
  /** What guests' frames may measure; undefined: the network was not started. */
  #mtu: number | undefined;
  /** Each change looks at what is first, which takes its time: those who come at once share that. */
  readonly #attaching = new Together<Attaching>(
    (round) => this.#alone(() => gathered().then(round)),
    (all) => this.#attachAll(all).catch(throwAsNetError),
  );
  readonly #detaching = new Together<VmId>(
    (round) => this.#alone(round),
    (all) => this.#remove(new Set(all)).catch(throwAsNetError),
  );

  constructor(deps: Deps, options: NetworkOptions) {
    checkBridgeName(options.bridge);
    checkAddresses(options);
    this.#deps = deps;
    this.#options = options;
    try {
      this.#plan = planAddresses(options.cidr);
    } catch (error) {
      throw new NetError(error instanceof Error ? error.message : String(error), { cause: error });
    }
    this.#tables = new FirewallTables(deps.run, {
      bridge: options.bridge,
      net: this.#plan.net.text,
      egress: options.egress,
    });
    this.#dhcp = new DhcpServer(deps, options);
  }

  start(ports: readonly Port[]): Promise<void> {
    return this.#alone(async () => {
      await checkTools(this.#deps.run);
      const another = await this.#dhcp.another();
      if (another !== undefined)
        throw new NetError(
          `another hatchd has the bridge ${this.#options.bridge}, whose DHCP server has ${another}; take that one down, or give this one a HATCH_BRIDGE_NAME and a HATCH_BRIDGE_CIDR of its own`,
        );
      await makeFolder(this.#options.folder);
      const mtu = await this.#ensureBase();
      for (const port of ports) checkPort(this.#plan, port);
      // What belongs to nobody stays until a repair, which knows whom to leave alone.
      const all = withPorts(await this.#dhcp.reserved({ anew: true }), ports);
      await this.#tables.replace(all);
      await this.#ensureTaps(
        ports.map(({ vmId }) => vmId),
        mtu,
      );
      await this.#dhcp.reserve(all);
      await this.#dhcp.ensure(await this.#conf(mtu));
      this.#dhcp.supervise(() => this.#alone(() => this.#restartDhcp()));
      this.#mtu = mtu;
    });
  }

  async attach(port: Port, { apart = false, join = false } = {}): Promise<{ readonly tap: string }> {
    checkPort(this.#plan, port);
    await this.#attaching.do({ port, apart, join });
    return { tap: port.vmId };
  }

  /** Attaches all of them by as few programs as one; where one cannot be, none may be yet. */
  async #attachAll(all: readonly Attaching[]): Promise<void> {
    const { bridge } = this.#options;
    // Where there is no network nothing is to be left of it.
    const mtu = this.#mtu ?? (await this.#look([])).get(bridge)?.mtu;
    const added = all.map(({ port }) => port);
    const ports = withPorts(await this.#dhcp.reserved(), added);
    // The taps are made meanwhile, and join the bridge last: on it without its filter entries, one would be a guest nobody watches.
    const watched = allDone([this.#tables.put(added, ports), this.#dhcp.reserve(ports)]);
    try {
      // As a rule the bridge is there and they are not; but for those of machines that wake, which were made apart.
      const waking = all.filter(({ apart, join }) => apart || join).map(({ port }) => port);
      const links = new Map(waking.map((port) => [port.vmId, believedTap(bridge, port)]));
      await this.#makeTaps(all, mtu, links, watched);
    } catch {
      await watched;
      const links = await this.#look(added);
      await this.#makeTaps(all, links.get(bridge)?.mtu, links);
    }
  }

  #makeTaps(
    all: readonly Attaching[],
    mtu: number | undefined,
    links: ReadonlyMap<string, Link>,
    watched?: Promise<unknown>,
  ): Promise<void> {
    const { bridge } = this.#options;
    const stages = all.map(({ port, ...how }) =>
      tapStages({ bridge, mtu, ...how }, port, links.get(port.vmId)),
    );
    const [make, join] = [stages.flatMap(([made]) => made), stages.flatMap(([, joined]) => joined)];
    if (!watched) return ipBatch(this.#deps.run, [...make, ...join]);
    const joining = watched.then(() => join);
    return ipBatch(this.#deps.run, make, joining);
  }

  /** The bridge, which must be there, and the taps of these that are. */
  async #look(ports: readonly Port[]): Promise<ReadonlyMap<string, Link>> {
    const { bridge } = this.#options;
    const found = await listNamed(this.#deps.run, [bridge, ...ports.map(({ vmId }) => vmId)]);
    if (found.has(bridge)) return found;
    throw new NetError(
      `the bridge ${bridge} is not there; the network was not started, or somebody removed it`,
    );
  }

  attachApart(port: Pick<Port, 'vmId' | 'tapOwner'>): Promise<{ readonly tap: string }> {
    return this.#alone(async () => {
      const { run } = this.#deps;
      const how = { bridge: this.#options.bridge, mtu: undefined, apart: true };
      try {
        // It is not there, as a rule, and a machine that wakes waits for it.
        await ipBatch(run, tapCommands(how, port, undefined));
      } catch (error) {
        const [tap] = await listLinks(run, port.vmId);
        if (!tap) throw error;
        await ipBatch(run, tapCommands(how, port, tap));
      }
      return { tap: port.vmId };
    });
  }

  detach(vmId: VmId): Promise<void> {
    return this.#detaching.do(vmId);
  }

  setJoined(vmId: VmId, joined: boolean): Promise<void> {
    return this.#alone(async () => {
      const { run } = this.#deps;
      const { bridge } = this.#options;
      const [tap] = await listLinks(run, vmId);
      if (!tap) throw new NetError(`${vmId} has no tap`);
      if (!joined) return ipBatch(run, partCommands(bridge, vmId));
      const isJoined = tap.master === bridge && tap.ifalias === aliasOf(bridge);
      if (!isJoined) await ipBatch(run, joinCommands(bridge, vmId));
    });
  }

  async traffic(vmId: VmId): Promise<GuestTraffic> {
    // It changes nothing, so it need not wait for what does.
    const counters = await linkCounters(this.#deps.run, vmId);
    if (!counters) throw new NetError(`${vmId} has no tap`);
    const { rx, tx } = counters;
    return {
      receivedBytes: tx.bytes,
      receivedPackets: tx.packets,
      sentBytes: rx.bytes,
      sentPackets: rx.packets,
    };
  }

  observe(): Promise<readonly VmId[]> {
    return this.#alone(() => this.#known());
  }

  repair(ports: readonly Port[], leave: ReadonlySet<VmId> = new Set()): Promise<readonly string[]> {
    return this.#alone(async () => {
      const { run } = this.#deps;
      for (const port of ports) checkPort(this.#plan, port);
      await makeFolder(this.#options.folder);
      const did: string[] = [];
      const mtu = await this.#ensureBase(did);
      if (this.#mtu !== undefined) this.#mtu = mtu;
      const mine = ports.filter(({ vmId }) => !leave.has(vmId));
      const left = (await this.#dhcp.reserved({ anew: true })).filter(({ vmId }) => leave.has(vmId));
      const strays = (await this.#known()).filter((vmId) => !leave.has(vmId) && !idsOf(mine).has(vmId));
      did.push(...strays.map((vmId) => `removed what was left of ${vmId}`));
      await deleteTaps(run, this.#options.bridge, new Set(strays));
      did.push(...(await this.#tables.mend(mine, left, leave)));
      did.push(
        ...(await this.#ensureTaps(
          mine.map(({ vmId }) => vmId),
          mtu,
        )),
      );
      if (await this.#dhcp.reserve([...left, ...mine])) did.push('wrote the reservations anew');
      const remade = did.includes(MADE_BRIDGE);
      did.push(...present(await this.#dhcp.ensure(await this.#conf(mtu), { anew: remade })));
      return did;
    });
  }

  async health(): Promise<readonly string[]> {
    const { run } = this.#deps;
    const { bridge } = this.#options;
    try {
      const links = await listLinks(run);
      const there = links.find((link) => link.ifname === bridge);
      const address = there?.addr_info.some(({ local }) => local === this.#plan.gateway) === true;
      return [
        ...(there ? [] : [`The bridge ${bridge} is gone.`]),
        ...(!there || (address && there.flags.includes('UP'))
          ? []
          : [`The bridge ${bridge} is down or has lost its address.`]),
        ...((await this.#tables.intact()) ? [] : ["The guests' firewall tables were removed or changed."]),
        ...((await this.#dhcp.alive()) ? [] : ['The DHCP server does not run; guests get no address.']),
        ...((await forwards(run)) ? [] : ['IPv4 forwarding is switched off; guests reach nothing outside.']),
        ...((await this.#resolvers(links)).length > 0
          ? []
          : ['The host has no resolver that guests could use; name some in HATCH_DNS_SERVERS.']),
      ];
    } catch (error) {
      const known = asNetError(error);
      if (!(known instanceof NetError)) throw error;
      return [`The network could not be looked at: ${known.message}.`];
    }
  }

  async release(): Promise<void> {
    this.#dhcp.letGo();
    // What is under way ends first: nobody changes the network after this.
    await this.#alone(async () => undefined);
  }

  down(): Promise<void> {
    this.#dhcp.letGo();
    return this.#alone(async () => {
      this.#mtu = undefined;
      const { run } = this.#deps;
      const { bridge, folder } = this.#options;
      const failures: unknown[] = [];
      const steps: readonly (() => Promise<unknown>)[] = [
        () => this.#dhcp.down(),
        async () => deleteTaps(run, bridge, new Set(ourTaps(bridge, await listLinks(run)).keys())),
        () => deleteBridge(run, bridge, this.#plan),
        () => removePassage({ run, bridge }),
        () => restoreForwarding({ run, bridge, folder }),
        () => this.#tables.remove(),
      ];
      for (const step of steps) await step().catch((error: unknown) => failures.push(error));
      if (failures.length > 0) throw failures[0];
    });
  }

  /** Bridge, forwarding and passage through other firewalls; gives the frames' size. */
  async #ensureBase(did: string[] = []): Promise<number> {
    const { run } = this.#deps;
    const { bridge, folder } = this.#options;
    const [links, routes] = [await listLinks(run), await listRoutes(run)];
    checkRoom({ bridge, plan: this.#plan }, links, routes);
    const there = links.find((link) => link.ifname === bridge);
    const mtu = guestMtu(links, routes);
    const commands = bridgeCommands({ bridge, plan: this.#plan, mtu }, there);
    await ipBatch(run, commands);
    if (commands.length > 0) did.push(there ? 'mended the bridge' : MADE_BRIDGE);
    did.push(...present(await ensureForwarding({ run, folder })));
    did.push(...(await ensurePassage({ run, bridge })));
    return mtu;
  }

  async #ensureTaps(vmIds: readonly VmId[], mtu: number): Promise<readonly string[]> {
    const { run } = this.#deps;
    const { bridge } = this.#options;
    const links = new Map((await listLinks(run)).map((link) => [link.ifname, link]));
    const did: string[] = [];
    const commands = vmIds.flatMap((vmId) => {
      const needed = tapCommands({ bridge, mtu }, { vmId }, links.get(vmId));
      if (needed.length > 0)
        did.push(links.has(vmId) ? `mended the tap of ${vmId}` : `made the tap of ${vmId}`);
      return needed;
    });
    await ipBatch(run, commands);
    return did;
  }

  /** Removes all of these VMs: the tap before its filter entries, so that it is never there without them. */
  async #remove(vmIds: ReadonlySet<VmId>): Promise<void> {
    await deleteTaps(this.#deps.run, this.#options.bridge, vmIds);
    await this.#tables.drop(vmIds);
    const ports = await this.#dhcp.reserved();
    if (ports.some(({ vmId }) => vmIds.has(vmId))) {
      await this.#dhcp.reserve(ports.filter(({ vmId }) => !vmIds.has(vmId)));
    }
  }

  async #known(): Promise<readonly VmId[]> {
    const found = new Set<VmId>(ourTaps(this.#options.bridge, await listLinks(this.#deps.run)).keys());
    for (const name of await this.#tables.owners()) {
      const vmId = parseId('vm', name);
      if (vmId !== undefined) found.add(vmId);
    }
    for (const { vmId } of await this.#dhcp.reserved({ anew: true })) found.add(vmId);
    return [...found].sort();
  }

  async #restartDhcp(): Promise<void> {
    const { run, log } = this.#deps;
    const [there] = await listLinks(run, this.#options.bridge);
    if (!there) throw new NetError('the bridge is gone; a repair will make it anew');
    const did = await this.#dhcp.ensure(await this.#conf(there.mtu));
    if (did !== undefined) log.info({ did }, 'mended the network');
  }

  async #conf(mtu: number): Promise<string> {
    const { bridge } = this.#options;
    const resolvers = await this.#resolvers(await listLinks(this.#deps.run));
    return renderConf(this.#dhcp.files, { bridge, plan: this.#plan, resolvers, mtu });
  }

  async #resolvers(links: readonly Link[]): Promise<readonly string[]> {
    if (this.#options.dnsServers) return this.#options.dnsServers;
    const own = new Set(links.flatMap((link) => link.addr_info.flatMap(({ local }) => local ?? [])));
    return guestResolvers(await Promise.all(RESOLVER_FILES.map(readIfThere)), own);
  }

  /** One at a time, and whatever fails as a NetError. */
  #alone<T>(work: () => Promise<T>): Promise<T> {
    return this.#lock.run('network', async () => {
      try {
        return await work();
      } catch (error) {
        throw asNetError(error);
      }
    });
  }
}

const MADE_BRIDGE = 'made the bridge';

function present(did: string | undefined): readonly string[] {
  return did === undefined ? [] : [did];
}
