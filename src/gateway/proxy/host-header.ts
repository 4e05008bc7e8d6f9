import { isHostName, isWithin } from '../../model/host-name.ts';
import type { RouteName } from '../../model/route.ts';

const MOST_HOSTS = 10_000;

/**
 * The route a `Host` header asks for: a subdomain of the base domain, or a domain of somebody's own. Case, a port and the dot at the end of
 * a whole name do not matter. undefined for what no route can be called: addresses, the base domain itself, what is no host name.
 */
export function routeOfHost(host: string | undefined, baseDomain: string): RouteName | undefined {
  const name = host
    ?.toLowerCase()
    .replace(/:\d{1,5}$/, '')
    .replace(/\.$/, '');
  if (name === undefined || !isHostName(name)) return undefined;
  if (!isWithin(name, baseDomain)) return { subdomain: null, domain: name };
  const subdomain = name.slice(0, -baseDomain.length - 1);
  return name === baseDomain || subdomain.includes('.') ? undefined : { subdomain, domain: null };
}

/** Names by the hosts that ask for them: the same few come again and again. */
export class HostNames {
  readonly #baseDomain: string;
  readonly #known = new Map<string, RouteName>();

  constructor(baseDomain: string) {
    this.#baseDomain = baseDomain;
  }

  /** As `routeOfHost`. */
  of(host: string | undefined): RouteName | undefined {
    if (host === undefined) return undefined;
    const known = this.#known.get(host);
    if (known) return known;
    const name = routeOfHost(host, this.#baseDomain);
    if (this.#known.size >= MOST_HOSTS) this.#known.clear();
    if (name) this.#known.set(host, name);
    return name;
  }
}
