import type { Account, CreateAccount, OwnAccount, PatchAccount } from '../contract/account.ts';
import type { Deleted } from '../contract/common.ts';
import type { Event } from '../contract/event.ts';
import type { ExecResult, ExecVm } from '../contract/exec.ts';
import type { FileContentQuery, FileEntry, SnapshotDiff } from '../contract/saved-file.ts';
import type { Health, Ready } from '../contract/health.ts';
import type { CreateImage, Image } from '../contract/image.ts';
import type { CreateKey, Key, NewKey } from '../contract/key.ts';
import type { VmMetrics } from '../contract/metrics.ts';
import type {
  ForkVm,
  ImportedSnapshot,
  PatchSnapshot,
  RestoreVm,
  Snapshot,
  SnapshotVm,
  StoredQuery,
} from '../contract/snapshot.ts';
import type { CreateTemplate, PatchTemplate, Template } from '../contract/template.ts';
import type { CreateVm, PatchVm, StopVm, Vm, VmState, WaitQuery } from '../contract/vm.ts';
import { KEY_HEADER } from '../contract/snapshot.ts';
import { eventCalls } from './event-calls.ts';
import { fileCalls } from './file-calls.ts';
import { idleCalls } from './idle-calls.ts';
import { routeCalls } from './route-calls.ts';
import { seg, Transport, type CallOptions, type ListOptions, type MakingOptions } from './transport.ts';

export { ApiError, NoName, Unreachable } from './api-error.ts';
export type { GuestFile, WriteFileOptions } from './file-calls.ts';
export type { ListOptions } from './transport.ts';

export interface WaitOptions extends CallOptions, WaitQuery {}
export interface StoredOptions extends CallOptions, StoredQuery {}

/**
 * A Hatch server as functions: one for each call of its API, with the contract's types. All of them throw ApiError when the
 * server says no, Unreachable when none answers, and NoName for a name that can be none. Nothing is tried twice. VMs are named
 * by id or by name.
 */
export class HatchClient {
  readonly vms: ReturnType<typeof vmCalls>;
  readonly snapshots: ReturnType<typeof snapshotCalls>;
  readonly routes: ReturnType<typeof routeCalls>;
  readonly idle: ReturnType<typeof idleCalls>;
  readonly images: ReturnType<typeof imageCalls>;
  readonly templates: ReturnType<typeof templateCalls>;
  readonly keys: ReturnType<typeof keyCalls>;
  readonly accounts: ReturnType<typeof accountCalls>;
  readonly events: ReturnType<typeof eventCalls>;
  readonly #transport: Transport;

