import type { VmId } from '../base/ids.ts';
import type { NftObject } from './tools.ts';

/**
 * The guests' firewall as data and as nftables text. Two tables, owned whole: the one of family `bridge` sees the taps and lets
 * a guest send only under its own MAC and IP; the one of family `inet` sees the bridge, keeps guests from the host and from each
 * other, and masquerades what leaves. VMs come and go as set elements, so that a rule is never added for one.
 */
export interface Firewall {
  readonly bridge: string;
  /** The guests' network: `192.168.241.0/24`. */
  readonly net: string;
  readonly egress: 'allow' | 'deny' | readonly string[];
}

/** A VM's place in the filter. */
export interface Entry {
  readonly vmId: VmId;
  readonly ip: string;
  readonly mac: string;
}

/**
 * The name of both tables: `hatch` for the default bridge, `hatch_<bridge>` for another, so that two servers on one host leave
 * each other's alone. nftables names hold letters, digits and underscores only; others become their code.
 */
export function tableName(bridge: string): string {
  if (bridge === 'hatch0') return 'hatch';
  return `hatch_${bridge.replace(/[^a-zA-Z0-9]/g, (sign) => `_${sign.charCodeAt(0).toString(16)}_`)}`;
}

/** Both tables with these elements, in place of what is there, as one transaction. */
export function renderTables(firewall: Firewall, elements: ReadonlySet<string>): string {
  const name = tableName(firewall.bridge);
  return [
    ...['bridge', 'inet'].flatMap((family) => [`table ${family} ${name}`, `delete table ${family} ${name}`]),
    bridgeTable(name),
    inetTable(name, firewall),
    renderChange(firewall.bridge, new Set(), elements),
  ].join('\n');
}

/** The set elements of a VM, as nftables writes them after the table's name. */
export function elementsOf({ vmId, ip, mac }: Entry): readonly string[] {
  return [
    `taps { "${vmId}" }`,
    `macs { "${vmId}" . ${mac} }`,
    `guests { "${vmId}" . ${mac} . ${ip} }`,
    `chaddrs { "${vmId}" . 0x${mac.replaceAll(':', '')} }`,
  ];
}

/** The change from the elements that are to those that should be, as one transaction; empty when they are the same. */
export function renderChange(bridge: string, are: ReadonlySet<string>, should: ReadonlySet<string>): string {
  const name = tableName(bridge);
  const lines = [
    ...[...are]
      .filter((element) => !should.has(element))
      .map((element) => `delete element bridge ${name} ${element}`),
    ...[...should]
      .filter((element) => !are.has(element))
      .map((element) => `add element bridge ${name} ${element}`),
  ];
  return lines.map((line) => line + '\n').join('');
}

/**
 * Shows both tables as they are and then adds elements, of which none may be there yet: where one is, nothing is added. Shown first, since
 * nft 1.0.6 finds no table after a change in the same text.
 */
export function renderNew(bridge: string, elements: ReadonlySet<string>): string {
  const name = tableName(bridge);
  return [
    ...['bridge', 'inet'].map((family) => `list table ${family} ${name}\n`),
    ...[...elements].map((element) => `create element bridge ${name} ${element}\n`),
  ].join('');
}

/** The set elements in a listing of the bridge table (`nft -j list table`), written as `elementsOf` does. */
export function readElements(listing: readonly NftObject[]): ReadonlySet<string> {
  const found = new Set<string>();
  for (const { set } of listing) {
    if (set === undefined || !Array.isArray(set['elem'])) continue;
    for (const element of set['elem'] as readonly unknown[]) {
      const [tap, ...rest] = keysOf(element);
      const key = [
        `"${String(tap)}"`,
        ...rest.map((part) =>
          typeof part === 'number' ? `0x${part.toString(16).padStart(12, '0')}` : String(part),
        ),
      ];
      found.add(`${String(set['name'])} { ${key.join(' . ')} }`);
    }
  }
  return found;
}

