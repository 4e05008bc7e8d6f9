import { randomBytes } from 'node:crypto';
import { isIPv6 } from 'node:net';
import type { AccountId, RouteId, VmId } from '../base/ids.ts';
import { isSubdomain, RESERVED_SUBDOMAINS } from '../contract/route.ts';
import { parseCidr } from './cidr.ts';
import { invalid } from './failure.ts';
import { isGoodPunycode, isWithin, whyNotHostName } from './host-name.ts';

/** Which requests wake a sleeping VM: all that is said must hold. */
export interface WakeRules {
  /** HTTP methods, in capitals. */
  readonly methods?: readonly string[] | undefined;
  /** Whole paths without a query; `*` stands for any characters, slashes too. */
  readonly paths?: readonly string[] | undefined;
  /** Networks of clients, in their normal form. */
  readonly cidrs?: readonly string[] | undefined;
  /** The most wakes by the route in a day of UTC. */
  readonly dailyBudget?: number | undefined;
}

/** What a route is reached by: one of all routes of the installation has it. */
export type RouteName =
  | { readonly subdomain: string; readonly domain: null }
  | { readonly subdomain: null; readonly domain: string };

/** A host name that leads to a port of a guest. It goes with its VM. */
export type Route = RouteName & {
  readonly id: RouteId;
  readonly accountId: AccountId;
  readonly vmId: VmId;
  readonly targetPort: number;
  /** Whether a request wakes the VM when it sleeps. */
  readonly autoWake: boolean;
  /** null: every request does. */
  readonly wake: WakeRules | null;
  readonly createdAt: number;
  readonly updatedAt: number;
};

/** What a store is given to make a route; the rest has its beginning. */
export type NewRoute = RouteName & Omit<Route, keyof RouteName | 'createdAt' | 'updatedAt'>;

/** What may change of a route after it was made; another name is another route. */
export type RoutePatch = Partial<Pick<Route, 'targetPort' | 'autoWake' | 'wake'>>;

/** Where the proxy is reached, as far as a URL says it. */
export interface ProxyPlace {
  readonly scheme: 'http' | 'https';
  readonly port: number;
  /** What subdomains hang under: a host name in lower case. */
  readonly baseDomain: string;
}

/** The whole host name of a route. */
export function hostOf({ subdomain, domain }: RouteName, { baseDomain }: ProxyPlace): string {
  return subdomain === null ? domain : `${subdomain}.${baseDomain}`;
}

/** Where the proxy answers for a route; the scheme's own port is left out. */
export function urlOf(name: RouteName, proxy: ProxyPlace): string {
  const own = proxy.scheme === 'https' ? 443 : 80;
  return `${proxy.scheme}://${hostOf(name, proxy)}${proxy.port === own ? '' : `:${proxy.port}`}`;
}

/**
 * The name a request asks for, in lower case; a made one where it asks for none. Throws `invalid_request` naming the field when
 * it cannot be had.
 */
export function readRouteName(
  { subdomain, domain }: { readonly subdomain?: string | undefined; readonly domain?: string | undefined },
  baseDomain: string,
): RouteName {
  if (subdomain !== undefined && domain !== undefined)
    throw invalid(
      'domain',
      'A route has either "subdomain" or "domain"; make a second route for the other name.',
    );
  if (domain !== undefined) return { subdomain: null, domain: readDomain(domain, baseDomain) };
  if (subdomain === undefined) return { subdomain: randomBytes(6).toString('hex'), domain: null };
  if (RESERVED_SUBDOMAINS.has(subdomain))
    throw invalid('subdomain', `"subdomain" cannot be "${subdomain}": it is reserved. Choose another.`);
  if (!isSubdomain(subdomain))
    throw invalid(
      'subdomain',
      '"subdomain" must be a name of 1 to 63 lower-case letters, digits and inner dashes.',
    );
  if (!isGoodPunycode(subdomain))
    throw invalid('subdomain', '"subdomain" begins with "xn--" and is no punycode.');
  return { subdomain, domain: null };
}

function readDomain(text: string, baseDomain: string): string {
  const why = whyNotHostName(text);
  if (why !== undefined) throw invalid('domain', `"domain" ${why}`);
  const domain = text.toLowerCase();
  if (isWithin(domain, baseDomain))
    throw invalid(
      'domain',
      `"domain" must not lie under ${baseDomain}, the server's own; give what stands before it as "subdomain".`,
    );
  return domain;
}

/** The rules a request gives, in their normal form; null where it gives none. Throws `invalid_request` naming the field. */
export function readWakeRules(rules: WakeRules | null | undefined): WakeRules | null {
  if (rules === null || rules === undefined) return null;
  const { methods, paths, cidrs, dailyBudget } = rules;
  const read: WakeRules = {
    ...(methods === undefined ? {} : { methods }),
    ...(paths === undefined ? {} : { paths }),
    ...(cidrs === undefined ? {} : { cidrs: [...new Set(cidrs.map(readNetwork))] }),
    ...(dailyBudget === undefined ? {} : { dailyBudget }),
  };
  return Object.keys(read).length === 0 ? null : read;
}

function readNetwork(text: string, place: number): string {
  const cidr = parseCidr(text);
  if (cidr) return cidr.text;
  const [, address = '', prefix = '128'] = /^([^/%]+)(?:\/(0|[1-9][0-9]{0,2}))?$/.exec(text) ?? [];
  if (isIPv6(address) && Number(prefix) <= 128) return `${address.toLowerCase()}/${prefix}`;
  throw invalid(
    `wake.cidrs.${place}`,
    `"wake.cidrs.${place}" must be a network such as 203.0.113.0/24 or 2001:db8::/32.`,
  );
}
