import { overlaps, parseCidr, parseIp, type AddressPlan } from '../model/cidr.ts';
import { parseId, type VmId } from '../base/ids.ts';
import { NetError, type NetworkOptions, type Port } from './network.ts';
import type { Link, Route } from './tools.ts';

/**
 * The bridge and the taps (Linux bridge and tun drivers): what `ip` commands bring about what should be, given what is. Pure.
 * Our links bear an alias, `hatch <bridge>`: it tells them from another server's and from an operator's; a tap that is to
 * stay off the bridge has one that says so, which a restart does not forget.
 */

/** The alias of the bridge and of joined taps. */
export function aliasOf(bridge: string): string {
  return `hatch ${bridge}`;
}

/** The alias of a tap that is kept off the bridge. */
export function apartAlias(bridge: string): string {
  return `${aliasOf(bridge)} apart`;
}

/** Throws NetError when the name cannot be a bridge's: it goes into commands, rules and configuration. */
export function checkBridgeName(name: string): void {
  if (!/^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,14}$/.test(name) || parseId('vm', name) !== undefined) {
    throw new NetError(
      `"${name}" cannot be a bridge's name: at most 15 letters, digits, dots, dashes and underscores, and not a VM's id (HATCH_BRIDGE_NAME)`,
    );
  }
}

/** Throws NetError for what could not be written into rules and configuration as it is. */
export function checkAddresses({ dnsServers, egress }: Pick<NetworkOptions, 'dnsServers' | 'egress'>): void {
  for (const server of dnsServers ?? []) {
    if (parseIp(server) === undefined) {
      throw new NetError(`"${server}" is no IPv4 address of a resolver (HATCH_DNS_SERVERS)`);
    }
  }
  for (const network of typeof egress === 'string' ? [] : egress) {
    if (!parseCidr(network))
      throw new NetError(`"${network}" is no IPv4 network guests could go to (HATCH_EGRESS)`);
  }
}

/** Throws NetError when the bridge or its network collides with what the host has already. */
export function checkRoom(
  { bridge, plan }: { readonly bridge: string; readonly plan: AddressPlan },
  links: readonly Link[],
  routes: readonly Route[],
): void {
  const there = links.find((link) => link.ifname === bridge);
  if (there && there.linkinfo?.info_kind !== 'bridge') {
    throw new NetError(
      `the interface ${bridge} exists and is not a bridge; choose another HATCH_BRIDGE_NAME`,
    );
  }
  const strange = links.find((link) => link.master === bridge && parseId('vm', link.ifname) === undefined);
  if (strange) {
    throw new NetError(
      `the bridge ${bridge} has the port ${strange.ifname}, which is no VM's; choose another HATCH_BRIDGE_NAME`,
    );
  }
  for (const link of links) {
    if (link.ifname === bridge) continue;
    for (const { family, local, prefixlen } of link.addr_info) {
      const other = family === 'inet' && local !== undefined ? parseCidr(`${local}/${prefixlen}`) : undefined;
      if (other && (local === plan.gateway || overlaps(other, plan.net))) {
        throw new NetError(
          `${plan.text} cannot be the bridge's: the interface ${link.ifname} has ${local}/${prefixlen}; choose another HATCH_BRIDGE_CIDR`,
          { kind: 'address_taken' },
        );
      }
    }
  }
  for (const route of routes) {
    const other = parseCidr(route.dst);
    // A default route, also one in halves as VPNs write it, gives way to a bridge's more precise one.
    if (route.dev === bridge || !other || other.prefix < 8 || !overlaps(other, plan.net)) continue;
    throw new NetError(
      `${plan.text} cannot be the bridge's: the host has a route to ${other.text} ${route.dev ? `by ${route.dev}` : `(${route.type ?? 'no device'})`}; choose another HATCH_BRIDGE_CIDR`,
      { kind: 'address_taken' },
    );
  }
}

/** The `ip` commands that make or mend the bridge; none when it is as it should be. */
export function bridgeCommands(
  { bridge, plan, mtu }: { readonly bridge: string; readonly plan: AddressPlan; readonly mtu: number },
  there: Link | undefined,
): readonly string[] {
  const address = `${plan.gateway}/${plan.net.prefix}`;
  const has = (there?.addr_info ?? []).filter(({ family }) => family === 'inet');
  const right = has.some(({ local, prefixlen }) => `${local}/${prefixlen}` === address);
  return [
    ...(there
      ? []
      : [
          // Its own MAC, or it would take the lowest of its taps' and change it as they come and go.
          `link add name ${bridge} address ${bridgeMac(plan)} type bridge stp_state 0 forward_delay 0`,
          `link set dev ${bridge} alias "${aliasOf(bridge)}"`,
          `link set dev ${bridge} addrgenmode none`,
        ]),
    ...(there?.mtu === mtu ? [] : [`link set dev ${bridge} mtu ${mtu}`]),
    ...has
      .filter(
        ({ local, prefixlen }) => there?.ifalias === aliasOf(bridge) && `${local}/${prefixlen}` !== address,
      )
      .map(({ local, prefixlen }) => `address del ${local}/${prefixlen} dev ${bridge}`),
    ...(right ? [] : [`address add ${address} broadcast ${plan.broadcast} dev ${bridge}`]),
    ...(there?.flags.includes('UP') ? [] : [`link set dev ${bridge} up`]),
  ];
}