function keysOf(element: unknown): readonly unknown[] {
  if (typeof element !== 'object' || element === null) return [element];
  return 'concat' in element && Array.isArray(element.concat) ? (element.concat as readonly unknown[]) : [];
}

/** The name of the VM an element belongs to. */
export function ownerOf(element: string): string {
  return /"([^"]*)"/.exec(element)?.[1] ?? '';
}

/**
 * DHCP carries the client's MAC a second time, in its own header (`chaddr`, 28 bytes into the message; RFC 2131), and the server
 * believes that one: without `chaddrs` a guest could release or decline another's address.
 */
function bridgeTable(name: string): string {
  return `table bridge ${name} {
  set taps {
    type ifname
  }
  set macs {
    typeof iifname . ether saddr
  }
  set guests {
    typeof iifname . ether saddr . ip saddr
  }
  set chaddrs {
    typeof iifname . @th,288,48
  }
  chain prerouting {
    type filter hook prerouting priority -300; policy accept;
    iifname @taps goto from_guest
  }
  chain from_guest {
    iifname . ether saddr != @macs drop
    ether type arp goto arp_from_guest
    ether type != ip drop
    udp dport 67 goto dhcp_from_guest
    iifname . ether saddr . ip saddr @guests accept
    drop
  }
  chain arp_from_guest {
    arp operation != { request, reply } drop
    iifname . arp saddr ether . arp saddr ip @guests accept
    arp saddr ip 0.0.0.0 iifname . arp saddr ether @macs accept
    drop
  }
  chain dhcp_from_guest {
    ip frag-off & 0x3fff != 0 drop
    udp sport != 68 drop
    iifname . @th,288,48 != @chaddrs drop
    ip saddr 0.0.0.0 iifname . @th,288,48 @chaddrs accept
    iifname . ether saddr . ip saddr @guests iifname . @th,288,48 @chaddrs accept
    drop
  }
}`;
}

/**
 * Guests reach the host by nothing but DHCP and by answering it; they reach each other not at all, also not by way of the host
 * (isolated ports alone do not prevent that). Link-local is closed because clouds keep their metadata and credentials there.
 * `from_guest` has no exception for established connections, so that a stricter egress counts at once.
 */
function inetTable(name: string, { bridge, net, egress }: Firewall): string {
  const dev = `"${bridge}"`;
  return `table inet ${name} {
${egressSet(egress)}  chain input {
    type filter hook input priority 0; policy accept;
    iifname ${dev} goto guest_to_host
  }
  chain guest_to_host {
    meta nfproto ipv6 drop
    udp sport 68 udp dport 67 accept
    ip saddr ${net} ct state established,related accept
    drop
  }
  chain forward {
    type filter hook forward priority 0; policy accept;
    iifname ${dev} oifname ${dev} drop
    iifname ${dev} goto from_guest
    oifname ${dev} goto to_guest
  }
  chain from_guest {
    meta nfproto ipv6 drop
    ip saddr != ${net} drop
    ip daddr { 169.254.0.0/16, 127.0.0.0/8, ${net} } drop
    tcp flags syn / syn,rst tcp option maxseg size set rt mtu
    ${egressVerdict(egress)}
  }
  chain to_guest {
    meta nfproto ipv6 drop
    tcp flags syn / syn,rst tcp option maxseg size set rt mtu
    ct state established,related accept
    drop
  }
  chain postrouting {
    type nat hook postrouting priority 100; policy accept;
    ip saddr ${net} ip daddr != ${net} oifname != ${dev} masquerade
  }
}`;
}

function egressSet(egress: Firewall['egress']): string {
  if (typeof egress === 'string' || egress.length === 0) return '';
  return `  set egress {
    type ipv4_addr
    flags interval
    auto-merge
    elements = { ${egress.join(', ')} }
  }
`;
}

function egressVerdict(egress: Firewall['egress']): string {
  if (egress === 'allow') return 'accept';
  return egress === 'deny' || egress.length === 0 ? 'drop' : 'ip daddr @egress accept\n    drop';
}
