import { accessSync, constants } from 'node:fs';
import { Blocks } from './block.ts';
import type { Body } from './bodies.ts';
import { Refused } from './calls.ts';
import type { RateLimit } from './console.ts';
import { checkMmdsConfig, Mmds } from './mmds.ts';
import { osError } from './musl.ts';
import { Interfaces, type OpenTap } from './net.ts';
import type { Machine } from './state-file.ts';
import { Vsock } from './vsock.ts';

const LONGEST_COMMAND_LINE = 2048;
/** What the kernel is told when nobody says otherwise. */
export const DEFAULT_BOOT_ARGS =
  'reboot=k panic=1 nomodule 8250.nr_uarts=0 i8042.noaux i8042.nomux i8042.dumbkbd swiotlb=noforce';

/** What the machine is made of: put together by calls before it starts, and with it from then on. */
export class Resources {
  readonly blocks = new Blocks();
  readonly interfaces: Interfaces;
  readonly mmds: Mmds;
  machine: Machine = {
    vcpu_count: 1,
    mem_size_mib: 128,
    smt: false,
    cpu_template: null,
    track_dirty_pages: false,
    huge_pages: 'None',
  };
  bootSource: Body<'bootSource'> | null = null;
  cpuConfig: Body<'cpuConfig'> | null = null;
  pmem: readonly Body<'pmem'>[] = [];
  vsock: Vsock | null = null;
  vsockConfig: Omit<Body<'vsock'>, 'vsock_id'> | null = null;
  entropy: Body<'entropy'> | null = null;
  balloon: Body<'balloon'> | null = null;
  hotplug: Body<'hotplug'> | null = null;
  mmdsConfig: Body<'mmdsConfig'> | null = null;
  serial: { readonly path: string | null; readonly limit: RateLimit } = { path: null, limit: null };

  constructor(mmdsLimit: number, openTap: OpenTap) {
    this.interfaces = new Interfaces(openTap);
    this.mmds = new Mmds(mmdsLimit);
  }

  /** Throws Refused. What is null stays as it was. */
  setMachine(update: Partial<Body<'machineUpdate'>>): void {
    const given = Object.fromEntries(Object.entries(update).filter(([, value]) => value !== null));
    const next: Machine = {
      ...this.machine,
      ...given,
      cpu_template: update.cpu_template ?? this.machine.cpu_template,
    };
    const { vcpu_count: vcpus, mem_size_mib: mib, smt } = next;
    if (vcpus === 0 || vcpus > 32 || (smt && vcpus > 1 && vcpus % 2 === 1))
      throw new Refused(
        'Machine config error: The number of vCPUs must be greater than 0, less than 32 and must be 1 or an even number if SMT is enabled.',
      );
    if (mib === 0 || (next.huge_pages === '2M' && mib % 2 === 1))
      throw new Refused(
        'Machine config error: The memory size (MiB) is either 0, or not a multiple of the configured page size.',
      );
    if (this.balloon && mib < this.balloon.amount_mib)
      throw new Refused(
        'Machine config error: The memory size (MiB) is smaller than the previously set balloon device target size.',
      );
    this.machine = { ...next, cpu_template: next.cpu_template === 'None' ? null : next.cpu_template };
  }

  /** The files are looked at now, and only they. Throws Refused. */
  setBootSource(config: Body<'bootSource'>): void {
    readable(config.kernel_image_path, 'Boot source error: The kernel file cannot be opened: ');
    if (config.initrd_path !== null)
      readable(
        config.initrd_path,
        'Boot source error: The initrd file cannot be opened due to invalid path or invalid permissions. ',
      );
    const args = config.boot_args ?? '';
    if (Buffer.byteLength(args) >= LONGEST_COMMAND_LINE)
      throw new Refused('Boot source error: The kernel command line is invalid: command line is too large');
    if (!/^[\x20-\x7e]*$/.test(args))
      throw new Refused(
        'Boot source error: The kernel command line is invalid: invalid ASCII characters in the command line',
      );
    this.bootSource = config;
  }