/** `02:fb:` and the gateway's address: no guest's (those begin with 02:fc), and the same whenever the bridge is made anew. */
function bridgeMac(plan: AddressPlan): string {
  return [
    '02',
    'fb',
    ...plan.gateway.split('.').map((octet) => Number(octet).toString(16).padStart(2, '0')),
  ].join(':');
}

/** The taps that are ours: on our bridge, or with our alias; by their names VMs'. */
export function ourTaps(bridge: string, links: readonly Link[]): ReadonlyMap<VmId, Link> {
  const taps = new Map<VmId, Link>();
  for (const link of links) {
    const vmId = parseId('vm', link.ifname);
    const ours =
      link.master === bridge || link.ifalias === aliasOf(bridge) || link.ifalias === apartAlias(bridge);
    if (vmId !== undefined && ours) taps.set(vmId, link);
  }
  return taps;
}

/**
 * The `ip` commands that make or mend a VM's tap, on the bridge or `apart`; none when it is as it should be. One that is apart stays so
 * unless it is to `join`. `mtu`: unless told, the kernel's.
 */
export function tapCommands(...given: Parameters<typeof tapStages>): readonly string[] {
  return tapStages(...given).flat();
}

/** As `tapCommands`: those that may come before its filter entries are there, and those that put it on the bridge. */
export function tapStages(
  {
    bridge,
    mtu,
    apart = false,
    join = false,
  }: {
    readonly bridge: string;
    readonly mtu: number | undefined;
    readonly apart?: boolean;
    readonly join?: boolean;
  },
  { vmId, tapOwner }: Pick<Port, 'vmId' | 'tapOwner'>,
  there: Link | undefined,
): readonly [make: readonly string[], join: readonly string[]] {
  const sized = mtu === undefined || there?.mtu === mtu ? [] : [`link set dev ${vmId} mtu ${mtu}`];
  if (there?.ifalias === apartAlias(bridge)) return [sized, join ? joinCommands(bridge, vmId) : []];
  // The owner is given when it is made (TUNSETOWNER); none of `ip`'s commands changes it later.
  if (there && tapOwner !== undefined && there.linkinfo?.info_data?.user !== tapOwner)
    return [
      [],
      [`link del dev ${vmId}`, ...tapCommands({ bridge, mtu, apart }, { vmId, tapOwner }, undefined)],
    ];
  if (apart)
    return [
      [
        ...(there ? [] : makeTap(vmId, tapOwner, apartAlias(bridge))),
        ...sized,
        ...(there ? partCommands(bridge, vmId) : []),
      ],
      [],
    ];
  const isolated = there?.linkinfo?.info_slave_data?.isolated === true;
  const made = there
    ? there.ifalias === aliasOf(bridge)
      ? []
      : [`link set dev ${vmId} alias "${aliasOf(bridge)}"`]
    : makeTap(vmId, tapOwner, aliasOf(bridge));
  const joined = there?.master === bridge && isolated && there.flags.includes('UP');
  return [[...made, ...sized], joined ? [] : joinCommands(bridge, vmId)];
}

function makeTap(vmId: VmId, owner: number | undefined, alias: string): readonly string[] {
  return [
    `tuntap add dev ${vmId} mode tap${owner === undefined ? '' : ` user ${owner}`}`,
    `link set dev ${vmId} alias "${alias}"`,
    `link set dev ${vmId} addrgenmode none`,
  ];
}

/** A tap that is believed to be there, and no more: all it should be is told to it, which fails where it is not. */
export function believedTap(bridge: string, { vmId, tapOwner }: Pick<Port, 'vmId' | 'tapOwner'>): Link {
  const linkinfo = tapOwner === undefined ? {} : { info_data: { user: tapOwner } };
  return { ifname: vmId, ifindex: 0, flags: [], mtu: 0, addr_info: [], ifalias: aliasOf(bridge), linkinfo };
}

/** The `ip` commands that put a tap on the bridge: down meanwhile, for until it is isolated it would reach other guests. */
export function joinCommands(bridge: string, vmId: VmId): readonly string[] {
  return [
    `link set dev ${vmId} down`,
    `link set dev ${vmId} alias "${aliasOf(bridge)}"`,
    `link set dev ${vmId} master ${bridge}`,
    `link set dev ${vmId} type bridge_slave isolated on`,
    `link set dev ${vmId} up`,
  ];
}

/** The `ip` commands that take a tap off the bridge until `joinCommands`: down, for the host itself would answer on it. */
export function partCommands(bridge: string, vmId: VmId): readonly string[] {
  return [
    `link set dev ${vmId} down`,
    `link set dev ${vmId} alias "${apartAlias(bridge)}"`,
    `link set dev ${vmId} nomaster`,
  ];
}

/** What guests' frames may measure: 1500, or less where the host's default route takes less. */
export function guestMtu(links: readonly Link[], routes: readonly Route[]): number {
  const wayOut = routes.find((route) => route.dst === 'default')?.dev;
  return Math.min(1500, links.find((link) => link.ifname === wayOut)?.mtu ?? 1500);
}
