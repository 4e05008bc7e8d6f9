import { randomBytes } from 'node:crypto';

/** IPv4 networks and the addresses guests get from one: pure arithmetic, strict about how addresses are written. */
export interface Cidr {
  /** Normal form: `192.168.241.0/24`. */
  readonly text: string;
  /** The first address, as a number. */
  readonly first: number;
  /** The last address, as a number. */
  readonly last: number;
  /** 0 to 32. */
  readonly prefix: number;
}

/** The guests' network: the bridge's own address (their gateway), and all that follows from it. */
export interface AddressPlan {
  /** As configured: `192.168.241.1/24`. */
  readonly text: string;
  readonly net: Cidr;
  /** The bridge's own address. */
  readonly gateway: string;
  readonly network: string;
  readonly broadcast: string;
  /** `255.255.255.0` */
  readonly netmask: string;
}

const OCTET = '(0|[1-9][0-9]{0,2})';
const IP = new RegExp(`^${OCTET}\\.${OCTET}\\.${OCTET}\\.${OCTET}$`);
const MAC = /^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/;

/** Above this many hosts the first addresses are left to the operator, and VMs begin at .10. */
const SMALL_NET = 16;
const FIRST_OF_LARGE = 10;

/** Reads dotted decimal: four numbers to 255 without leading zeros, nothing around them. undefined when it is not that. */
export function parseIp(text: string): number | undefined {
  const match = IP.exec(text);
  if (!match) return undefined;
  let value = 0;
  for (const part of match.slice(1)) {
    const octet = Number(part);
    if (octet > 255) return undefined;
    value = value * 256 + octet;
  }
  return value;
}

/** Writes an address number as dotted decimal. */
export function formatIp(address: number): string {
  return [24, 16, 8, 0].map((shift) => (address >>> shift) & 255).join('.');
}

/** Reads `address/prefix`, any address of the network; a bare address is a /32. undefined when it is neither. */
export function parseCidr(text: string): Cidr | undefined {
  const [addressText = '', prefixText = '32', ...rest] = text.split('/');
  const address = parseIp(addressText);
  if (address === undefined || rest.length > 0 || !isPrefix(prefixText)) return undefined;
  const prefix = Number(prefixText);
  const size = 2 ** (32 - prefix);
  const first = address - (address % size);
  return { text: `${formatIp(first)}/${prefix}`, first, last: first + size - 1, prefix };
}

function isPrefix(text: string): boolean {
  return String(Number(text)) === text && /^[0-9]{1,2}$/.test(text) && Number(text) <= 32;
}

/** Whether the network holds the address; false for what is no address. */
export function contains(cidr: Cidr, ip: string): boolean {
  const address = parseIp(ip);
  return address !== undefined && address >= cidr.first && address <= cidr.last;
}

/** Whether two networks have an address in common. */
export function overlaps(a: Cidr, b: Cidr): boolean {
  return a.first <= b.last && b.first <= a.last;
}

/**
 * The guests' network from the bridge's address and prefix (`192.168.241.1/24`). Throws RangeError in a sentence when it is
 * not written so, is outside /16 to /29, or is the network's own or broadcast address.
 */
export function planAddresses(text: string): AddressPlan {
  const net = parseCidr(text);
  if (!net || !text.includes('/')) {
    throw new RangeError(`"${text}" is not an address and a prefix such as 192.168.241.1/24.`);
  }
  if (net.prefix < 16 || net.prefix > 29) {
    throw new RangeError(`"${text}" has the prefix /${net.prefix}; it must lie between /16 and /29.`);
  }
  const gateway = text.slice(0, text.indexOf('/'));
  const plan: AddressPlan = {
    text,
    net,
    gateway,
    network: formatIp(net.first),
    broadcast: formatIp(net.last),
    netmask: formatIp(2 ** 32 - 2 ** (32 - net.prefix)),
  };
  if (gateway === plan.network || gateway === plan.broadcast) {
    const what = gateway === plan.network ? "the network's own" : 'the broadcast';
    throw new RangeError(
      `"${text}" is ${what} address; give the bridge a host's, such as ${formatIp(net.first + 1)}/${net.prefix}.`,
    );
  }
  return plan;
}

/** Why an address cannot be a guest's, as the end of a sentence that begins with its name; undefined when it can. */
export function whyNotHost(plan: AddressPlan, ip: string): string | undefined {
  if (parseIp(ip) === undefined) return 'must be an IPv4 address in dotted decimal without leading zeros.';
  if (!contains(plan.net, ip)) {
    return `must lie in the bridge's network ${plan.net.text}, between ${formatIp(plan.net.first + 1)} and ${formatIp(plan.net.last - 1)}.`;
  }
  if (ip === plan.gateway) return `must not be ${ip}, the bridge's own address.`;
  if (ip === plan.network) return `must not be ${ip}, the network's own address.`;
  if (ip === plan.broadcast) return `must not be ${ip}, the broadcast address.`;
  return undefined;
}

/** Whether a guest may have this address. */
export function isHost(plan: AddressPlan, ip: string): boolean {
  return whyNotHost(plan, ip) === undefined;
}

/**
 * The next address for a guest: from .10 upwards where the net has more than 16 hosts, else from the lowest; the lower ones
 * when the upper are used. undefined when all are.
 */
export function firstFree(plan: AddressPlan, taken: ReadonlySet<string>): string | undefined {
  const [lowest, highest] = [plan.net.first + 1, plan.net.last - 1];
  const begin = highest - lowest + 1 > SMALL_NET ? plan.net.first + FIRST_OF_LARGE : lowest;
  return firstIn(plan, taken, begin, highest) ?? firstIn(plan, taken, lowest, begin - 1);
}

function firstIn(
  plan: AddressPlan,
  taken: ReadonlySet<string>,
  from: number,
  to: number,
): string | undefined {
  for (let address = from; address <= to; address++) {
    const ip = formatIp(address);
    if (ip !== plan.gateway && !taken.has(ip)) return ip;
  }
  return undefined;
}

/** A random MAC of ours: `02:fc:` (locally administered, unicast) and four random bytes. */
export function makeMac(): string {
  return ['02', 'fc', ...[...randomBytes(4)].map((byte) => byte.toString(16).padStart(2, '0'))].join(':');
}

/**
 * Reads a guest's MAC: six hex pairs with colons, unicast, not all zero; given back in lower case. undefined for anything
 * else: it goes into configuration files, so nothing around it may pass.
 */
export function parseMac(text: string): string | undefined {
  const mac = text.toLowerCase();
  if (!MAC.test(mac)) return undefined;
  if (mac === '00:00:00:00:00:00' || parseInt(mac.slice(0, 2), 16) % 2 === 1) return undefined;
  return mac;
}
