import { parseId, type VmId } from '../base/ids.ts';
import { parseIp, parseMac, type AddressPlan } from '../model/cidr.ts';
import { NetError, type Port } from './network.ts';

/** What dnsmasq is told and what it writes (dnsmasq(8)): text by pure functions. */

/** Where the DHCP server's files are. */
export interface DhcpFiles {
  readonly folder: string;
  readonly conf: string;
  /** Read again at each SIGHUP, after the server has given up root. */
  readonly hosts: string;
  readonly leases: string;
  readonly pid: string;
  readonly log: string;
}

/**
 * The configuration: only reserved addresses, only on the bridge, no DNS. Guests made from one another share their client id,
 * so it is ignored. Without resolvers the option is sent empty, or dnsmasq would name itself.
 */
export function renderConf(
  files: DhcpFiles,
  {
    bridge,
    plan,
    resolvers,
    mtu,
  }: {
    readonly bridge: string;
    readonly plan: AddressPlan;
    readonly resolvers: readonly string[];
    readonly mtu: number;
  },
): string {
  return [
    '# Made by hatchd; changes are lost.',
    'port=0',
    'no-hosts',
    'no-resolv',
    'no-ping',
    `interface=${bridge}`,
    'except-interface=lo',
    'bind-interfaces',
    `dhcp-range=${plan.network},static,${plan.netmask},12h`,
    'dhcp-authoritative',
    'dhcp-ignore-clid',
    'dhcp-lease-max=70000',
    'quiet-dhcp',
    `dhcp-option=option:router,${plan.gateway}`,
    ['dhcp-option=6', ...resolvers].join(','),
    ...(mtu === 1500 ? [] : [`dhcp-option=option:mtu,${mtu}`]),
    `dhcp-hostsfile=${files.hosts}`,
    `dhcp-leasefile=${files.leases}`,
    `pid-file=${files.pid}`,
    `log-facility=${files.log}`,
    '',
  ].join('\n');
}

/** Whose a configuration is: its bridge, and the address and prefix of that; undefined for a text that is none of ours. */
export function readConf(text: string): { readonly bridge: string; readonly cidr: string } | undefined {
  const [bridge, netmask, gateway] = [
    /^interface=(.+)$/m,
    /^dhcp-range=[^,]+,static,([\d.]+),/m,
    /^dhcp-option=option:router,(.+)$/m,
  ].map((line) => line.exec(text)?.[1]);
  const mask = parseIp(netmask ?? '');
  if (bridge === undefined || gateway === undefined || mask === undefined) return undefined;
  return { bridge, cidr: `${gateway}/${mask.toString(2).replaceAll('0', '').length}` };
}

/**
 * One reservation a line, its VM in a comment. Not in a tag (`set:`): dnsmasq 2.90 frees a used reservation's tags twice when it
 * reads the file again, and aborts. Seen with Debian 12's; a tag may come back once no supported release has that.
 */
export function renderHosts(ports: readonly Port[]): string {
  return ports
    .toSorted((a, b) => (a.vmId < b.vmId ? -1 : 1))
    .map(({ vmId, mac, ip, hostname }) => `${mac},${ip},${hostname} # ${vmId}\n`)
    .join('');
}

/** Reads what `renderHosts` wrote; lines that are not ours are passed over. */
export function readHosts(text: string): readonly Port[] {
  return text.split('\n').flatMap((line) => {
    const [, mac = '', ip = '', hostname = '', owner = ''] =
      /^([^,]+),([^,]+),(\S+) # (\S+)$/.exec(line) ?? [];
    const vmId = parseId('vm', owner);
    return vmId !== undefined && parseMac(mac) === mac && parseIp(ip) !== undefined
      ? [{ vmId, ip, mac, hostname }]
      : [];
  });
}

/** Throws NetError when a port could not be written into a configuration file or a rule as it is. */
export function checkPort(plan: AddressPlan, { vmId, ip, mac, hostname }: Port): void {
  const address = parseIp(ip);
  const problem =
    parseId('vm', vmId) === undefined
      ? 'its id is none'
      : address === undefined || address <= plan.net.first || address >= plan.net.last || ip === plan.gateway
        ? `${ip} is no guest's address in ${plan.net.text}`
        : parseMac(mac) !== mac
          ? `${mac} is no MAC`
          : !/^[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?$/.test(hostname)
            ? `${hostname} is no host name`
            : undefined;
  if (problem) throw new NetError(`${vmId} cannot be attached: ${problem}`);
}

export interface Lease {
  readonly mac: string;
  readonly ip: string;
  /** As dnsmasq wrote it. */
  readonly line: string;
}

/** The leases in dnsmasq's file: `expiry mac ip name client-id` a line. */
export function readLeases(text: string): readonly Lease[] {
  return text.split('\n').flatMap((line) => {
    const [, mac = '', ip = ''] = line.split(' ');
    return parseMac(mac) === mac && parseIp(ip) !== undefined ? [{ mac, ip, line }] : [];
  });
}

/** The leases file without those whose address and MAC no longer belong together: for a server that is about to start. */
export function pruneLeases(text: string, ports: readonly Port[]): string {
  const kept = new Set(ports.map(({ mac, ip }) => `${mac} ${ip}`));
  return readLeases(text)
    .filter(({ mac, ip }) => kept.has(`${mac} ${ip}`))
    .map(({ line }) => line + '\n')
    .join('');
}

/** The leases that stand in the way of a VM's next one: its MAC's on another address, or its address's of another MAC. */
export function staleLeases(
  leases: readonly Lease[],
  gone: readonly Pick<Port, 'ip' | 'mac'>[],
  ports: readonly Port[],
): readonly Lease[] {
  const kept = new Set(ports.map(({ mac, ip }) => `${mac} ${ip}`));
  const [ips, macs] = [new Set(gone.map(({ ip }) => ip)), new Set(gone.map(({ mac }) => mac))];
  return leases.filter(({ mac, ip }) => !kept.has(`${mac} ${ip}`) && (ips.has(ip) || macs.has(mac)));
}

/** The ports with these set among them: others of the same VM, address or MAC are from before and give way. */
export function withPorts(before: readonly Port[], added: readonly Port[]): readonly Port[] {
  const taken = new Set(added.flatMap(({ vmId, ip, mac }) => [vmId, ip, mac]));
  return [...before.filter(({ vmId, ip, mac }) => ![vmId, ip, mac].some((key) => taken.has(key))), ...added];
}

/** The VM ids among the ports. */
export function idsOf(ports: readonly Port[]): ReadonlySet<VmId> {
  return new Set(ports.map(({ vmId }) => vmId));
}
