import type { MachineSpec } from '../driver.ts';
import type { ApiRequest } from './api.ts';
import type { Features } from './versions.ts';

/**
 * How a guest boots under Firecracker: one process, one machine, told what it is made of call by call, then started. The
 * order is free but for the root disk's being `vda` whatever comes first; the logger is first, so that what fails after it is
 * logged (its getting-started guide and API description, v1.16).
 */
export interface BootStep {
  readonly name: string;
  readonly request: ApiRequest;
}

/** Names of files in the VMM's working folder: the same for every VM, so that a recorded path opens the VM's own file. */
export const FILES = {
  api: 'fc.sock',
  vsock: 'agent.vsock',
  log: 'fc.log',
  metrics: 'fc.metrics',
  state: 'fc.state',
  memory: 'fc.mem',
  loadedMemory: 'loaded.mem',
} as const;

/** The guest's address on vsock; each VMM has a socket of its own, so that all may have the same. */
const GUEST_CID = 3;
/** A guest's console is cut to this many bytes a second, so that it cannot fill the disk. */
const CONSOLE_BYTES_PER_SECOND = 1024 * 1024;

/**
 * The calls from a fresh process to a guest that runs, in order. There is no balloon among them: nobody can ask for a guest's memory
 * back over the API, and one that is never inflated only widens what the guest can reach.
 */
export function bootSteps(spec: MachineSpec, features: Features): readonly BootStep[] {
  return [
    ...processSteps(features),
    { name: 'machine-config', request: machineConfig(spec) },
    { name: 'boot-source', request: bootSource(spec) },
    ...spec.disks.map((disk, i) => ({ name: `drive ${i}`, request: drive(disk, i) })),
    ...(spec.network === null ? [] : [{ name: 'network', request: networkInterface(spec.network) }]),
    { name: 'vsock', request: vsock() },
    { name: 'entropy', request: { method: 'PUT', path: '/entropy', body: {} } },
    { name: 'start', request: action('InstanceStart') },
  ];
}

/** What belongs to the process, not the machine: told also to one that will load a snapshot, which does not hold it. */
export function processSteps(features: Features): readonly BootStep[] {
  return [
    {
      name: 'logger',
      request: {
        method: 'PUT',
        path: '/logger',
        body: { log_path: FILES.log, level: 'Warning', show_level: true, show_log_origin: false },
      },
    },
    {
      name: 'metrics',
      request: { method: 'PUT', path: '/metrics', body: { metrics_path: FILES.metrics } },
    },
    // The console goes to standard output, which is the VM's console file; only its volume is bounded here.
    ...(features.serialLimit ? [{ name: 'serial', request: serialLimit() }] : []),
  ];
}

function serialLimit(): ApiRequest {
  const bandwidth = { size: CONSOLE_BYTES_PER_SECOND, refill_time: 1000 };
  return { method: 'PUT', path: '/serial', body: { rate_limiter: bandwidth } };
}

function machineConfig({ vcpuCount, memMib }: MachineSpec): ApiRequest {
  return {
    method: 'PUT',
    path: '/machine-config',
    body: { vcpu_count: vcpuCount, mem_size_mib: memMib, smt: false, track_dirty_pages: false },
  };
}

function bootSource({ kernel, initrd, bootArgs }: MachineSpec): ApiRequest {
  return {
    method: 'PUT',
    path: '/boot-source',
    body: {
      kernel_image_path: kernel,
      ...(initrd === null ? {} : { initrd_path: initrd }),
      boot_args: bootArgs,
    },
  };
}

function drive({ path, readOnly }: MachineSpec['disks'][number], i: number): ApiRequest {
  return {
    method: 'PUT',
    path: `/drives/disk${i}`,
    body: {
      drive_id: `disk${i}`,
      path_on_host: path,
      is_root_device: i === 0,
      is_read_only: readOnly,
      // What the guest has synced is on the host's disk.
      cache_type: 'Writeback',
      io_engine: 'Sync',
    },
  };
}

function networkInterface({ tap, mac }: NonNullable<MachineSpec['network']>): ApiRequest {
  return {
    method: 'PUT',
    path: '/network-interfaces/net0',
    body: { iface_id: 'net0', host_dev_name: tap, guest_mac: mac },
  };
}

function vsock(): ApiRequest {
  return { method: 'PUT', path: '/vsock', body: { guest_cid: GUEST_CID, uds_path: FILES.vsock } };
}

/** What is not a thing of the machine but something done to it. */
export function action(type: 'InstanceStart' | 'SendCtrlAltDel' | 'FlushMetrics'): ApiRequest {
  return { method: 'PUT', path: '/actions', body: { action_type: type } };
}

/** Lets the guest stand still, or go on. */
export function vmState(state: 'Paused' | 'Resumed'): ApiRequest {
  return { method: 'PATCH', path: '/vm', body: { state } };
}

/** Writes the paused machine: its devices to one file, all of its memory to another. */
export function createSnapshot(): ApiRequest {
  return {
    method: 'PUT',
    path: '/snapshot/create',
    body: { snapshot_type: 'Full', snapshot_path: FILES.state, mem_file_path: FILES.memory },
  };
}

/**
 * Whether a guest's clock can be moved on as it is loaded, by the time it was saved for. That moves only kvm-clock, which a Linux of
 * 5.10 or newer reads only when it is told to (docs/snapshotting/snapshot-support.md); one that reads the TSC has its time set by its agent.
 */
export function canMoveClock({ bootArgs }: Pick<MachineSpec, 'bootArgs'>, features: Features): boolean {
  return (
    features.clockRealtime && process.arch === 'x64' && /(?:^|\s)clocksource=kvm-clock(?:\s|$)/.test(bootArgs)
  );
}

/** What Firecracker says when the host that saved a guest kept no time for its clock (Linux before 5.16); its process ends then. */
export const NO_TIME_SAVED = 'clock_realtime requested but not present in the snapshot state';

/** Makes the machine a snapshot holds; its disks and vsock are opened by the paths in it, its tap by the one given here. */
export function loadSnapshot(
  { network }: Pick<MachineSpec, 'network'>,
  {
    resume,
    features,
    moveClock,
  }: { readonly resume: boolean; readonly features: Features; readonly moveClock: boolean },
): ApiRequest {
  return {
    method: 'PUT',
    path: '/snapshot/load',
    body: {
      snapshot_path: FILES.state,
      mem_backend: { backend_type: 'File', backend_path: FILES.loadedMemory },
      track_dirty_pages: false,
      resume_vm: resume,
      ...(network === null ? {} : { network_overrides: [{ iface_id: 'net0', host_dev_name: network.tap }] }),
      ...(moveClock ? { clock_realtime: true } : {}),
      ...(features.vsockOverride ? { vsock_override: { uds_path: FILES.vsock } } : {}),
    },
  };
}
