import type { Body } from './bodies.ts';
import { Refused } from './calls.ts';

const NOT_INITIALIZED = 'MMDS error: The MMDS data store is not initialized.';

/** The metadata service's contents: a JSON, put whole or merged (RFC 7396), of a size that is limited. */
export class Mmds {
  #contents: unknown;
  readonly #limit: number;

  constructor(limit: number) {
    this.#limit = limit;
  }

  get json(): string {
    return JSON.stringify(this.#contents ?? {});
  }

  /** Throws Refused, with 413 when it is too large. */
  put(contents: unknown): void {
    if (Buffer.byteLength(JSON.stringify(contents)) > this.#limit)
      throw new Refused("MMDS limit exceeded error: The MMDS patch request doesn't fit.", 413);
    this.#contents = contents;
  }

  /** Throws Refused; also where nothing was put yet. */
  patch(change: unknown): void {
    if (this.#contents === undefined) throw new Refused(NOT_INITIALIZED);
    this.put(merge(this.#contents, change));
  }
}

/** Throws Refused after the start of a machine none of whose interfaces leads to the service. */
export function mustReachMmds(config: Body<'mmdsConfig'> | null): void {
  if (!config) throw new Refused(NOT_INITIALIZED);
}

/** Throws Refused for a configuration that cannot be. */
export function checkMmdsConfig(config: Body<'mmdsConfig'>, has: (id: string) => boolean): void {
  const { ipv4_address: address, network_interfaces: ids } = config;
  if (address !== null && !/^169\.254\.([1-9]|[1-9]\d|1\d\d|2[0-4]\d|25[0-4])\.\d+$/.test(address))
    throw new Refused('MMMDS config error: The MMDS IPv4 address is not link local.');
  if (ids.length === 0)
    throw new Refused(
      'MMMDS config error: The list of network interface IDs that allow forwarding MMDS requests is empty.',
    );
  if (!ids.every(has))
    throw new Refused(
      'MMMDS config error: The list of network interface IDs provided contains at least one ID that does not correspond to any existing network interface.',
    );
}

/** RFC 7396. */
function merge(target: unknown, change: unknown): unknown {
  if (!isObject(change)) return change;
  const merged: Record<string, unknown> = isObject(target) ? { ...target } : {};
  for (const [key, value] of Object.entries(change)) {
    if (value === null) delete merged[key];
    else merged[key] = merge(merged[key], value);
  }
  return merged;
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
