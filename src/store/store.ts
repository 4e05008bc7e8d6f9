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
} from '../base/ids.ts';
import type {
  Account,
  ApiKey,
  HatchEvent,
  Image,
  JournalRow,
  Layer,
  Operation,
  OperationOutcome,
  Quotas,
  StepPhase,
  Template,
} from '../model/records.ts';
import type { Rest, UseSpan } from '../model/history.ts';
import type { NewRoute, Route, RouteName, RoutePatch } from '../model/route.ts';
import type { NewSnapshot, Snapshot, SnapshotPatch } from '../model/snapshot.ts';
import type { NewVm, Verb, Vm, VmPatch, VmState } from '../model/vm.ts';
import type { Idempotency } from './idempotency.ts';
import type { Ledger } from './ledger.ts';
import type { Owner } from './owner.ts';

export type { Owner } from './owner.ts';

/** What survives: one interface, two engines (SQLite, PostgreSQL), one suite on both. */
export interface Store {
  readonly hosts: Hosts;
  readonly accounts: Accounts;
  readonly keys: Keys;
  readonly images: Images;
  readonly templates: Templates;
  readonly vms: Vms;
  readonly operations: Operations;
  readonly layers: Layers;
  readonly snapshots: Snapshots;
  readonly routes: Routes;
  readonly ledger: Ledger;
  readonly history: History;
  readonly events: Events;
  readonly idempotency: Idempotency;
  /**
   * A number that is another one once anything was written: what was read since it was this one is as it was read. What another process
   * writes shows within some 20 ms. null: that is not known here, as where several hosts write.
   */
  written(): number | null;
  /** Resolves when the database answers; throws when it does not. */
  ping(): Promise<void>;
  close(): Promise<void>;
}

/** A page of a list, newest first. */
export interface Page {
  readonly limit: number;
  /** The id of the last one of the page before. An unknown one is `invalid_request` naming `after`. */
  readonly after?: string | undefined;
}

/** A value somebody else has; `field` is the column. */
export class Taken extends Error {
  override readonly name = 'Taken';
  readonly field: 'name' | 'guest_ip' | 'guest_mac' | 'ssh_port' | 'id' | 'subdomain' | 'domain';
  constructor(field: Taken['field'], cause?: unknown) {
    super(`${field} is taken`, { cause });
    this.field = field;
  }
}

/** A VM already has an unfinished operation. */
export class Busy extends Error {
  override readonly name = 'Busy';
  readonly operation: Operation;
  constructor(operation: Operation) {
    super(`${operation.verb} is under way`);
    this.operation = operation;
  }
}

export interface Hosts {
  /** Makes or refreshes this host's row: name, boot id, when last seen. */
  register(host: { readonly id: string; readonly bootId: string }): Promise<void>;
  /** The boot id of the last registration before this one; null: first time. */
  get(id: string): Promise<{ readonly id: string; readonly bootId: string; readonly seenAt: number } | null>;
}

export interface Accounts {
  /** Throws Taken('name'). */
  create(account: { readonly name: string; readonly quotas: Quotas }): Promise<Account>;
  get(id: AccountId): Promise<Account | null>;
  byName(name: string): Promise<Account | null>;
  list(page: Page): Promise<readonly Account[]>;
  /** null: there is none. */
  update(id: AccountId, patch: { readonly name?: string; readonly quotas?: Quotas }): Promise<Account | null>;
}

export interface Keys {
  /** `hash` is the SHA-256 of the secret, hex. */
  create(
    key: Pick<ApiKey, 'accountId' | 'name' | 'scopes' | 'prefix' | 'expiresAt'> & { readonly hash: string },
  ): Promise<ApiKey>;
  byHash(hash: string): Promise<ApiKey | null>;
  get(accountId: AccountId, id: KeyId): Promise<ApiKey | null>;
  list(accountId: AccountId, page: Page): Promise<readonly ApiKey[]>;
  /** null: there is none in this account. Twice is as good as once. */
  revoke(accountId: AccountId, id: KeyId): Promise<ApiKey | null>;
  used(id: KeyId, at: number): Promise<void>;
}

