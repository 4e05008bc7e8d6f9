import type { GeneratedAlways } from 'kysely';
import type {
  AccountId,
  EventId,
  ImageId,
  KeyId,
  LayerId,
  OperationId,
  RouteId,
  SnapshotId,
  TemplateId,
  VmId,
} from '../../base/ids.ts';
import type { Layer, OperationOutcome, Operation, Quotas, Scope, StepPhase } from '../../model/records.ts';
import type { Rest, UseSpan } from '../../model/history.ts';
import type { WakeRules } from '../../model/route.ts';
import type { SavedGuest, SavedOn, Snapshot, SnapshotKind, SnapshotState } from '../../model/snapshot.ts';
import type { IdlePolicy, StateReason, Verb, VmmProcess, VmState } from '../../model/vm.ts';
import type { BlobId, BlobKind, BlobState, LeaseId } from '../ledger.ts';
import type { Flag, Json } from './columns.ts';

/**
 * The tables, the same on both engines. Times are milliseconds since 1970. `seq` is the database's own count of inserted
 * rows: lists are in its order, so that two rows of one millisecond have one too.
 */
export interface Tables {
  hosts: HostsTable;
  accounts: AccountsTable;
  api_keys: KeysTable;
  images: ImagesTable;
  templates: TemplatesTable;
  layers: LayersTable;
  snapshots: SnapshotsTable;
  routes: RoutesTable;
  account_secrets: AccountSecretsTable;
  blobs: BlobsTable;
  snapshot_blobs: SnapshotBlobsTable;
  leases: LeasesTable;
  lease_blobs: LeaseBlobsTable;
  vms: VmsTable;
  vm_labels: VmLabelsTable;
  vm_rests: VmRestsTable;
  vm_uses: VmUsesTable;
  operations: OperationsTable;
  operation_steps: OperationStepsTable;
  events: EventsTable;
  idempotency_keys: IdempotencyKeysTable;
}

export interface HostsTable {
  id: string;
  boot_id: string;
  seen_at: number;
}

export interface AccountsTable {
  seq: GeneratedAlways<number>;
  id: AccountId;
  name: string;
  quotas: Json<Quotas>;
  created_at: number;
}

export interface KeysTable {
  seq: GeneratedAlways<number>;
  id: KeyId;
  account_id: AccountId;
  name: string;
  scopes: Json<readonly Scope[]>;
  prefix: string;
  hash: string;
  expires_at: number | null;
  revoked_at: number | null;
  last_used_at: number | null;
  created_at: number;
}

export interface ImagesTable {
  seq: GeneratedAlways<number>;
  account_id: AccountId;
  id: ImageId;
  kernel_path: string;
  vmlinux_path: string | null;
  initrd_path: string | null;
  rootfs_path: string;
  rootfs_format: 'raw' | 'qcow2';
  boot_args: string | null;
  default_user: string;
  agent: Flag | null;
  size_bytes: number;
  sha256: string | null;
  created_at: number;
}

export interface TemplatesTable {
  seq: GeneratedAlways<number>;
  account_id: AccountId;
  id: TemplateId;
  description: string | null;
  /** Both or neither: an image is known by its account and id. */
  image_account_id: AccountId | null;
  image_id: ImageId | null;
  vcpu_count: number | null;
  mem_mib: number | null;
  disk_mib: number | null;
  boot_args: string | null;
  idle: Json<IdlePolicy> | null;
  labels: Json<Readonly<Record<string, string>>>;
  created_at: number;
  updated_at: number;
  user_data: Json<string> | null;
}

export interface LayersTable {
  seq: GeneratedAlways<number>;
  id: LayerId;
  host_id: string;
  kind: Layer['kind'];
  path: string;
  format: 'raw' | 'qcow2';
  parent_id: LayerId | null;
  image_account_id: AccountId | null;
  image_id: ImageId | null;
  frozen: Flag;
  created_at: number;
}

export interface SnapshotsTable {
  seq: GeneratedAlways<number>;
  id: SnapshotId;
  account_id: AccountId;
  vm_id: VmId;
  name: string | null;
  kind: SnapshotKind;
  state: SnapshotState;
  host_id: string | null;
  image_account_id: AccountId;
  image_id: ImageId;
  vcpu_count: number;
  mem_mib: number;
  disk_mib: number | null;
  saved_on: Json<SavedOn>;
  guest: Json<SavedGuest>;
  parent_id: SnapshotId | null;
  disk_layer_id: LayerId | null;
  memory_layer_id: LayerId | null;
  state_layer_id: LayerId | null;
  logical_bytes: number;
  stored_bytes: number | null;
  manifest: Json<NonNullable<Snapshot['manifest']>> | null;
  verified_at: number | null;
  used_at: number;
  problem: string | null;
  created_at: number;
}

export interface RoutesTable {
  seq: GeneratedAlways<number>;
  id: RouteId;
  account_id: AccountId;
  vm_id: VmId;
  /** One of the two, in lower case. */
  subdomain: string | null;
  domain: string | null;
  target_port: number;
  auto_wake: Flag;
  wake: Json<WakeRules> | null;
  created_at: number;
  updated_at: number;
}

