import {
  anything,
  boolean,
  defaulted,
  list,
  oneOf,
  optional,
  string,
  struct,
  text,
  u16,
  u32,
  u64,
  u8,
  usize,
  type Value,
} from './shape.ts';
import type { Version } from './versions.ts';

const tokenBucket = struct(
  'TokenBucketConfig',
  { size: u64, one_time_burst: optional(u64), refill_time: u64 },
  { open: true },
);
const rateLimiter = struct('RateLimiterConfig', {
  bandwidth: optional(tokenBucket),
  ops: optional(tokenBucket),
});
const mac = text(/^([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}$/, 'The provided MAC address is invalid.');
const ipv4 = text(/^((25[0-5]|2[0-4]\d|1?\d?\d)(\.|$)){4}$/, 'invalid IPv4 address syntax');
const level = text(/^(off|trace|debug|info|warn|warning|error)$/i, 'Failed to parse string to level filter');

const MACHINE = {
  vcpu_count: u8,
  mem_size_mib: usize,
  smt: boolean,
  cpu_template: oneOf('C3', 'T2', 'T2S', 'T2CL', 'T2A', 'V1N1', 'None'),
  track_dirty_pages: boolean,
  huge_pages: oneOf('None', '2M'),
};

/** The bodies of a release's API. What it does not know yet is refused as any unknown field is. */
export function bodiesOf(version: Version) {
  return {
    actions: struct('ActionBody', { action_type: oneOf('FlushMetrics', 'InstanceStart', 'SendCtrlAltDel') }),
    balloon: struct('BalloonDeviceConfig', {
      amount_mib: u32,
      deflate_on_oom: boolean,
      stats_polling_interval_s: defaulted(u16, 0),
      free_page_hinting: defaulted(boolean, false),
      free_page_reporting: defaulted(boolean, false),
    }),
    balloonUpdate: struct('BalloonUpdateConfig', { amount_mib: u32 }),
    balloonStatistics: struct('BalloonUpdateStatsConfig', { stats_polling_interval_s: u16 }),
    hinting: struct('StartHintingCmd', { acknowledge_on_stop: defaulted(boolean, true) }),
    bootSource: struct('BootSourceConfig', {
      kernel_image_path: string,
      initrd_path: optional(string),
      boot_args: optional(string),
    }),
    cpuConfig: struct('CustomCpuTemplate', {
      kvm_capabilities: defaulted(list(string), []),
      cpuid_modifiers: defaulted(list(anything), []),
      msr_modifiers: defaulted(list(anything), []),
    }),
    drive: struct('BlockDeviceConfig', {
      drive_id: string,
      partuuid: optional(string),
      is_root_device: boolean,
      cache_type: defaulted(oneOf('Unsafe', 'Writeback'), 'Unsafe'),
      is_read_only: optional(boolean),
      path_on_host: optional(string),
      rate_limiter: optional(rateLimiter),
      io_engine: optional(oneOf('Async', 'Sync')),
      socket: optional(string),
    }),
    driveUpdate: struct('BlockDeviceUpdateConfig', {
      drive_id: string,
      path_on_host: optional(string),
      rate_limiter: optional(rateLimiter),
    }),
    entropy: struct('EntropyDeviceConfig', { rate_limiter: optional(rateLimiter) }),
    hotplug: struct('MemoryHotplugConfig', {
      total_size_mib: u32,
      block_size_mib: defaulted(u32, 2),
      slot_size_mib: defaulted(u32, 128),
    }),
    hotplugUpdate: struct('MemoryHotplugSizeUpdate', { requested_size_mib: u32 }),
    logger: struct('LoggerConfig', {
      log_path: optional(string),
      level: optional(level),
      show_level: optional(boolean),
      show_log_origin: optional(boolean),
      module: optional(string),
    }),
    machine: struct('MachineConfig', {
      vcpu_count: MACHINE.vcpu_count,
      mem_size_mib: MACHINE.mem_size_mib,
      smt: defaulted(MACHINE.smt, false),
      cpu_template: optional(MACHINE.cpu_template),
      track_dirty_pages: defaulted(MACHINE.track_dirty_pages, false),
      huge_pages: defaulted(MACHINE.huge_pages, 'None'),
    }),
    machineUpdate: struct('MachineConfigUpdate', {
      vcpu_count: optional(MACHINE.vcpu_count),
      mem_size_mib: optional(MACHINE.mem_size_mib),
      smt: optional(MACHINE.smt),
      cpu_template: optional(MACHINE.cpu_template),
      track_dirty_pages: optional(MACHINE.track_dirty_pages),
      huge_pages: optional(MACHINE.huge_pages),
    }),
    metrics: struct('MetricsConfig', { metrics_path: string }, { open: true }),
    mmdsConfig: struct('MmdsConfig', {
      version: defaulted(oneOf('V1', 'V2'), 'V1'),
      network_interfaces: list(string),
      ipv4_address: optional(ipv4),
      imds_compat: defaulted(boolean, false),
    }),
    network: struct(
      'NetworkInterfaceConfig',
      {
        iface_id: string,
        host_dev_name: string,
        guest_mac: optional(mac),
        mtu: optional(u16),
        rx_rate_limiter: optional(rateLimiter),
        tx_rate_limiter: optional(rateLimiter),
      },
      { hidden: version.has16 ? [] : ['mtu'] },
    ),
    networkUpdate: struct('NetworkInterfaceUpdateConfig', {
      iface_id: string,
      rx_rate_limiter: optional(rateLimiter),
      tx_rate_limiter: optional(rateLimiter),
    }),
    pmem: struct(
      'PmemConfig',
      {
        id: string,
        path_on_host: string,
        root_device: defaulted(boolean, false),
        read_only: defaulted(boolean, false),
        rate_limiter: optional(rateLimiter),
      },
      { hidden: version.has16 ? [] : ['rate_limiter'] },
    ),
    pmemUpdate: struct('PmemDeviceUpdateConfig', { id: string, rate_limiter: optional(rateLimiter) }),
    serial: struct(
      'SerialConfig',
      { serial_out_path: optional(string), rate_limiter: optional(tokenBucket) },
      { hidden: version.has16 ? [] : ['rate_limiter'] },
    ),
    snapshotCreate: struct('CreateSnapshotParams', {
      snapshot_type: defaulted(oneOf('Diff', 'Full'), 'Full'),
      snapshot_path: string,
      mem_file_path: string,
    }),
    snapshotLoad: struct(
      'LoadSnapshotConfig',
      {
        snapshot_path: string,
        mem_backend: optional(
          struct('MemBackendConfig', { backend_path: string, backend_type: oneOf('File', 'Uffd') }),
        ),
        mem_file_path: optional(string),
        enable_diff_snapshots: defaulted(boolean, false),
        track_dirty_pages: defaulted(boolean, false),
        resume_vm: defaulted(boolean, false),
        network_overrides: defaulted(
          list(struct('NetworkOverride', { iface_id: string, host_dev_name: string }, { open: true })),
          [],
        ),
        vsock_override: optional(struct('VsockOverride', { uds_path: string }, { open: true })),
        clock_realtime: defaulted(boolean, false),
      },
      {
        hidden: [
          ...(version.has12 ? [] : (['network_overrides'] as const)),
          ...(version.has16 ? [] : (['vsock_override', 'clock_realtime'] as const)),
        ],
      },
    ),
    vm: struct('Vm', { state: oneOf('Paused', 'Resumed') }),
    vsock: struct('VsockDeviceConfig', {
      vsock_id: optional(string),
      guest_cid: u32,
      uds_path: string,
    }),
    mmds: anything,
  };
}

export type Bodies = ReturnType<typeof bodiesOf>;
/** What the body of this name is read as. */
export type Body<K extends keyof Bodies> = Value<Bodies[K]>;