/** Images and templates are keyed by account and id. `get` looks in the account, then in the `shared` one. */
export interface Images {
  /** Throws Taken('id'). */
  create(image: Omit<Image, 'createdAt'>): Promise<Image>;
  /** Makes it, or makes it anew in place: for the default image, which follows the configuration. */
  put(image: Omit<Image, 'createdAt'>): Promise<Image>;
  get(accountIds: readonly AccountId[], id: ImageId): Promise<Image | null>;
  list(accountIds: readonly AccountId[], page: Page): Promise<readonly Image[]>;
  /** Removes it unless VMs (all accounts), templates or layers name it; gives who does. */
  remove(
    accountId: AccountId,
    id: ImageId,
  ): Promise<{
    readonly removed: boolean;
    readonly vms: readonly VmId[];
    readonly templates: readonly TemplateId[];
  }>;
  setSha256(accountId: AccountId, id: ImageId, sha256: string): Promise<void>;
}

export interface Templates {
  /** Throws Taken('id'). */
  create(template: Omit<Template, 'createdAt' | 'updatedAt'>): Promise<Template>;
  get(accountIds: readonly AccountId[], id: TemplateId): Promise<Template | null>;
  list(accountIds: readonly AccountId[], page: Page): Promise<readonly Template[]>;
  update(
    accountId: AccountId,
    id: TemplateId,
    patch: Partial<Omit<Template, 'accountId' | 'id' | 'createdAt' | 'updatedAt'>>,
  ): Promise<Template | null>;
  /** Removes it unless a VM names it; gives who does. */
  remove(
    accountId: AccountId,
    id: TemplateId,
  ): Promise<{ readonly removed: boolean; readonly vms: readonly VmId[] }>;
}

export interface VmFilter {
  /** undefined: of all accounts (operators). */
  readonly accountId?: AccountId | undefined;
  readonly state?: VmState | undefined;
  readonly labels?: Readonly<Record<string, string>> | undefined;
}

export interface VmUse {
  readonly vms: number;
  readonly vcpus: number;
  readonly memMib: number;
}

export interface Vms {
  /**
   * In one transaction: checks the quota (`limits`; throws Failure quota_exceeded naming which, used, limit), inserts the VM
   * in state `starting`, its `create` operation and the event `vm.creating`. Throws Taken for a name, address or port that
   * somebody has; then nothing was made.
   */
  create(
    vm: NewVm,
    options: { readonly limits: Quotas; readonly args: Readonly<Record<string, unknown>> },
  ): Promise<{ readonly vm: Vm; readonly operation: Operation }>;
  get(id: VmId): Promise<Vm | null>;
  /** By id or name within the account. */
  find(accountId: AccountId, idOrName: string): Promise<Vm | null>;
  list(filter: VmFilter, page: Page): Promise<readonly Vm[]>;
  /** Every VM this host owns. */
  ofHost(hostId: string): Promise<readonly Vm[]>;
  userData(id: VmId): Promise<string | null>;
  /**
   * Changes a VM if `owner` still owns it; null: it does not, or there is none. Throws Taken('name'). `unflushed`: a power loss right after
   * it may take it back, as it may a row of a journal.
   */
  update(
    id: VmId,
    owner: Owner,
    patch: VmPatch,
    options?: { readonly unflushed?: boolean },
  ): Promise<Vm | null>;
  /**
   * As `update`, only if its state is one of `from`. null also when the state was another. With `limits`, what it grows by is
   * checked against them in the same transaction: throws Failure quota_exceeded, as `create` does. With `event`, that is written there too.
   */
  move(
    id: VmId,
    owner: Owner,
    from: readonly VmState[],
    patch: VmPatch,
    options?: { readonly limits?: Quotas; readonly event?: Pick<NewEvent, 'kind' | 'message' | 'data'> },
  ): Promise<Vm | null>;
  /**
   * Makes a VM that sleeps the host's `to`, of the next epoch: address, MAC and port are as they were, in that host's network and
   * gateway, and it has no files. Only while `seen` owns it, nothing is under way on it and the snapshot it sleeps as is durable, or `to` has its files;
   * null: that is not so. Throws Taken for what somebody has there. Then nothing was changed.
   */
  claim(id: VmId, seen: Owner, to: string): Promise<Vm | null>;
  /** Notes when a VM was last used, or until when it is busy, in milliseconds since 1970; that is no change of it. */
  noteUse(
    id: VmId,
    owner: Owner,
    use: { readonly lastActiveAt?: number; readonly leasedUntil?: number | null },
  ): Promise<void>;
  /** Removes the row with its operations and journal; its events stay. */
  remove(id: VmId, owner: Owner): Promise<boolean>;
  /** What is taken on this host, for choosing what is not: IPs, MACs, SSH ports. */
  taken(hostId: string): Promise<{
    readonly ips: ReadonlySet<string>;
    readonly macs: ReadonlySet<string>;
    readonly sshPorts: ReadonlySet<number>;
  }>;
  use(accountId: AccountId): Promise<VmUse>;
}

