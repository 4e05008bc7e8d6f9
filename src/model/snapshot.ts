import type { AccountId, ImageId, LayerId, SnapshotId, VmId } from '../base/ids.ts';

/** Who wanted it: a person, the idle policy (the next one replaces it), or a fork of a running VM. */
export const SNAPSHOT_KINDS = ['manual', 'idle', 'fork'] as const;
export type SnapshotKind = (typeof SNAPSHOT_KINDS)[number];

/** Where its bytes are: on the host that made it, on their way to the store, in the store; or not whole any more. */
export const SNAPSHOT_STATES = ['local', 'uploading', 'durable', 'damaged'] as const;
export type SnapshotState = (typeof SNAPSHOT_STATES)[number];

/** What must be the same where a saved machine is to go on. */
export interface SavedOn {
  readonly driver: 'qemu' | 'firecracker' | 'fake';
  readonly version: string;
  /** `pc-q35-7.2`, or Firecracker's snapshot format. */
  readonly machineType: string;
  readonly accel: string;
  /** The guest's processor: its model, and under KVM the host's flags it may have seen. */
  readonly cpu: { readonly model: string; readonly flags: readonly string[] };
  /** SHA-256 of the kernel it booted; null: its image does not say. It goes with the snapshot, and so is not compared. */
  readonly kernelSha256: string | null;
  /** SHA-256 of its image's root file system; null: it had not been counted. */
  readonly imageSha256: string | null;
}

/** What the guest in it thinks it is: a copy is told otherwise, and needs the same devices. */
export interface SavedGuest {
  readonly hostname: string;
  /** The network card it has; null: none. */
  readonly mac: string | null;
  /** How its disk lies in `disks.0`. */
  readonly diskFormat: 'raw' | 'qcow2';
  readonly bootArgs: string;
  readonly hasInitrd: boolean;
  /** What cloud-init knows it as. */
  readonly instanceId: string;
  /** Whether the agent answered before it was saved. */
  readonly agent: boolean;
}

/** A whole VM at one moment: its memory, its disk and the state of its devices. It never changes. */
export interface Snapshot {
  readonly id: SnapshotId;
  readonly accountId: AccountId;
  readonly vmId: VmId;
  readonly name: string | null;
  readonly kind: SnapshotKind;
  readonly state: SnapshotState;
  /** The host that has its files; null: they are only in the store. */
  readonly hostId: string | null;
  readonly imageId: ImageId;
  readonly vcpuCount: number;
  readonly memMib: number;
  /** null: as large as the image. */
  readonly diskMib: number | null;
  readonly savedOn: SavedOn;
  readonly guest: SavedGuest;
  /** The VM's snapshot before it; it may be gone. */
  readonly parentId: SnapshotId | null;
  /** The files here; null with `hostId`. The memory may also lie in the state (a null of its own). */
  readonly diskLayerId: LayerId | null;
  readonly memoryLayerId: LayerId | null;
  readonly stateLayerId: LayerId | null;
  /** Of memory, disk and state as the guest sees them, holes included. */
  readonly logicalBytes: number;
  /** New bytes in the store; null until it is there. */
  readonly storedBytes: number | null;
  /** The object in the store that names all its chunks; null until it is durable. */
  readonly manifest: { readonly name: string; readonly sha256: string } | null;
  /** When it was last restored for proof and its agent answered; milliseconds. */
  readonly verifiedAt: number | null;
  /** When it was last made, restored or forked: the cache forgets the longest unused first. */
  readonly usedAt: number;
  /** Why it is not durable yet, or damaged; null: nothing is wrong. */
  readonly problem: string | null;
  readonly createdAt: number;
}

/** What a store is given to make a snapshot row; the rest has its beginning. */
export type NewSnapshot = Omit<
  Snapshot,
  'state' | 'storedBytes' | 'manifest' | 'verifiedAt' | 'usedAt' | 'problem' | 'createdAt'
>;

/** What may change of a snapshot's row after it was made; what it holds never does. */
export type SnapshotPatch = Partial<
  Pick<
    Snapshot,
    | 'name'
    | 'state'
    | 'hostId'
    | 'diskLayerId'
    | 'memoryLayerId'
    | 'stateLayerId'
    | 'storedBytes'
    | 'manifest'
    | 'verifiedAt'
    | 'usedAt'
    | 'problem'
  >
>;
