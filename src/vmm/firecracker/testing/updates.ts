import type { Body } from './bodies.ts';
import { Refused } from './calls.ts';
import { osError } from './musl.ts';
import type { Resources } from './resources.ts';

/** What can be changed of the devices of a machine that was started. Each throws Refused. */

const NO_DEVICE = 'Failed perform action on device: Device not found';

type RateLimiter = Body<'drive'>['rate_limiter'];

/** A bucket that is not there stays as it was; one of no size, or never refilled, is none from now on. */
function limited(before: RateLimiter, change: RateLimiter): RateLimiter {
  if (!change) return before;
  const bucket = (name: 'bandwidth' | 'ops'): NonNullable<RateLimiter>['ops'] => {
    const given = change[name];
    if (!given) return before?.[name] ?? null;
    return given.size === 0 || given.refill_time === 0 ? null : given;
  };
  const merged = { bandwidth: bucket('bandwidth'), ops: bucket('ops') };
  return merged.bandwidth || merged.ops ? merged : null;
}

export function updateDrive({ blocks }: Resources, update: Body<'driveUpdate'>): void {
  const refused = (why: string): Refused =>
    new Refused(
      `Drive config error: Unable to patch the block device: ${why} Please verify the request arguments.`,
    );
  const block = blocks.find(update.drive_id);
  if (!block) throw refused(NO_DEVICE);
  const { path_on_host: path, rate_limiter: limiter } = update;
  if (path === null && limiter === null) throw refused('Block: Running method expected different backend.');
  if (path !== null) {
    try {
      block.replace(path);
    } catch (error) {
      throw refused(`Block: ${osError(error)}`);
    }
  }
  block.config = { ...block.config, rate_limiter: limited(block.config.rate_limiter, limiter) };
}

export function updateNetwork({ interfaces }: Resources, update: Body<'networkUpdate'>): void {
  if (!interfaces.has(update.iface_id))
    throw new Refused(`Network config error: Unable to update the net device: ${NO_DEVICE}`);
  interfaces.change(update.iface_id, (config) => ({
    ...config,
    rx_rate_limiter: limited(config.rx_rate_limiter, update.rx_rate_limiter),
    tx_rate_limiter: limited(config.tx_rate_limiter, update.tx_rate_limiter),
  }));
}

export function updatePmem(resources: Resources, update: Body<'pmemUpdate'>): void {
  if (!update.rate_limiter) return;
  if (!resources.pmem.some(({ id }) => id === update.id))
    throw new Refused(
      `Pmem config error: Unable to patch the pmem device: ${NO_DEVICE} Please verify the request arguments.`,
    );
  resources.pmem = resources.pmem.map((one) =>
    one.id === update.id ? { ...one, rate_limiter: limited(one.rate_limiter, update.rate_limiter) } : one,
  );
}

/** The balloon of a machine that was started. Its guest does at once what it is told. */
export class Balloon {
  readonly #resources: Resources;
  #hint = { host_cmd: 0, guest_cmd: null as number | null };
  #lastHint = 1;

  constructor(resources: Resources) {
    this.#resources = resources;
  }

  #device(prefix: string): Body<'balloon'> {
    const { balloon } = this.#resources;
    if (!balloon) throw new Refused(`${prefix}: ${NO_DEVICE}`);
    return balloon;
  }

  config(): string {
    return JSON.stringify(this.#device('Internal VMM error'));
  }

  statistics(): string {
    const { amount_mib: mib, stats_polling_interval_s: interval } = this.#device('Internal VMM error');
    if (interval === 0)
      throw new Refused('Internal VMM error: Balloon: Received stats query when stats are disabled.');
    const free = (this.#resources.machine.mem_size_mib - mib) * 2 ** 20;
    return JSON.stringify({
      ...{ target_pages: mib * 256, actual_pages: mib * 256, target_mib: mib, actual_mib: mib },
      ...{ free_memory: free, total_memory: this.#resources.machine.mem_size_mib * 2 ** 20 },
    });
  }

  update({ amount_mib: mib }: Body<'balloonUpdate'>): void {
    const balloon = this.#device('Balloon update error');
    if (mib > this.#resources.machine.mem_size_mib)
      throw new Refused(`Balloon update error: Balloon: Requested memory should be less than ${mib}MiB`);
    this.#resources.balloon = { ...balloon, amount_mib: mib };
  }

  updateStatistics({ stats_polling_interval_s: interval }: Body<'balloonStatistics'>): void {
    const balloon = this.#device('Balloon update error');
    const before = balloon.stats_polling_interval_s;
    if (before === interval) return;
    if (before === 0 || interval === 0)
      throw new Refused(
        'Balloon update error: Balloon: Statistics cannot be enabled/disabled after activation.',
      );
    this.#resources.balloon = { ...balloon, stats_polling_interval_s: interval };
  }

  #hinting(): void {
    if (!this.#device('Balloon update error').free_page_hinting)
      throw new Refused('Balloon update error: Balloon: Attempting to use hinting when not enabled');
  }

  startHinting(): void {
    this.#hinting();
    this.#lastHint = Math.max(2, this.#lastHint + 1);
    this.#hint = { host_cmd: this.#lastHint, guest_cmd: this.#lastHint };
  }

  stopHinting(): void {
    this.#hinting();
    this.#hint = { ...this.#hint, host_cmd: 1 };
  }

  hintingStatus(): string {
    this.#hinting();
    return JSON.stringify(this.#hint);
  }
}

/** Memory that is plugged while the machine runs. Its guest takes at once what it is given. */
export class Hotplug {
  readonly #resources: Resources;
  requestedMib: number;

  constructor(resources: Resources, requestedMib = 0) {
    this.#resources = resources;
    this.requestedMib = requestedMib;
  }

  #device(prefix: string): Body<'hotplug'> {
    const { hotplug } = this.#resources;
    if (!hotplug) throw new Refused(`${prefix}: ${NO_DEVICE}`);
    return hotplug;
  }

  status(): string {
    const { total_size_mib, block_size_mib, slot_size_mib } = this.#device('Internal VMM error');
    return JSON.stringify({
      ...{ block_size_mib, total_size_mib, slot_size_mib },
      ...{ plugged_size_mib: this.requestedMib, requested_size_mib: this.requestedMib },
    });
  }

  update({ requested_size_mib: mib }: Body<'hotplugUpdate'>): void {
    const { block_size_mib: block, total_size_mib: total } = this.#device('Memory hotplug update error');
    if (mib % block !== 0 || mib > total)
      throw new Refused(
        `Memory hotplug update error: Failed to create memory hotplug device: Size ${mib * 2 ** 20} is invalid: it must be a multiple of block size and less than the total size`,
      );
    this.requestedMib = mib;
  }
}
