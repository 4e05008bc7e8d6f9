import type { VmId } from '../base/ids.ts';

/**
 * The guests' network on this host: one bridge, a tap per VM, two nftables tables, one DHCP server. The real one
 * (net/linux.ts) and the fake one (net/fake.ts) pass one suite. Everything made for a VM bears its id (the tap's name is
 * the id: 15 characters, just what IFNAMSIZ allows), so a leak is found without the database.
 */
export interface Network {
  /**
   * Brings up bridge, tables and DHCP server with a place for each of `ports`, and takes up what a daemon before us left.
   * Twice is as good as once. Throws NetError in a sentence (address taken, tool missing, no right).
   */
  start(ports: readonly Port[]): Promise<void>;

  /**
   * Makes a VM's tap, its filter entries and its DHCP reservation; `apart`: the tap off the bridge until `setJoined`; `join`: onto it, also
   * one that was apart, which else stays so. Twice is as good as once. Gives the tap's name.
   */
  attach(
    port: Port,
    how?: { readonly apart?: boolean; readonly join?: boolean },
  ): Promise<{ readonly tap: string }>;

  /**
   * Makes a tap that leads nowhere: it is not on the bridge, not up, and gets neither filter entry nor reservation. It can be a VM's first:
   * `attach` with `apart` gives it the rest. Twice is as good as once; `detach` removes it. Gives the tap's name.
   */
  attachApart(port: Pick<Port, 'vmId' | 'tapOwner'>): Promise<{ readonly tap: string }>;

  /** Removes all that bears the VM's id, and releases its lease. No failure when there is nothing. */
  detach(vmId: VmId): Promise<void>;

  /** Takes a tap off the bridge or puts it back: a copy joins only once it has its own identity. */
  setJoined(vmId: VmId, joined: boolean): Promise<void>;

  /**
   * What has gone through a VM's tap since it was made, told from the guest's side: what the tap receives the guest has sent. Throws
   * NetError when there is no tap.
   */
  traffic(vmId: VmId): Promise<GuestTraffic>;

  /** The VMs that have anything here: tap, filter entry or reservation. */
  observe(): Promise<readonly VmId[]>;

  /**
   * Compares what is with what should be, mends it, removes what belongs to nobody; says what it did. VMs in `leave` are
   * somebody else's business at the moment: nothing of theirs is added or removed.
   */
  repair(ports: readonly Port[], leave?: ReadonlySet<VmId>): Promise<readonly string[]>;

  /** What is broken now, in sentences; empty when all is well. */
  health(): Promise<readonly string[]>;

  /** Lets go: supervision ends, guests keep their network and their DHCP server. For the daemon's own end. */
  release(): Promise<void>;

  /** Removes everything this network ever made on the host. */
  down(): Promise<void>;
}

/** A VM's place in the network. */
export interface Port {
  readonly vmId: VmId;
  readonly ip: string;
  readonly mac: string;
  /** What DHCP calls it. */
  readonly hostname: string;
  /** The user who may open its tap besides root; unless told, whoever is there first. A tap that is another's is made anew. */
  readonly tapOwner?: number;
}

/** What a guest has received and sent; what the firewall dropped on its way from the guest is in it. */
export interface GuestTraffic {
  readonly receivedBytes: number;
  readonly receivedPackets: number;
  readonly sentBytes: number;
  readonly sentPackets: number;
}

export interface NetworkOptions {
  /** `hatch0` */
  readonly bridge: string;
  /** The bridge's own address and prefix: `192.168.241.1/24`. */
  readonly cidr: string;
  /** Resolvers handed to guests; null: the host's own, loopback ones passed over. */
  readonly dnsServers: readonly string[] | null;
  /** Where guests may go: everywhere, nowhere, or these networks. */
  readonly egress: 'allow' | 'deny' | readonly string[];
  /** Folder for the DHCP server's files; absolute. */
  readonly folder: string;
}

/** A network that could not be made or changed: a sentence an operator can act on. */
export class NetError extends Error {
  override readonly name = 'NetError';
  readonly kind: 'failed' | 'missing' | 'address_taken' | 'no_permission' | 'no_space';
  constructor(message: string, fields: { kind?: NetError['kind']; cause?: unknown } = {}) {
    super(message, { cause: fields.cause });
    this.kind = fields.kind ?? 'failed';
  }
}