export interface IdempotencyKeysTable {
  account_id: AccountId;
  key: string;
  /** Of the request it was first sent with. */
  fingerprint: string;
  /** What the ids of things it makes come from. */
  secret: string;
  /** Who is at it; null: nobody. */
  worker: string | null;
  /** Once there is an answer, with its body. */
  status: number | null;
  body: string | null;
  location: string | null;
  created_at: number;
}

/** What an account's chunks are named and sealed with: wrapped by the operator's key, where there is one. */
export interface AccountSecretsTable {
  account_id: AccountId;
  secret: string;
}

/** Every object that is, was or may be in the home of blobs. */
export interface BlobsTable {
  id: BlobId;
  kind: BlobKind;
  account_id: AccountId;
  bytes: number;
  state: BlobState;
  /** By the database's clock, as all times of these tables. */
  state_at: number;
  verified_at: number | null;
  /** Since when the object of a deleted one is known to be gone. */
  gone_at: number | null;
}

export interface SnapshotBlobsTable {
  snapshot_id: SnapshotId;
  blob_id: BlobId;
  /** How much of it the snapshot needs. */
  used_bytes: number;
}

export interface LeasesTable {
  seq: GeneratedAlways<number>;
  id: LeaseId;
  kind: 'upload' | 'read' | 'rewrite';
  snapshot_id: SnapshotId;
  vm_id: VmId;
  host_id: string;
  /** Of the VM, for an upload. */
  epoch: number | null;
  lease_until: number;
}

export interface LeaseBlobsTable {
  lease_id: LeaseId;
  blob_id: BlobId;
  reused: Flag;
  arrived: Flag;
}

/** When VMs did not run; at most one of each has no end yet. */
export interface VmRestsTable {
  seq: GeneratedAlways<number>;
  vm_id: VmId;
  how: Rest['how'];
  mem_mib: number;
  from_at: number;
  until_at: number | null;
}

/** When VMs were used. */
export interface VmUsesTable {
  seq: GeneratedAlways<number>;
  vm_id: VmId;
  way: UseSpan['by'];
  from_at: number;
  until_at: number;
}

export interface VmsTable {
  seq: GeneratedAlways<number>;
  id: VmId;
  account_id: AccountId;
  /** Its owner, together with `epoch`; null while it sleeps with a durable snapshot. */
  host_id: string | null;
  epoch: number;
  name: string | null;
  image_account_id: AccountId;
  image_id: ImageId;
  template_account_id: AccountId | null;
  template_id: TemplateId | null;
  parent_snapshot_id: SnapshotId | null;
  state: VmState;
  state_reason: Json<StateReason> | null;
  stopped_by: 'person' | 'policy' | 'guest' | null;
  vcpu_count: number;
  mem_mib: number;
  disk_mib: number | null;
  boot_args: string | null;
  /** The network its address and MAC are unique in; kept while it has no owner. null: no network. */
  network_id: string | null;
  guest_ip: string | null;
  guest_mac: string | null;
  /** The gateway its SSH port is unique on. */
  gateway_id: string | null;
  ssh_port: number | null;
  ssh_authorized_keys: Json<readonly string[]>;
  idle: Json<IdlePolicy> | null;
  autostart: Flag;
  labels: Json<Readonly<Record<string, string>>>;
  ready_at: number | null;
  last_active_at: number | null;
  leased_until: number | null;
  vmm: string | null;
  accel: string | null;
  process: Json<VmmProcess> | null;
  layer_id: LayerId | null;
  /** What cloud-init knows it as; null: its id. */
  instance_id: string | null;
  /** What it sleeps as. */
  snapshot_id: SnapshotId | null;
  /** The memory file it runs on a private map of. */
  memory_layer_id: LayerId | null;
  created_at: number;
  updated_at: number;
  /** The last column, read by itself: large, and full of secrets. */
  user_data: Json<string> | null;
}

/** The labels of `vms.labels` again, one a row, to find VMs by. */
export interface VmLabelsTable {
  vm_id: VmId;
  /** Key and value as one JSON array, so that equality is exact whatever characters they hold. */
  label: Json<readonly [string, string]>;
}

export interface OperationsTable {
  seq: GeneratedAlways<number>;
  id: OperationId;
  vm_id: VmId;
  account_id: AccountId;
  host_id: string;
  epoch: number;
  verb: Verb;
  args: Json<Readonly<Record<string, unknown>>>;
  outcome: OperationOutcome;
  error: Json<NonNullable<Operation['error']>> | null;
  /** Until when its host is trusted to be at it, by the database's clock. */
  lease_until: number;
  created_at: number;
  finished_at: number | null;
}

export interface OperationStepsTable {
  operation_id: OperationId;
  seq: number;
  step: string;
  phase: StepPhase;
  at: number;
}

/** No foreign keys: events outlive what they tell of. */
export interface EventsTable {
  seq: GeneratedAlways<number>;
  id: EventId;
  account_id: AccountId;
  vm_id: VmId | null;
  kind: string;
  message: string;
  data: Json<Readonly<Record<string, unknown>>>;
  at: number;
}