export interface Operations {
  /** Claims the VM for a verb: throws Busy when another is unfinished, Failure not_found when the owner does not own it. */
  begin(
    vm: { readonly id: VmId; readonly owner: Owner },
    verb: Verb,
    args: Readonly<Record<string, unknown>>,
  ): Promise<Operation>;
  get(id: OperationId): Promise<Operation | null>;
  /** Changes what an unfinished operation was asked with (a stop that becomes more urgent). */
  setArgs(id: OperationId, args: Readonly<Record<string, unknown>>): Promise<void>;
  /**
   * Writes the journal's next row, and those of `ended` before it, as one. Whatever ends this process, they are there when this has
   * resolved; a power loss may take the newest, and what they tell of with them.
   */
  record(
    id: OperationId,
    step: string,
    phase: StepPhase,
    ended?: readonly Pick<JournalRow, 'step' | 'phase'>[],
  ): Promise<JournalRow>;
  journal(id: OperationId): Promise<readonly JournalRow[]>;
  finish(
    id: OperationId,
    outcome: Exclude<OperationOutcome, 'running'>,
    error?: Operation['error'],
  ): Promise<void>;
  /** The unfinished ones of a host, oldest first. */
  unfinished(hostId: string): Promise<readonly Operation[]>;
  list(vmId: VmId, page: Page): Promise<readonly Operation[]>;
}

export interface Layers {
  create(layer: Omit<Layer, 'createdAt'>): Promise<Layer>;
  get(id: LayerId): Promise<Layer | null>;
  /** From the top down to the image. */
  chain(id: LayerId): Promise<readonly Layer[]>;
  /** Where its file lies now, and whether that stays as it is. */
  put(id: LayerId, now: Pick<Layer, 'path' | 'frozen'>): Promise<void>;
  /** Removes the row if no VM, no snapshot and no other layer names it; false when one does. No failure when there is none. */
  removeIfUnused(id: LayerId): Promise<boolean>;
  ofHost(hostId: string): Promise<readonly Layer[]>;
}

export interface Snapshots {
  /**
   * Makes a snapshot's row with the layers that are its files (`freeze`: its VM's disk, which moves and stays as it is from now
   * on), and changes its VM, in one transaction; one that is there already is given as it is. Throws Taken('name'), Failure
   * `quota_exceeded` when a manual one would be more than `limit` of its VM, `wrong_state` when the VM is not its owner's in one
   * of the states `from`; then nothing was changed.
   */
  create(
    snapshot: NewSnapshot,
    options: {
      readonly layers: readonly Omit<Layer, 'createdAt'>[];
      readonly freeze: Pick<Layer, 'id' | 'path'>;
      readonly vm: { readonly owner: Owner; readonly from: readonly VmState[]; readonly patch: VmPatch };
      readonly limit: number | null;
    },
  ): Promise<Snapshot>;
  get(id: SnapshotId): Promise<Snapshot | null>;
  /** By id or name within the account. */
  find(accountId: AccountId, idOrName: string): Promise<Snapshot | null>;
  /** Newest first. `accountId` undefined: of all (operators). */
  list(
    filter: { readonly accountId?: AccountId | undefined; readonly vmId?: VmId | undefined },
    page: Page,
  ): Promise<readonly Snapshot[]>;
  /** All of a VM, newest first. */
  ofVm(vmId: VmId): Promise<readonly Snapshot[]>;
  /** Those whose files this host has, the longest unused first. */
  ofHost(hostId: string): Promise<readonly Snapshot[]>;
  /** null: there is none. Throws Taken('name'). */
  update(id: SnapshotId, patch: SnapshotPatch): Promise<Snapshot | null>;
  /** Removes the row, with its names of blobs and an upload of it; its layers stay. false: a copy of it is being made at the moment. No failure when there is none. */
  remove(id: SnapshotId): Promise<boolean>;
  /**
   * Its VM, which sleeps as it, goes on in its memory: changes the VM, and removes the row, or forgets its files here where it is
   * durable, in one transaction; its layers stay. false, and nothing changed: somebody else stands on that memory, a copy is being made,
   * or the VM is not its owner's and asleep.
   */
  goOnIn(id: SnapshotId, vm: { readonly owner: Owner; readonly patch: VmPatch }): Promise<boolean>;
  /** Forgets the files a host has of one that is durable; false when it is not, another host has them by now, or a copy is being made. */
  dropLocal(id: SnapshotId, hostId: string): Promise<boolean>;
}

