import type { Readable } from 'node:stream';
import type { SnapshotId, VmId } from '../base/ids.ts';
import type { FileContent } from '../guest/saved-disk/content-stream.ts';
import type { Account, ApiKey, HatchEvent, Image, Quotas, Scope, Template } from '../model/records.ts';
import type { FileChange, FileFacts, FileListing } from '../model/saved-files.ts';
import type { Route, WakeRules } from '../model/route.ts';
import type { Snapshot } from '../model/snapshot.ts';
import type { IdlePolicy, Vm, VmState } from '../model/vm.ts';
import type { Transfer } from './archive/archive.ts';
import type { IdempotentRequests } from './idempotency.ts';
import type { Caller } from './caller.ts';
import type { EventsAsked } from './event-feed.ts';
import type { GuestCalls } from './guest-calls.ts';
import type { IdleSimulation, WhyVm } from './idle-answers.ts';
import type { GuestTraffic } from '../net/network.ts';
import type { Page, VmUse } from '../store/store.ts';
import type { MachineCounters } from '../vmm/driver.ts';

export type { Caller, Visitor } from './caller.ts';

/** How long a call that starts a guest holds its answer back. */
export interface Wait {
  readonly until: 'running' | 'ready';
  readonly timeoutMs: number;
}

export interface CreateVm {
  /** Start as a copy of that snapshot; then neither image, template, size, kernel arguments nor user data may be said. */
  readonly snapshotId?: string | undefined;
  readonly name?: string | undefined;
  readonly imageId?: string | undefined;
  readonly templateId?: string | undefined;
  readonly vcpuCount?: number | undefined;
  readonly memMib?: number | undefined;
  readonly diskMib?: number | undefined;
  readonly bootArgs?: string | undefined;
  readonly enableNetwork?: boolean | undefined;
  readonly guestIp?: string | undefined;
  readonly guestMac?: string | undefined;
  readonly userData?: string | undefined;
  readonly sshAuthorizedKeys?: readonly string[] | undefined;
  readonly idle?: Partial<IdlePolicy> | undefined;
  readonly autostart?: boolean | undefined;
  readonly labels?: Readonly<Record<string, string>> | undefined;
}

/** How a snapshot is asked for. */
export interface SnapshotRequest {
  readonly name?: string | undefined;
  readonly keepRunning: boolean;
  /** Answer only once it is durable, or fail with `timeout`, which leaves all as it is. */
  readonly storedWithinMs?: number | undefined;
}

/** What to restore, and whether what the VM is now may be lost. */
export interface RestoreRequest {
  /** A snapshot of this VM, by id or name; its newest when it sleeps and none is named. */
  readonly snapshot?: string | undefined;
  /** A stopped VM's disk is lost: that has to be said. */
  readonly discard?: boolean | undefined;
}

export interface ForkRequest {
  /** How many copies, 1 to 100. */
  readonly count: number;
  /** Of one copy; of several, `name-1`, `name-2`... */
  readonly name?: string | undefined;
  /** Whether a running source goes on; else it sleeps. */
  readonly keepRunning: boolean;
}

export interface PatchVm {
  /** null takes the name away. */
  readonly name?: string | null | undefined;
  readonly labels?: Readonly<Record<string, string>> | undefined;
  readonly idle?: Partial<IdlePolicy> | null | undefined;
  readonly autostart?: boolean | undefined;
  readonly vcpuCount?: number | undefined;
  readonly memMib?: number | undefined;
  readonly diskMib?: number | undefined;
}

export interface CreateImage {
  readonly name: string;
  readonly kernelPath: string;
  readonly rootfsPath: string;
  readonly initrdPath?: string | undefined;
  readonly bootArgs?: string | undefined;
  readonly defaultUser?: string | undefined;
}

export interface TemplateFields {
  readonly description?: string | null | undefined;
  readonly imageId?: string | null | undefined;
  readonly vcpuCount?: number | null | undefined;
  readonly memMib?: number | null | undefined;
  readonly diskMib?: number | null | undefined;
  readonly userData?: string | null | undefined;
  readonly bootArgs?: string | null | undefined;
  readonly idle?: Partial<IdlePolicy> | null | undefined;
  readonly labels?: Readonly<Record<string, string>> | undefined;
}

