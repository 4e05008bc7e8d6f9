import type { Body } from './bodies.ts';
import { Refused } from './calls.ts';
import type { GuestMemory } from './guest.ts';
import { MappedMemory, writeMemory } from './memory-file.ts';
import { osError } from './musl.ts';
import type { Resources } from './resources.ts';
import { MAGIC, readState, writeState, type SavedState } from './state-file.ts';
import type { Version } from './versions.ts';
import { Vsock } from './vsock.ts';

/**
 * Writes the state, then the memory. A diff is written like a full one: what the pretended guest holds is one text at the
 * beginning, which is dirty every time. Throws Refused, and leaves what it wrote till then.
 */
export function createSnapshot(
  to: Body<'snapshotCreate'>,
  {
    resources,
    memory,
    pci,
    requestedMib,
    version,
    wholeMemory,
  }: {
    readonly resources: Resources;
    readonly memory: GuestMemory;
    readonly pci: boolean;
    readonly requestedMib: number;
    readonly version: Version;
    readonly wholeMemory: boolean;
  },
): void {
  const { machine, vsockConfig, hotplug } = resources;
  writeState(to.snapshot_path, {
    magic: MAGIC,
    version: version.snapshotFormat,
    machine: { ...machine, track_dirty_pages: false },
    pci,
    drives: resources.blocks.list.map(({ config }) => config),
    networks: resources.interfaces.configs,
    pmem: resources.pmem,
    vsock: vsockConfig,
    entropy: resources.entropy,
    balloon: resources.balloon,
    hotplug: hotplug && { ...hotplug, requested_size_mib: requestedMib },
    mmds: resources.mmdsConfig,
    realtimeMs: version.has16 ? Date.now() : null,
  });
  const whole = wholeMemory && to.snapshot_type === 'Full';
  writeMemory(to.mem_file_path, machine.mem_size_mib * 2 ** 20, memory, whole);
}

/** What a load brings back, besides what it put into the resources. */
export interface Loaded {
  readonly mapped: MappedMemory;
  /** undefined: the memory file holds no guest that could run. */
  readonly memory: GuestMemory | undefined;
  readonly requestedMib: number;
  /** By how much the guest's clock is behind the host's; null where the snapshot does not say. */
  readonly behindMs: number | null;
}

const FAILED = 'Load snapshot error: Failed to restore from snapshot: ';

/**
 * Reads a snapshot and opens what it recorded, by the very paths in it but for the overrides. `openSerial` comes first among the
 * devices. Throws Refused; the process is good for nothing after that.
 */
export async function loadSnapshot(
  from: Body<'snapshotLoad'>,
  {
    resources,
    version,
    kvmProblem,
    openSerial,
  }: {
    readonly resources: Resources;
    readonly version: Version;
    readonly kvmProblem: string | null;
    readonly openSerial: () => void;
  },
): Promise<Loaded> {
  const state = overridden(
    attempt('Failed to get snapshot state from file', () =>
      readState(from.snapshot_path, version.snapshotFormat),
    ),
    from,
  );
  const { backend_type: kind, backend_path: path } = from.mem_backend ?? {
    backend_type: 'File' as const,
    backend_path: from.mem_file_path ?? '',
  };
  if (kind === 'Uffd')
    throw new Refused(
      `${FAILED}Failed to load guest memory: Error creating guest memory from uffd: Failed to UFFD object: the double has no userfaultfd`,
    );
  if (state.machine.huge_pages === '2M')
    throw new Refused(
      `${FAILED}Failed to load guest memory: Error creating guest memory from file: Cannot restore hugetlbfs backed snapshot by mapping the memory file. Please use uffd.`,
    );
  const mapped = attempt(
    'Failed to load guest memory: Error creating guest memory from file',
    () => new MappedMemory(path, state.machine.mem_size_mib * 2 ** 20),
  );
  resources.machine = {
    ...state.machine,
    track_dirty_pages: from.track_dirty_pages || from.enable_diff_snapshots,
  };
  if (kvmProblem !== null)
    throw new Refused(
      `${FAILED}Failed to build microVM from snapshot: Failed to create microVM and vCPUs: ${kvmProblem}`,
    );
  if (from.clock_realtime && state.realtimeMs === null)
    throw new Refused(
      `${FAILED}Failed to build microVM from snapshot: Failed to restore microVM state: clock_realtime requested but not present in the snapshot state`,
    );
  await restoreDevices(state, resources, openSerial);
  return {
    mapped,
    memory: mapped.guest(),
    requestedMib: state.hotplug?.requested_size_mib ?? 0,
    behindMs: state.realtimeMs === null ? null : Date.now() - state.realtimeMs,
  };
}

function attempt<T>(what: string, act: () => T): T {
  try {
    return act();
  } catch (error) {
    throw new Refused(`${FAILED}${what}: ${osError(error)}`);
  }
}

function overridden(
  state: SavedState,
  { network_overrides, vsock_override }: Body<'snapshotLoad'>,
): SavedState {
  const { networks, vsock } = state;
  for (const { iface_id: id } of network_overrides) {
    if (!networks.some((one) => one.iface_id === id))
      throw new Refused(`${FAILED}Failed to get snapshot state from file: Unknown Network Device.`);
  }
  if (vsock_override && !vsock)
    throw new Refused(`${FAILED}Failed to get snapshot state from file: Unknown Vsock Device.`);
  return {
    ...state,
    networks: networks.map((config) => ({
      ...config,
      host_dev_name:
        network_overrides.findLast((one) => one.iface_id === config.iface_id)?.host_dev_name ??
        config.host_dev_name,
    })),
    vsock: vsock && { ...vsock, ...vsock_override },
  };
}

async function restoreDevices(
  state: SavedState,
  resources: Resources,
  openSerial: () => void,
): Promise<void> {
  const devices = 'Failed to build microVM from snapshot: Failed to restore devices: ';
  const restore = `${devices}Error restoring ${state.pci ? 'PCI' : 'MMIO'} devices: `;
  attempt(`${devices}Error creating DeviceManager: Error with EventFd`, openSerial);
  resources.balloon = state.balloon;
  attempt(`${restore}Block`, () => resources.blocks.restore(state.drives));
  resources.mmdsConfig = state.mmds;
  attempt(`${restore}Net: Failed to create a network device`, () =>
    resources.interfaces.restore(state.networks),
  );
  if (state.vsock) {
    try {
      resources.vsock = await Vsock.bind(state.vsock.uds_path);
    } catch (error) {
      throw new Refused(
        `${FAILED}${restore}VsockUnixBackend: Error binding to the host-side Unix socket: ${osError(error)}`,
      );
    }
    resources.vsockConfig = state.vsock;
  }
  resources.entropy = state.entropy;
  resources.pmem = state.pmem;
  resources.hotplug = state.hotplug;
}
