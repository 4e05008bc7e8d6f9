import { BlockList, isIPv4, isIPv6 } from 'node:net';
import { parseCidr } from '../../model/cidr.ts';

/** Says whether a connection may come from an address, as node:net gives it (`remoteAddress`). */
export type SourceCheck = (address: string | undefined) => boolean;

/**
 * A check against a list of networks, IPv4 (`10.0.0.0/8`) and IPv6 (`fd00::/8`). An IPv4 client seen through an IPv6 socket
 * (`::ffff:10.0.0.1`) counts as its IPv4 address. Throws RangeError for an entry that is no network.
 */
export function allowSources(cidrs: readonly string[]): SourceCheck {
  // One list each: a BlockList holds that an IPv6 network such as ::/0 has every IPv4 address in it.
  const [ipv4, ipv6] = [new BlockList(), new BlockList()];
  for (const text of cidrs) addNetwork({ ipv4, ipv6 }, text);
  return (address) => {
    if (address === undefined) return false;
    const plain = plainAddress(address);
    if (isIPv4(plain)) return ipv4.check(plain, 'ipv4');
    return isIPv6(plain) && ipv6.check(plain, 'ipv6');
  };
}

function addNetwork(allowed: { readonly ipv4: BlockList; readonly ipv6: BlockList }, text: string): void {
  const cidr = parseCidr(text);
  if (cidr) {
    allowed.ipv4.addSubnet(cidr.text.slice(0, cidr.text.indexOf('/')), cidr.prefix, 'ipv4');
    return;
  }
  const [network = '', prefix = '128', ...rest] = text.split('/');
  const written = /^(0|[1-9]\d{0,2})$/.test(prefix) && Number(prefix) <= 128;
  if (rest.length > 0 || !written || network.includes('%') || !isIPv6(network)) {
    throw new RangeError(`"${text}" is not a network such as 127.0.0.1/32 or fd00::/8`);
  }
  allowed.ipv6.addSubnet(network, Number(prefix), 'ipv6');
}

/** An IPv4 address out of its IPv6 form; an address without its interface (`fe80::1%eth0`). */
function plainAddress(address: string): string {
  const bare = address.replace(/%.*$/, '');
  return /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(bare)?.[1] ?? bare;
}
