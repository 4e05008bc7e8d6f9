import type {
  AccountId,
  EventId,
  ImageId,
  KeyId,
  LayerId,
  OperationId,
  TemplateId,
  VmId,
} from '../base/ids.ts';
import type { IdlePolicy, Verb } from './vm.ts';

/** What an API key may do; each account's keys reach only that account, `operator` the host. */
export const SCOPES = ['read', 'write', 'admin', 'operator'] as const;
export type Scope = (typeof SCOPES)[number];

/** Most of each that an account may have at once; null: no limit of its own beyond the server's. */
export interface Quotas {
  readonly vms: number | null;
  readonly vcpus: number | null;
  readonly memMib: number | null;
}

export interface Account {
  readonly id: AccountId;
  readonly name: string;
  readonly quotas: Quotas;
  readonly createdAt: number;
}

export interface ApiKey {
  readonly id: KeyId;
  readonly accountId: AccountId;
  readonly name: string;
  readonly scopes: readonly Scope[];
  /** The first characters of the secret, to know it by. */
  readonly prefix: string;
  readonly expiresAt: number | null;
  readonly revokedAt: number | null;
  readonly lastUsedAt: number | null;
  readonly createdAt: number;
}

/** A kernel and a root file system on the host. An account sees its own and those of account `default`. */
export interface Image {
  readonly accountId: AccountId;
  readonly id: ImageId;
  /** Absolute paths on the host; never leave the server. */
  readonly kernelPath: string;
  /** The uncompressed kernel, for a VMM that wants one. */
  readonly vmlinuxPath: string | null;
  readonly initrdPath: string | null;
  readonly rootfsPath: string;
  readonly rootfsFormat: 'raw' | 'qcow2';
  /** null: the VMM's own default. */
  readonly bootArgs: string | null;
  readonly defaultUser: string;
  /** Whether it carries the guest agent; null: unknown. */
  readonly agent: boolean | null;
  /** Size of the root disk as the guest sees it, in bytes. */
  readonly sizeBytes: number;
  /** Of the root file system; null until it is counted. */
  readonly sha256: string | null;
  readonly createdAt: number;
}

export interface Template {
  readonly accountId: AccountId;
  readonly id: TemplateId;
  readonly description: string | null;
  readonly imageId: ImageId | null;
  readonly vcpuCount: number | null;
  readonly memMib: number | null;
  readonly diskMib: number | null;
  readonly userData: string | null;
  readonly bootArgs: string | null;
  readonly idle: IdlePolicy | null;
  readonly labels: Readonly<Record<string, string>>;
  readonly createdAt: number;
  readonly updatedAt: number;
}

export type OperationOutcome = 'running' | 'done' | 'failed' | 'stuck';

/** Something under way on a VM, or that was. */
export interface Operation {
  readonly id: OperationId;
  readonly vmId: VmId;
  readonly accountId: AccountId;
  readonly hostId: string;
  readonly epoch: number;
  readonly verb: Verb;
  /** What the verb was asked with, so that it can be finished after a crash. */
  readonly args: Readonly<Record<string, unknown>>;
  readonly outcome: OperationOutcome;
  readonly error: { readonly code: string; readonly message: string } | null;
  readonly createdAt: number;
  readonly finishedAt: number | null;
}

export type StepPhase = 'begun' | 'done' | 'undoing' | 'undone';

/** One line of an operation's journal; written before what it says is done. */
export interface JournalRow {
  readonly operationId: OperationId;
  /** 1, 2, 3... within its operation. */
  readonly seq: number;
  readonly step: string;
  readonly phase: StepPhase;
  readonly at: number;
}

export interface HatchEvent {
  readonly id: EventId;
  /** Grows with every event of the whole server: the order of a list. */
  readonly seq: number;
  readonly accountId: AccountId;
  readonly vmId: VmId | null;
  /** `vm.created`, `vm.running`, `vm.stopped`, `vm.error`... */
  readonly kind: string;
  readonly message: string;
  readonly data: Readonly<Record<string, unknown>>;
  readonly at: number;
}

/** A file of a saved machine that stays as it is, or a VM's own top disk; counted by who uses it. */
export interface Layer {
  readonly id: LayerId;
  readonly hostId: string;
  readonly kind: 'disk' | 'memory' | 'state';
  /** Absolute path on the host. */
  readonly path: string;
  readonly format: 'raw' | 'qcow2';
  /** The layer it stands on. */
  readonly parentId: LayerId | null;
  /** The image at the bottom of its chain, for a disk. */
  readonly imageAccountId: AccountId | null;
  readonly imageId: ImageId | null;
  readonly frozen: boolean;
  readonly createdAt: number;
}