  /** `url`: where the server is, such as http://127.0.0.1:8080. Throws a TypeError when it is no URL. */
  constructor(server: { readonly url: string; readonly apiKey?: string | undefined }) {
    this.#transport = new Transport(server);
    this.vms = vmCalls(this.#transport);
    this.snapshots = snapshotCalls(this.#transport);
    this.routes = routeCalls(this.#transport);
    this.idle = idleCalls(this.#transport);
    this.images = imageCalls(this.#transport);
    this.templates = templateCalls(this.#transport);
    this.keys = keyCalls(this.#transport);
    this.accounts = accountCalls(this.#transport);
    this.events = eventCalls(this.#transport);
  }

  /** Whether the server lives. */
  health(options: CallOptions = {}): Promise<Health> {
    return this.#transport.json({ method: 'GET', path: '/healthz', ...options });
  }

  /** Whether the server can serve; an ApiError `unavailable` says in `details.missing` what it lacks. */
  ready(options: CallOptions = {}): Promise<Ready> {
    return this.#transport.json({ method: 'GET', path: '/readyz', ...options });
  }

  /** Closes the connections that are kept open, so that the process can end. */
  close(): Promise<void> {
    return this.#transport.close();
  }
}

interface OfAccount {
  readonly account_id?: string | undefined;
}

interface SnapshotKey {
  /** 32 random bytes in hexadecimal or base64. */
  readonly key?: string | undefined;
}

function keyHeader(key: string | undefined): Record<string, string> {
  return key === undefined ? {} : { [KEY_HEADER]: key };
}

function vmCalls(transport: Transport) {
  return {
    /** Answers when the VM runs, or as `wait` says. */
    create: (
      request: CreateVm = {},
      { wait, timeout, ...how }: WaitOptions & MakingOptions = {},
    ): Promise<Vm> =>
      transport.json({ method: 'POST', path: '/vms', query: { wait, timeout }, body: request, ...how }),
    /** Newest first. `labels` as `key=value`; `all`: of every account (operators). */
    list: ({
      state,
      label,
      all,
      limit,
      after,
      signal,
    }: ListOptions & {
      readonly state?: VmState | undefined;
      readonly label?: readonly string[] | undefined;
      readonly all?: boolean | undefined;
    } = {}): Promise<readonly Vm[]> =>
      transport.list({ method: 'GET', path: '/vms', query: { state, label, all, limit, after }, signal }),
    get: (vm: string, { wait, timeout, signal }: WaitOptions = {}): Promise<Vm> =>
      transport.json({ method: 'GET', path: `/vms/${seg(vm)}`, query: { wait, timeout }, signal }),
    update: (vm: string, patch: PatchVm, { signal }: CallOptions = {}): Promise<Vm> =>
      transport.json({ method: 'PATCH', path: `/vms/${seg(vm)}`, body: patch, signal }),
    start: (vm: string, { wait, timeout, signal }: WaitOptions = {}): Promise<Vm> =>
      transport.json({
        method: 'POST',
        path: `/vms/${seg(vm)}/start`,
        query: { wait, timeout },
        body: {},
        signal,
      }),
    /** Answers when the VM has stopped. */
    stop: (vm: string, request: StopVm = {}, { signal }: CallOptions = {}): Promise<Vm> =>
      transport.json({ method: 'POST', path: `/vms/${seg(vm)}/stop`, body: request, signal }),
    reboot: (vm: string, { wait, timeout, signal }: WaitOptions = {}): Promise<Vm> =>
      transport.json({
        method: 'POST',
        path: `/vms/${seg(vm)}/reboot`,
        query: { wait, timeout },
        body: {},
        signal,
      }),
    /** Saves a running VM; it sleeps then, or goes on. */
    snapshot: (
      vm: string,
      request: SnapshotVm = {},
      { wait, timeout, ...how }: StoredOptions & MakingOptions = {},
    ): Promise<Snapshot> =>
      transport.json({
        method: 'POST',
        path: `/vms/${seg(vm)}/snapshot`,
        query: { wait, timeout },
        body: request,
        ...how,
      }),
    restore: (
      vm: string,
      request: RestoreVm = {},
      { wait, timeout, signal }: WaitOptions = {},
    ): Promise<Vm> =>
      transport.json({
        method: 'POST',
        path: `/vms/${seg(vm)}/restore`,
        query: { wait, timeout },
        body: request,
        signal,
      }),
    /** Copies of a running or sleeping VM, each somebody of its own. */
    fork: (
      vm: string,
      request: ForkVm = {},
      { wait, timeout, ...how }: WaitOptions & MakingOptions = {},
    ): Promise<readonly Vm[]> =>
      transport.json({
        method: 'POST',
        path: `/vms/${seg(vm)}/fork`,
        query: { wait, timeout },
        body: request,
        ...how,
      }),
    /** Newest first. */
    snapshots: (vm: string, { limit, after, signal }: ListOptions = {}): Promise<readonly Snapshot[]> =>
      transport.list({
        method: 'GET',
        path: `/vms/${seg(vm)}/snapshots`,
        query: { limit, after },
        signal,
      }),
    delete: (vm: string, { signal }: CallOptions = {}): Promise<Deleted> =>
      transport.json({ method: 'DELETE', path: `/vms/${seg(vm)}`, signal }),
    /** `wake`: a sleeping VM is woken for it. */
    exec: (
      vm: string,
      request: ExecVm,
      { wake, signal }: CallOptions & { readonly wake?: boolean } = {},
    ): Promise<ExecResult> =>
      transport.json({
        method: 'POST',
        path: `/vms/${seg(vm)}/exec`,
        query: { wake },
        body: request,
        signal,
      }),
    ...fileCalls(transport),
    /** What it has used since it was started; an ApiError `wrong_state` when it does not run. */
    metrics: (vm: string, { signal }: CallOptions = {}): Promise<VmMetrics> =>
      transport.json({ method: 'GET', path: `/vms/${seg(vm)}/metrics`, signal }),
    /** The user data it was made with, as it was given; an ApiError `not_found` when there was none. */
    userData: (vm: string, { signal }: CallOptions = {}): Promise<string> =>
      transport.text({ method: 'GET', path: `/vms/${seg(vm)}/user-data`, signal }),
    /** The last `tail` bytes of the serial console. */
    console: (
      vm: string,
      { tail, signal }: CallOptions & { readonly tail?: number | undefined } = {},
    ): Promise<string> =>
      transport.text({ method: 'GET', path: `/vms/${seg(vm)}/console`, query: { tail }, signal }),
    /** The last `tail` bytes of the serial console and what comes, until the signal aborts or the VM is deleted. */
    followConsole: (
      vm: string,
      { tail, signal }: CallOptions & { readonly tail?: number | undefined } = {},
    ): AsyncIterable<string> =>
      transport.follow({
        method: 'GET',
        path: `/vms/${seg(vm)}/console`,
        query: { tail, follow: true },
        signal,
      }),
    events: (
      vm: string,
      { kind, limit, after, signal }: ListOptions & { readonly kind?: string | undefined } = {},
    ): Promise<readonly Event[]> =>
      transport.list({
        method: 'GET',
        path: `/vms/${seg(vm)}/events`,
        query: { kind, limit, after },
        signal,
      }),
  };
}

function snapshotCalls(transport: Transport) {
  return {
    /** Newest first. `all`: of every account (operators). */
    list: ({ all, limit, after, signal }: ListOptions & { readonly all?: boolean | undefined } = {}): Promise<
      readonly Snapshot[]
    > => transport.list({ method: 'GET', path: '/snapshots', query: { all, limit, after }, signal }),
    get: (snapshot: string, { wait, timeout, signal }: StoredOptions = {}): Promise<Snapshot> =>
      transport.json({
        method: 'GET',
        path: `/snapshots/${seg(snapshot)}`,
        query: { wait, timeout },
        signal,
      }),
    /** Restores it for proof and destroys that again; answers when it is proven. */
    verify: (snapshot: string, { signal }: CallOptions = {}): Promise<Snapshot> =>
      transport.json({ method: 'POST', path: `/snapshots/${seg(snapshot)}/verify`, body: {}, signal }),
    update: (snapshot: string, patch: PatchSnapshot, { signal }: CallOptions = {}): Promise<Snapshot> =>
      transport.json({ method: 'PATCH', path: `/snapshots/${seg(snapshot)}`, body: patch, signal }),
    delete: (snapshot: string, { signal }: CallOptions = {}): Promise<Deleted> =>
      transport.json({ method: 'DELETE', path: `/snapshots/${seg(snapshot)}`, signal }),
    /** What is in a folder on its disk, in no order; of `/` when no path is given. */
    files: (
      snapshot: string,
      { path, path_base64, limit, after, signal }: ListOptions & FileContentQuery = {},
    ): Promise<readonly FileEntry[]> =>
      transport.list({
        method: 'GET',
        path: `/snapshots/${seg(snapshot)}/files`,
        query: { path, path_base64, limit, after },
        signal,
      }),
    /** A file on its disk, as it comes. */
    readFile: (
      snapshot: string,
      { path, path_base64, signal }: CallOptions & FileContentQuery,
    ): AsyncIterable<Uint8Array> =>
      transport.bytes({
        method: 'GET',
        path: `/snapshots/${seg(snapshot)}/files/content`,
        query: { path, path_base64 },
        signal,
      }),
    /** The snapshot as one file, as it comes. `key`: what it is encrypted with. */
    export: (
      snapshot: string,
      { plain, key, signal }: CallOptions & SnapshotKey & { readonly plain?: boolean | undefined } = {},
    ): AsyncIterable<Uint8Array> =>
      transport.bytes({
        method: 'GET',
        path: `/snapshots/${seg(snapshot)}/export`,
        query: { plain },
        headers: keyHeader(key),
        signal,
      }),
    /** Makes a snapshot, and a VM that sleeps as it, of such a file; `bytes`: its size, where that is known. */
    import: (
      content: AsyncIterable<Uint8Array>,
      {
        bytes,
        name,
        key,
        signal,
      }: CallOptions &
        SnapshotKey & { readonly bytes?: number | undefined; readonly name?: string | undefined } = {},
    ): Promise<ImportedSnapshot> =>
      transport.json({
        method: 'POST',
        path: '/snapshots/import',
        query: { name },
        upload: { content, bytes },
        headers: keyHeader(key),
        signal,
      }),
    /** What is another on the disk of `after`, from a path on (`/` when none is given). */
    diff: (
      before: string,
      after: string,
      {
        path,
        path_base64,
        limit,
        signal,
      }: CallOptions & FileContentQuery & { readonly limit?: number | undefined } = {},
    ): Promise<SnapshotDiff> =>
      transport.json({
        method: 'GET',
        path: `/snapshots/${seg(before)}/diff/${seg(after)}`,
        query: { path, path_base64, limit },
        signal,
      }),
  };
}

function imageCalls(transport: Transport) {
  return {
    create: (request: CreateImage, { signal }: CallOptions = {}): Promise<Image> =>
      transport.json({ method: 'POST', path: '/images', body: request, signal }),
    list: ({ limit, after, signal }: ListOptions = {}): Promise<readonly Image[]> =>
      transport.list({ method: 'GET', path: '/images', query: { limit, after }, signal }),
    get: (id: string, { signal }: CallOptions = {}): Promise<Image> =>
      transport.json({ method: 'GET', path: `/images/${seg(id)}`, signal }),
    delete: (id: string, { signal }: CallOptions = {}): Promise<Deleted> =>
      transport.json({ method: 'DELETE', path: `/images/${seg(id)}`, signal }),
  };
}

function templateCalls(transport: Transport) {
  return {
    create: (request: CreateTemplate, { signal }: CallOptions = {}): Promise<Template> =>
      transport.json({ method: 'POST', path: '/templates', body: request, signal }),
    list: ({ limit, after, signal }: ListOptions = {}): Promise<readonly Template[]> =>
      transport.list({ method: 'GET', path: '/templates', query: { limit, after }, signal }),
    get: (id: string, { signal }: CallOptions = {}): Promise<Template> =>
      transport.json({ method: 'GET', path: `/templates/${seg(id)}`, signal }),
    update: (id: string, patch: PatchTemplate, { signal }: CallOptions = {}): Promise<Template> =>
      transport.json({ method: 'PATCH', path: `/templates/${seg(id)}`, body: patch, signal }),
    delete: (id: string, { signal }: CallOptions = {}): Promise<Deleted> =>
      transport.json({ method: 'DELETE', path: `/templates/${seg(id)}`, signal }),
  };
}

function keyCalls(transport: Transport) {
  return {
    /** The secret is in this answer and nowhere else. */
    create: (request: CreateKey, { signal }: CallOptions = {}): Promise<NewKey> =>
      transport.json({ method: 'POST', path: '/keys', body: request, signal }),
    /** `account_id`: of another account (operators). */
    list: ({ limit, after, account_id, signal }: ListOptions & OfAccount = {}): Promise<readonly Key[]> =>
      transport.list({ method: 'GET', path: '/keys', query: { limit, after, account_id }, signal }),
    revoke: (id: string, { account_id, signal }: CallOptions & OfAccount = {}): Promise<Deleted> =>
      transport.json({ method: 'DELETE', path: `/keys/${seg(id)}`, query: { account_id }, signal }),
  };
}

function accountCalls(transport: Transport) {
  return {
    /** The key's own account, its limits and its use. */
    own: ({ signal }: CallOptions = {}): Promise<OwnAccount> =>
      transport.json({ method: 'GET', path: '/account', signal }),
    create: (request: CreateAccount, { signal }: CallOptions = {}): Promise<Account> =>
      transport.json({ method: 'POST', path: '/accounts', body: request, signal }),
    list: ({ limit, after, signal }: ListOptions = {}): Promise<readonly Account[]> =>
      transport.list({ method: 'GET', path: '/accounts', query: { limit, after }, signal }),
    update: (id: string, patch: PatchAccount, { signal }: CallOptions = {}): Promise<Account> =>
      transport.json({ method: 'PATCH', path: `/accounts/${seg(id)}`, body: patch, signal }),
  };
}