/** A route to make: `subdomain` or `domain`, or neither, and a subdomain is made. */
export interface CreateRoute {
  readonly subdomain?: string | undefined;
  readonly domain?: string | undefined;
  readonly targetPort: number;
  /** true where nothing is said. */
  readonly autoWake?: boolean | undefined;
  readonly wake?: WakeRules | undefined;
}

export interface PatchRoute {
  readonly targetPort?: number | undefined;
  readonly autoWake?: boolean | undefined;
  /** All of the rules; null takes them away. */
  readonly wake?: WakeRules | null | undefined;
}

/** A route, and where the proxy answers for it. */
export type RouteAt = Route & { readonly url: string };

/** What a running VM has used. */
export interface VmMetrics {
  readonly vmId: VmId;
  /** When it was looked at, in milliseconds since 1970. */
  readonly at: number;
  readonly memMib: number;
  readonly machine: MachineCounters;
  /** null: it has no network. */
  readonly traffic: GuestTraffic | null;
}

/**
 * Everything the API, the gateway and the CLI can ask for. All methods throw Failure with a code of the catalogue. What is
 * another account's is `not_found`; scopes are the API's business, ownership is ours.
 */
export interface Hatch {
  readonly vms: GuestCalls & {
    /** Resolves when the VM runs, or as `wait` says; with the wait over, `timeout` and the VM is left as it is. */
    create(caller: Caller, request: CreateVm, wait?: Wait): Promise<Vm>;
    get(caller: Caller, idOrName: string, wait?: Wait): Promise<Vm>;
    /** `everyone`: of all accounts (operators). */
    list(
      caller: Caller,
      filter: {
        readonly state?: VmState | undefined;
        readonly labels?: Readonly<Record<string, string>>;
        readonly everyone?: boolean;
      },
      page: Page,
    ): Promise<readonly Vm[]>;
    patch(caller: Caller, idOrName: string, patch: PatchVm): Promise<Vm>;
    userData(caller: Caller, idOrName: string): Promise<string | null>;
    start(caller: Caller, idOrName: string, wait?: Wait): Promise<Vm>;
    stop(caller: Caller, idOrName: string, options: { readonly graceSeconds: number }): Promise<Vm>;
    reboot(caller: Caller, idOrName: string, wait?: Wait): Promise<Vm>;
    /** Saves a running VM, which sleeps then, or goes on. */
    snapshot(caller: Caller, idOrName: string, request: SnapshotRequest): Promise<Snapshot>;
    /** Wakes a VM from a snapshot of its own. */
    restore(caller: Caller, idOrName: string, request: RestoreRequest, wait?: Wait): Promise<Vm>;
    /** Makes copies of a running or sleeping VM, each somebody of its own. */
    fork(caller: Caller, idOrName: string, request: ForkRequest, wait?: Wait): Promise<readonly Vm[]>;
    delete(caller: Caller, idOrName: string): Promise<void>;
    /** `wrong_state` for one that does not run. */
    metrics(caller: Caller, idOrName: string): Promise<VmMetrics>;
    /** The last `tailBytes` bytes of the serial console, and where they end: `follow` goes on from there. */
    console(
      caller: Caller,
      idOrName: string,
      tailBytes: number,
    ): Promise<{ readonly text: string; readonly offset: number }>;
    /** What the console says after `offset`, as it comes, until the signal aborts or the VM is deleted. */
    followConsole(
      caller: Caller,
      idOrName: string,
      offset: number,
      signal: AbortSignal,
    ): AsyncIterable<string>;
  };
  readonly idle: {
    /**
     * Somebody says that a running VM is busy for so long from now, in whole seconds up to an hour; 0 ends that. Gives until when it is, in
     * milliseconds since 1970; null: it is not any more.
     */
    lease(
      caller: Caller,
      idOrName: string,
      seconds: number,
    ): Promise<{ readonly vm: Vm; readonly until: number | null }>;
    /** Why a VM is awake or asleep, and what came of that. */
    why(caller: Caller, idOrName: string): Promise<WhyVm>;
    /**
     * How the caller's VMs, or one of them, would have slept with another timeout, by what was written down of the last 30 days; most asleep
     * first.
     */
    simulate(
      caller: Caller,
      request: { readonly timeoutSeconds: number; readonly vm?: string | undefined },
    ): Promise<readonly IdleSimulation[]>;
  };
  readonly snapshots: {
    /** With `storedWithinMs` once it is durable; `timeout` when that takes longer, which changes nothing. */
    get(caller: Caller, idOrName: string, storedWithinMs?: number): Promise<Snapshot>;
    /** How far its bytes are on their way; undefined when none are. */
    transfer(id: SnapshotId): Transfer | undefined;
    /** Newest first. `everyone`: of all accounts (operators). */
    list(
      caller: Caller,
      filter: { readonly vm?: string | undefined; readonly everyone?: boolean },
      page: Page,
    ): Promise<readonly Snapshot[]>;
    /** Restores it for proof, apart from everything, and destroys that again; gives it with the time of the proof. */
    verify(caller: Caller, idOrName: string): Promise<Snapshot>;
    /** `name` null takes the name away. */
    patch(
      caller: Caller,
      idOrName: string,
      patch: { readonly name?: string | null | undefined },
    ): Promise<Snapshot>;
    /**
     * Up to `limit` of what is in a folder on its disk, nothing woken; `after` is the `next` of an earlier listing. A path is text, or
     * bytes where it is not UTF-8. It ends with the signal, as the next two do.
     */
    files(
      caller: Caller,
      idOrName: string,
      wanted: {
        readonly path: string | Uint8Array;
        readonly limit: number;
        readonly after?: string | undefined;
      },
      signal: AbortSignal,
    ): Promise<FileListing>;
    /** A file on its disk. The content must be read to its end or destroyed, or the signal aborted. */
    readFile(
      caller: Caller,
      idOrName: string,
      path: string | Uint8Array,
      signal: AbortSignal,
    ): Promise<FileContent & { readonly facts: FileFacts }>;
    /** What is another on the disk of snapshot `after`, from a path on; at most `limit`, and whether there is more. */
    diff(
      caller: Caller,
      before: string,
      after: string,
      wanted: { readonly path: string | Uint8Array; readonly limit: number },
      signal: AbortSignal,
    ): Promise<{ readonly changes: readonly FileChange[]; readonly truncated: boolean }>;
    /**
     * The snapshot as one file for another installation, as it comes. The content must be read to its end or destroyed, or the signal
     * aborted; what breaks off is no file.
     */
    export(
      caller: Caller,
      idOrName: string,
      request: ExportRequest,
      signal: AbortSignal,
    ): Promise<ExportedSnapshot>;
    /** Makes a snapshot, and a VM that sleeps as it, of such a file. All of it or nothing. */
    import(
      caller: Caller,
      request: ImportRequest,
      source: AsyncIterable<Uint8Array>,
      signal: AbortSignal,
    ): Promise<ImportedSnapshot>;
    /** Not the one its VM sleeps as (`in_use`); copies do not hold it. */
    delete(caller: Caller, idOrName: string): Promise<void>;
  };
  readonly routes: {
    /** `already_exists` for a name that a route of whatever account has. */
    create(caller: Caller, vmIdOrName: string, request: CreateRoute): Promise<RouteAt>;
    get(caller: Caller, id: string): Promise<RouteAt>;
    /** Newest first. `everyone`: of all accounts (operators). */
    list(
      caller: Caller,
      filter: { readonly vm?: string | undefined; readonly everyone?: boolean },
      page: Page,
    ): Promise<readonly RouteAt[]>;
    patch(caller: Caller, id: string, patch: PatchRoute): Promise<RouteAt>;
    delete(caller: Caller, id: string): Promise<void>;
  };
  readonly images: {
    create(caller: Caller, request: CreateImage): Promise<Image>;
    get(caller: Caller, id: string): Promise<Image>;
    list(caller: Caller, page: Page): Promise<readonly Image[]>;
    delete(caller: Caller, id: string): Promise<void>;
  };
  readonly templates: {
    create(caller: Caller, name: string, fields: TemplateFields): Promise<Template>;
    get(caller: Caller, id: string): Promise<Template>;
    list(caller: Caller, page: Page): Promise<readonly Template[]>;
    patch(caller: Caller, id: string, fields: TemplateFields): Promise<Template>;
    delete(caller: Caller, id: string): Promise<void>;
  };
  readonly accounts: {
    /** The caller of a key's secret; undefined when it is unknown, expired or revoked. */
    authenticate(secret: string): Promise<Caller | undefined>;
    /** Whether the key of a caller is still good: neither expired nor revoked. */
    isGood(caller: Caller): Promise<boolean>;
    own(caller: Caller): Promise<{ readonly account: Account; readonly limits: Quotas; readonly use: VmUse }>;
    create(
      caller: Caller,
      request: { readonly name: string; readonly quotas: Partial<Quotas> },
    ): Promise<Account>;
    list(caller: Caller, page: Page): Promise<readonly Account[]>;
    patch(
      caller: Caller,
      id: string,
      patch: { readonly name?: string | undefined; readonly quotas?: Partial<Quotas> | undefined },
    ): Promise<Account>;
  };
  readonly keys: {
    /** The secret is given once, here. `accountId`: for another account (operators). */
    create(
      caller: Caller,
      request: {
        readonly name: string;
        readonly scopes: readonly Scope[];
        readonly expiresAt?: number | undefined;
        readonly accountId?: string | undefined;
      },
    ): Promise<{ readonly key: ApiKey; readonly secret: string }>;
    /** `accountId`: of another account (operators). */
    list(caller: Caller, page: Page, accountId?: string): Promise<readonly ApiKey[]>;
    revoke(caller: Caller, id: string, accountId?: string): Promise<void>;
  };
  readonly events: {
    list(caller: Caller, filter: EventsAsked, page: Page): Promise<readonly HatchEvent[]>;
    /** Those after the one with this id, or from now on, as they happen, until the signal aborts. */
    follow(
      caller: Caller,
      filter: EventsAsked,
      after: string | undefined,
      signal: AbortSignal,
    ): Promise<AsyncIterable<HatchEvent>>;
  };
  readonly idempotency: Pick<IdempotentRequests, 'of'>;
  /** As `Store.written`: whoever reads rows again sees what they saw as long as it is the same. */
  written(): number | null;
  /** What keeps the host from serving, in sentences; empty when it is ready. */
  readiness(): Promise<
    readonly { readonly part: 'store' | 'network' | 'vmm' | 'image' | 'start'; readonly problem: string }[]
  >;
}

