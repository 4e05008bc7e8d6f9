import type { Body } from './bodies.ts';
import { Refused } from './calls.ts';
import { osError } from './musl.ts';

export type NetConfig = Body<'network'>;

/** Opens a TAP by its name; what it throws is what Firecracker says of it. */
export type OpenTap = (name: string) => { readonly close: () => void };

interface Interface {
  config: NetConfig;
  readonly tap: ReturnType<OpenTap>;
}

/** Throws an Error with what Firecracker says. */
function openInterface(config: NetConfig, openTap: OpenTap): Interface {
  const tap = openTap(config.host_dev_name);
  if (config.mtu !== null && config.mtu < 68) {
    tap.close();
    throw new Error(`MTU ${config.mtu} is out of range [68, 65535]`);
  }
  return { config, tap };
}

/** The network interfaces: their TAPs are open from the moment they are made. */
export class Interfaces {
  #list: readonly Interface[] = [];
  readonly #openTap: OpenTap;

  constructor(openTap: OpenTap) {
    this.#openTap = openTap;
  }

  get configs(): readonly NetConfig[] {
    return this.#list.map(({ config }) => config);
  }

  has(id: string): boolean {
    return this.configs.some((config) => config.iface_id === id);
  }

  /** Adds one. The one with its id is gone before this is opened, and stays gone when that fails. Throws Refused. */
  put(config: NetConfig): void {
    const mac = config.guest_mac?.toLowerCase();
    const rival = this.configs.find(
      (one) => one.guest_mac?.toLowerCase() === mac && one.iface_id !== config.iface_id,
    );
    if (mac !== undefined && rival)
      throw new Refused(`Network config error: The MAC address is already in use: ${mac}`);
    this.remove(config.iface_id);
    try {
      this.#list = [...this.#list, openInterface(config, this.#openTap)];
    } catch (error) {
      throw new Refused(`Network config error: Could not create the network device: ${osError(error)}`);
    }
  }

  /** Opens what a snapshot recorded. Throws an Error with what Firecracker says. */
  restore(configs: readonly NetConfig[]): void {
    for (const config of configs) this.#list = [...this.#list, openInterface(config, this.#openTap)];
  }

  /** Takes over what a change of rate limits gives. */
  change(id: string, change: (config: NetConfig) => NetConfig): void {
    for (const one of this.#list) if (one.config.iface_id === id) one.config = change(one.config);
  }

  remove(id: string): void {
    for (const { config, tap } of this.#list) if (config.iface_id === id) tap.close();
    this.#list = this.#list.filter(({ config }) => config.iface_id !== id);
  }
}