/** Host names that lead to guests; they go with their VM's row. */
export interface Routes {
  /**
   * Makes a route with its event. Throws Taken for a name that a route of any account has, Failure `not_found` when the VM is not
   * there or not the account's; then nothing was made.
   */
  create(route: NewRoute, event: NewEvent): Promise<Route>;
  get(accountId: AccountId, id: RouteId): Promise<Route | null>;
  /** Of all accounts, by its exact name in lower case: what the proxy asks at each request. */
  byName(name: RouteName): Promise<Route | null>;
  /** Newest first. `accountId` undefined: of all (operators). */
  list(
    filter: { readonly accountId?: AccountId | undefined; readonly vmId?: VmId | undefined },
    page: Page,
  ): Promise<readonly Route[]>;
  /** null: there is none in this account. */
  update(accountId: AccountId, id: RouteId, patch: RoutePatch): Promise<Route | null>;
  /** Removes it, with an event of that; false: there is none in this account. */
  remove(accountId: AccountId, id: RouteId, event: NewEvent): Promise<boolean>;
}

/** What VMs did over time; it goes with a VM's row. */
export interface History {
  /** When a VM did not run, oldest first: written down with each change of its state. */
  rests(vmId: VmId): Promise<readonly Rest[]>;
  /** When a VM was used since a time, the earliest first. */
  uses(vmId: VmId, since: number): Promise<readonly UseSpan[]>;
  /** Adds uses; one that begins less than `mergeMs` after the last of its way ended goes on as that. Of VMs that are gone nothing is kept. */
  addUses(spans: readonly UseSpan[], mergeMs: number): Promise<void>;
  /** Since when all that is written down, in milliseconds since 1970. */
  since(): Promise<number>;
  /** Forgets uses that ended before a time; gives how many. */
  pruneUses(before: number): Promise<number>;
}

export interface NewEvent {
  readonly accountId: AccountId;
  readonly vmId: VmId | null;
  readonly kind: string;
  readonly message: string;
  readonly data?: Readonly<Record<string, unknown>>;
}

export interface Events {
  add(event: NewEvent): Promise<HatchEvent>;
  /** Newest first. `accountId` undefined: of all. */
  list(
    filter: {
      readonly accountId?: AccountId | undefined;
      readonly vmId?: VmId | undefined;
      readonly kind?: string | undefined;
      /** Of any of these kinds. */
      readonly kinds?: readonly string[] | undefined;
    },
    page: Page,
  ): Promise<readonly HatchEvent[]>;
  get(id: EventId): Promise<HatchEvent | null>;
  /** Those after a number of theirs, the oldest first; none is written later with a number that is less than one of them. */
  after(
    seq: number,
    filter: {
      readonly accountId?: AccountId | undefined;
      readonly vmId?: VmId | undefined;
      readonly kind?: string | undefined;
    },
    limit: number,
  ): Promise<readonly HatchEvent[]>;
  /** The number of the newest of all; 0: there is none. */
  newest(): Promise<number>;
  /** Removes those older than `before` (milliseconds since 1970); gives how many. */
  prune(before: number): Promise<number>;
}