  /** Throws Refused. */
  putDrive(config: Body<'drive'>): void {
    if (config.socket !== null && config.path_on_host === null)
      throw new Refused(
        'Drive config error: Unable to create the virtio block device: Vhost user backend error: the double has no vhost-user',
      );
    const virtio = {
      ...config,
      is_read_only: config.is_read_only ?? false,
      io_engine: config.io_engine ?? 'Sync',
    };
    this.blocks.put(virtio, { pmemRoot: this.pmem.some((one) => one.root_device) });
  }

  /** Its file is opened at the start of the machine. Throws Refused. */
  putPmem(config: Body<'pmem'>): void {
    if (config.root_device && this.blocks.root)
      throw new Refused(
        'Pmem config error: Attempt to add pmem as a root device while the root device defined as a block device',
      );
    const before = this.pmem.find(({ id }) => id === config.id);
    if (config.root_device && !before?.root_device && this.pmem.some((one) => one.root_device))
      throw new Refused('Pmem config error: A root pmem device already exist');
    this.pmem = before ? this.pmem.map((one) => (one === before ? config : one)) : [...this.pmem, config];
  }

  /** The socket is bound now; one that was bound for the device before is removed. Throws Refused. */
  async setVsock({ guest_cid, uds_path }: Body<'vsock'>): Promise<void> {
    await this.vsock?.close();
    this.vsock = null;
    this.vsockConfig = null;
    try {
      this.vsock = await Vsock.bind(uds_path);
    } catch (error) {
      throw new Refused(
        `Vsock config error: Cannot create backend for vsock device: Error binding to the host-side Unix socket: ${osError(error)}`,
      );
    }
    this.vsockConfig = { guest_cid, uds_path };
  }

  /** Throws Refused. */
  setBalloon(config: Body<'balloon'>): void {
    if (config.amount_mib > this.machine.mem_size_mib)
      throw new Refused('Balloon config error: Amount of pages requested is too large.');
    this.balloon = config;
  }

  /** Throws Refused. */
  setHotplug(config: Body<'hotplug'>): void {
    const { total_size_mib: total, block_size_mib: block, slot_size_mib: slot } = config;
    const problem =
      block < 2
        ? 'Block size must not be lower than 2 MiB'
        : !Number.isInteger(Math.log2(block))
          ? 'Block size must be a power of 2'
          : slot < 128
            ? 'Slot size must not be lower than 128 MiB'
            : slot % block !== 0
              ? `Slot size must be a multiple of block size (${block} MiB)`
              : total < slot
                ? `Total size must not be lower than slot size (${slot} MiB)`
                : total % slot !== 0
                  ? `Total size must be a multiple of slot size (${slot} MiB)`
                  : null;
    if (problem !== null) throw new Refused(`Memory hotplug config error: ${problem}`);
    this.hotplug = config;
  }

  /** Throws Refused. */
  setMmdsConfig(config: Body<'mmdsConfig'>): void {
    checkMmdsConfig(config, (id) => this.interfaces.has(id));
    this.mmdsConfig = { ...config, ipv4_address: config.ipv4_address ?? '169.254.169.254' };
  }

  /** How many virtio devices there are. */
  get deviceCount(): number {
    const singles = [this.vsock, this.entropy, this.balloon, this.hotplug].filter((one) => one !== null);
    return this.blocks.list.length + this.interfaces.configs.length + this.pmem.length + singles.length;
  }

  /** What `GET /vm/config` says. */
  get json(): string {
    const { cpu_template: template, ...machine } = this.machine;
    return JSON.stringify({
      balloon: this.balloon,
      drives: this.blocks.list.map(({ config }) => config),
      'boot-source': this.bootSource ?? { kernel_image_path: '', initrd_path: null, boot_args: null },
      'cpu-config': this.cpuConfig,
      logger: null,
      'machine-config': template === null ? machine : { ...machine, cpu_template: template },
      metrics: null,
      'mmds-config': this.mmdsConfig,
      'network-interfaces': this.interfaces.configs,
      vsock: this.vsockConfig,
      entropy: this.entropy,
      pmem: this.pmem,
      'memory-hotplug': this.hotplug,
    });
  }
}

function readable(path: string, refusal: string): void {
  try {
    accessSync(path, constants.R_OK);
  } catch (error) {
    throw new Refused(refusal + osError(error));
  }
}
