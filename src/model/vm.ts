import type { AccountId, ImageId, LayerId, OperationId, SnapshotId, TemplateId, VmId } from '../base/ids.ts';
import type { KeepAwake } from './keep-awake.ts';

/** The six states a VM is in; what else is going on is its operation. */
export const VM_STATES = ['starting', 'running', 'stopping', 'stopped', 'snapshotted', 'error'] as const;
export type VmState = (typeof VM_STATES)[number];

/** What may be under way on a VM. One at a time. */
export const VERBS = ['create', 'start', 'stop', 'reboot', 'delete', 'snapshot', 'restore', 'fork'] as const;
export type Verb = (typeof VERBS)[number];

/** How an operation under way is called in a VM object. */
export const OPERATION_NAMES = {
  create: 'creating',
  start: 'starting',
  stop: 'stopping',
  reboot: 'rebooting',
  delete: 'deleting',
  snapshot: 'snapshotting',
  restore: 'restoring',
  fork: 'forking',
} as const satisfies Record<Verb, string>;

/** Why a VM is in the state it is in: on `error`, and after a forced stop or a crash. */
export interface StateReason {
  readonly code: string;
  readonly message: string;
  /** Milliseconds since 1970. */
  readonly at: number;
}

export interface IdlePolicy {
  readonly timeoutSeconds: number;
  readonly action: 'snapshot' | 'stop' | 'none';
  readonly connections: 'hold' | 'quiet' | 'ignore';
  readonly pinned: boolean;
  /** It does not sleep while it uses this much of its vCPUs or more, in percent; null: that does not matter. */
  readonly cpuBelow: number | null;
  /** When it does not sleep. */
  readonly keepAwake: readonly KeepAwake[];
}

/** A networked VM's addresses, kept from its creation to its deletion. */
export interface VmNetwork {
  readonly ip: string;
  readonly mac: string;
  /** The host's port that leads to the guest's port 22. */
  readonly sshPort: number;
}

/** A VMM process known for certain: pids are used again, start times and boot ids are not. */
export interface VmmProcess {
  readonly pid: number;
  readonly startTime: string;
  readonly bootId: string;
}

/** A VM as the store keeps it: what it is to be (state, size, addresses) and what carries it now (process). */
export interface Vm {
  readonly id: VmId;
  readonly accountId: AccountId;
  /** The host that owns it. While it sleeps as a durable snapshot, any other may make it its own. */
  readonly hostId: string | null;
  /** Goes up with every change of owner; writes of an old owner find no row. */
  readonly epoch: number;
  readonly name: string | null;
  readonly imageId: ImageId;
  readonly templateId: TemplateId | null;
  readonly parentSnapshotId: SnapshotId | null;
  readonly state: VmState;
  readonly stateReason: StateReason | null;
  /** Who stopped it: a VM stopped by a person is not woken by a knock. */
  readonly stoppedBy: 'person' | 'policy' | 'guest' | null;
  readonly vcpuCount: number;
  readonly memMib: number;
  /** null: as large as the image. */
  readonly diskMib: number | null;
  /** null: the image's. */
  readonly bootArgs: string | null;
  readonly network: VmNetwork | null;
  readonly sshAuthorizedKeys: readonly string[];
  readonly idle: IdlePolicy | null;
  readonly autostart: boolean;
  readonly labels: Readonly<Record<string, string>>;
  /** When the guest's agent or SSH port first answered since it was last started; null: not yet. Milliseconds. */
  readonly readyAt: number | null;
  /** When it was last used, as far as was written down. Milliseconds. */
  readonly lastActiveAt: number | null;
  /** Until when somebody has said that it is busy, also once that is over. Milliseconds. */
  readonly leasedUntil: number | null;
  /** The driver that runs it, and how: `qemu` + `tcg`, `firecracker` + `kvm`. null before it was first started. */
  readonly vmm: string | null;
  readonly accel: string | null;
  readonly process: VmmProcess | null;
  /** The top of its disk's chain of layers; null until its disk is made. */
  readonly layerId: LayerId | null;
  /** What cloud-init knows it as: its id, or for a copy what the first of its line had, so that nothing is set up twice. */
  readonly instanceId: string;
  /** The snapshot it sleeps as, and wakes from; null while it does not sleep. */
  readonly snapshotId: SnapshotId | null;
  /** The memory file it runs on a private map of: it stays as it is for as long. */
  readonly memoryLayerId: LayerId | null;
  /** The unfinished operation on it, if any. */
  readonly operation: { readonly id: OperationId; readonly verb: Verb } | null;
  readonly createdAt: number;
  readonly updatedAt: number;
}

/** What a store is given to make a VM row; the rest has its beginning. */
export type NewVm = Pick<
  Vm,
  | 'id'
  | 'accountId'
  | 'hostId'
  | 'name'
  | 'imageId'
  | 'templateId'
  | 'vcpuCount'
  | 'memMib'
  | 'diskMib'
  | 'bootArgs'
  | 'network'
  | 'sshAuthorizedKeys'
  | 'idle'
  | 'autostart'
  | 'labels'
> & {
  readonly userData: string | null;
  /** The snapshot it is a copy of: held until the copy stands on its own. null: none. */
  readonly parentSnapshotId?: SnapshotId | null;
  /** null: its own id. */
  readonly instanceId?: string | null;
};

/** What may change of a VM after it was made. */
export type VmPatch = Partial<
  Pick<
    Vm,
    | 'name'
    | 'state'
    | 'stateReason'
    | 'stoppedBy'
    | 'vcpuCount'
    | 'memMib'
    | 'diskMib'
    | 'idle'
    | 'autostart'
    | 'labels'
    | 'readyAt'
    | 'lastActiveAt'
    | 'vmm'
    | 'accel'
    | 'process'
    | 'layerId'
    | 'snapshotId'
    | 'memoryLayerId'
  >
>;