export interface ExportRequest {
  /** What the file is encrypted with: 32 bytes in hexadecimal or base64. */
  readonly key: string | undefined;
  /** Not encrypted although snapshots are here. */
  readonly plain: boolean;
}

export interface ExportedSnapshot {
  readonly snapshot: Snapshot;
  readonly content: Readable;
}

export interface ImportRequest {
  /** undefined: the one it had, where nobody here has it. */
  readonly name: string | undefined;
  /** What the file was encrypted with. */
  readonly key: string | undefined;
}

export interface ImportedSnapshot {
  readonly snapshot: Snapshot;
  /** Why it cannot be woken on this host, in words; empty when it can. */
  readonly differences: readonly string[];
}

/**
 * The host's ports that lead to guests' SSH, as ops need them; gateway/ssh keeps them. A port is open only while its VM
 * runs or may be woken; where it leads is asked anew for each connection (`SshVisits`).
 */
export interface SshPorts {
  /** Listens on the VM's port. Twice is as good as once. Throws when the port is not to be had. */
  open(target: { readonly vmId: VmId; readonly port: number }): Promise<void>;
  /** Ends what leads to a guest that is gone; who waits for its VM goes on waiting. */
  hangUp(vmId: VmId): void;
  /** Stops listening and ends what is connected. No failure when it was not open. */
  close(vmId: VmId): Promise<void>;
  /** Whether nothing else on the host listens on it. */
  isFree(port: number): Promise<boolean>;
  /** The VMs whose ports are open. */
  vmIds(): readonly VmId[];
}
