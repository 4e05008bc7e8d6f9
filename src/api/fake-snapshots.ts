import { Readable } from 'node:stream';
import type { Clock } from '../base/clock.ts';
import { newId } from '../base/ids.ts';
import { refuseWithSnapshot } from '../model/create-request.ts';
import { Failure, invalid, notFound } from '../model/failure.ts';
import type { FileChange, FileEntry } from '../model/saved-files.ts';
import type { Snapshot, SnapshotKind } from '../model/snapshot.ts';
import { refuse } from '../model/states.ts';
import type { Vm } from '../model/vm.ts';
import type { Transfer } from '../ops/archive/archive.ts';
import type { Caller, CreateVm, Hatch } from '../ops/hatch.ts';
import { pageOf } from './fake-page.ts';

type Row = Vm & { readonly userData: string | null };

/** The rows of a pretended Hatch, and what it does with them. */
export interface FakeVms {
  readonly clock: Clock;
  readonly rows: Map<string, Row>;
  readonly own: (caller: Caller, idOrName: string) => Row;
  readonly change: (vm: Row, to: Partial<Vm>) => Vm;
  /** Addresses nobody has yet. */
  readonly newNetwork: () => NonNullable<Vm['network']>;
}

/** A disk of which a test says what is found on it. */
export interface FakeDisk {
  entries: readonly FileEntry[];
  contents: Map<string, Buffer>;
  changes: readonly FileChange[];
  /** What a snapshot is as a file. */
  file: Buffer;
  readonly asked: unknown[];
  /** Contents that are being read. */
  readonly open: Set<Readable>;
}

/** What can be asked of a pretended Hatch about snapshots. */
export interface FakeSnapshots {
  /** What a test may look at and change behind the API's back. */
  readonly rows: Map<string, Snapshot>;
  /** Bytes on their way, by snapshot. */
  readonly transfers: Map<string, Transfer>;
  /** What the disks of all snapshots hold; what is asked of them is kept. */
  readonly disk: FakeDisk;
  readonly snapshots: Hatch['snapshots'];
  readonly saving: Pick<Hatch['vms'], 'snapshot' | 'restore' | 'fork'>;
  /** Makes a VM from a snapshot. */
  copy(caller: Caller, request: CreateVm, snapshotIdOrName: string): Vm;
  /** Takes a deleted VM's snapshots away. */
  forget(vm: Pick<Vm, 'id'>): void;
}

/** Snapshots in memory: rows without bytes, with the rules of the real ones on names, states, accounts and what holds them. */
export function fakeSnapshots({ clock, rows: vms, own, change, newNetwork }: FakeVms): FakeSnapshots {
  const rows: FakeSnapshots['rows'] = new Map();
  const transfers: FakeSnapshots['transfers'] = new Map();

  const disk: FakeDisk = {
    entries: [],
    contents: new Map(),
    changes: [],
    file: Buffer.from('a snapshot'),
    asked: [],
    open: new Set(),
  };

  const ownSnapshot = (caller: Caller, idOrName: string): Snapshot => {
    const found = [...rows.values()].find(
      (one) => one.accountId === caller.accountId && (one.id === idOrName || one.name === idOrName),
    );
    if (!found) throw notFound('snapshot', idOrName);
    return found;
  };
  const mustBeFree = (caller: Caller, name: string | null | undefined, but?: Snapshot): void => {
    const taken = [...rows.values()].find((one) => one.accountId === caller.accountId && one.name === name);
    if (typeof name === 'string' && taken && taken.id !== but?.id)
      throw new Failure('already_exists', `"name" cannot be "${name}": another snapshot has it.`, {
        details: { field: 'name', value: name },
      });
  };
  const save = (vm: Row, kind: SnapshotKind, name: string | null): Snapshot => {
    const parent = [...rows.values()].findLast((one) => one.vmId === vm.id);
    const snapshot: Snapshot = {
      id: newId('snap'),
      accountId: vm.accountId,
      vmId: vm.id,
      name,
      kind,
      state: 'local',
      hostId: vm.hostId,
      imageId: vm.imageId,
      vcpuCount: vm.vcpuCount,
      memMib: vm.memMib,
      diskMib: vm.diskMib,
      savedOn: {
        driver: 'fake',
        version: '1',
        machineType: 'none',
        accel: 'none',
        cpu: { model: 'none', flags: [] },
        kernelSha256: null,
        imageSha256: null,
      },
      guest: {
        hostname: vm.name ?? vm.id,
        mac: vm.network?.mac ?? null,
        diskFormat: 'raw',
        bootArgs: '',
        hasInitrd: false,
        instanceId: vm.instanceId,
        agent: true,
      },
      parentId: parent?.id ?? null,
      diskLayerId: newId('layer'),
      memoryLayerId: newId('layer'),
      stateLayerId: newId('layer'),
      logicalBytes: (vm.memMib + (vm.diskMib ?? 2048)) * 1024 * 1024,
      storedBytes: null,
      manifest: null,
      verifiedAt: null,
      usedAt: clock.now(),
      problem: null,
      createdAt: clock.now(),
    };
    rows.set(snapshot.id, snapshot);
    return snapshot;
  };
  /** Nothing is ever stored here but what a test says is. */
  const stored = (snapshot: Snapshot, withinMs: number | undefined): Snapshot => {
    if (withinMs === undefined || snapshot.state === 'durable') return snapshot;
    throw new Failure('timeout', `The snapshot was not stored within ${withinMs / 1000} s.`);
  };
  const copyOf = (snapshot: Snapshot, request: CreateVm): Vm => {
    const source = vms.get(snapshot.vmId);
    if (!source) throw notFound('vm', snapshot.vmId);
    const vm: Row = {
      ...source,
      id: newId('vm'),
      name: request.name ?? null,
      state: 'running',
      parentSnapshotId: snapshot.id,
      snapshotId: null,
      vcpuCount: snapshot.vcpuCount,
      memMib: snapshot.memMib,
      diskMib: request.diskMib ?? snapshot.diskMib,
      network: snapshot.guest.mac === null ? null : newNetwork(),
      labels: { ...source.labels, ...request.labels },
      createdAt: clock.now(),
      updatedAt: clock.now(),
    };
    vms.set(vm.id, vm);
    return vm;
  };

  return {
    rows,
    transfers,
    disk,
    copy: (caller, request, snapshotIdOrName) => {
      const snapshot = [...rows.values()].find(
        (one) =>
          one.accountId === caller.accountId &&
          (one.id === snapshotIdOrName || one.name === snapshotIdOrName),
      );
      if (!snapshot) throw invalid('snapshot_id', `There is no snapshot "${snapshotIdOrName}".`);
      refuseWithSnapshot(request);
      return copyOf(snapshot, request);
    },
    forget: (vm) => {
      for (const one of rows.values()) if (one.vmId === vm.id) rows.delete(one.id);
    },
    saving: {
      snapshot: async (caller, id, { name, keepRunning, storedWithinMs }) => {
        const vm = own(caller, id);
        const refused = refuse(vm, 'snapshot');
        if (refused) throw refused;
        mustBeFree(caller, name);
        const snapshot = save(vm, 'manual', name ?? null);
        if (!keepRunning) change(vm, { state: 'snapshotted', snapshotId: snapshot.id, readyAt: null });
        return stored(snapshot, storedWithinMs);
      },
      restore: async (caller, id, { snapshot: asked, discard }, wait) => {
        const vm = own(caller, id);
        const refused = refuse(vm, 'restore');
        if (refused) throw refused;
        if (vm.state === 'stopped' && discard !== true)
          throw new Failure('wrong_state', 'The VM is stopped, and its disk would be lost.', {
            details: { state: vm.state, field: 'discard' },
          });
        const snapshot = ownSnapshot(caller, asked ?? vm.snapshotId ?? '');
        if (snapshot.vmId !== vm.id) throw notFound('snapshot', asked ?? '');
        const awake = change(vm, { state: 'running', snapshotId: null });
        if (wait?.until === 'ready')
          throw new Failure('timeout', `The guest did not answer within ${wait.timeoutMs / 1000} s.`);
        return awake;
      },
      fork: async (caller, id, { count, name, keepRunning }) => {
        const vm = own(caller, id);
        const refused = refuse(vm, 'fork');
        if (refused) throw refused;
        const slept = vm.snapshotId === null ? undefined : rows.get(vm.snapshotId);
        const snapshot = slept ?? save(vm, 'fork', null);
        const made = Array.from({ length: count }, (_, index) => {
          const numbered = name === undefined || count === 1 ? name : `${name}-${index + 1}`;
          return copyOf(snapshot, { name: numbered });
        });
        if (vm.state === 'running' && !keepRunning)
          change(vm, { state: 'snapshotted', snapshotId: snapshot.id, readyAt: null });
        else if (!slept) rows.delete(snapshot.id);
        return made;
      },
    },
    snapshots: {
      get: async (caller, id, storedWithinMs) => stored(ownSnapshot(caller, id), storedWithinMs),
      transfer: (id) => transfers.get(id),
      verify: async (caller, id) => {
        const proven: Snapshot = { ...ownSnapshot(caller, id), verifiedAt: clock.now() };
        rows.set(proven.id, proven);
        return proven;
      },
      list: async (caller, { vm, everyone }, page) => {
        const vmId = vm === undefined ? undefined : own(caller, vm).id;
        return pageOf(
          [...rows.values()].filter(
            (one) =>
              (everyone === true || one.accountId === caller.accountId) &&
              (vmId === undefined || one.vmId === vmId),
          ),
          page,
        );
      },
      files: async (caller, id, wanted) => {
        ownSnapshot(caller, id);
        disk.asked.push(wanted);
        const from = Number(wanted.after ?? 0);
        const to = from + wanted.limit;
        return {
          entries: disk.entries.slice(from, to),
          next: to < disk.entries.length ? String(to) : null,
        };
      },
      readFile: async (caller, id, path, signal) => {
        ownSnapshot(caller, id);
        disk.asked.push(path);
        const bytes = disk.contents.get(String(path));
        if (!bytes)
          throw new Failure('not_found', `There is nothing at "${String(path)}" on the saved disk.`);
        const content = Readable.from([bytes], { objectMode: false });
        disk.open.add(content);
        content.once('close', () => disk.open.delete(content));
        signal.addEventListener('abort', () => content.destroy(), { once: true });
        const facts = {
          kind: 'file',
          sizeBytes: bytes.length,
          mode: 0o644,
          uid: 0,
          gid: 0,
          modifiedAt: 0,
          target: null,
        } as const;
        return { facts, sizeBytes: bytes.length, content };
      },
      diff: async (caller, before, after, { path, limit }) => {
        ownSnapshot(caller, before);
        ownSnapshot(caller, after);
        disk.asked.push({ path, limit });
        return { changes: disk.changes.slice(0, limit), truncated: disk.changes.length > limit };
      },
      export: async (caller, id, request) => {
        const snapshot = ownSnapshot(caller, id);
        disk.asked.push(request);
        return { snapshot, content: Readable.from([disk.file], { objectMode: false }) };
      },
      import: async (caller, request, source) => {
        disk.asked.push(request);
        mustBeFree(caller, request.name);
        const pieces: Uint8Array[] = [];
        for await (const piece of source) pieces.push(piece);
        if (!Buffer.concat(pieces).equals(disk.file)) throw invalid('', 'The snapshot file is not whole.');
        const [vm] = vms.values();
        if (!vm) throw notFound('vm', '');
        return { snapshot: save(vm, 'manual', request.name ?? null), differences: ['it is another'] };
      },
      patch: async (caller, id, { name }) => {
        const old = ownSnapshot(caller, id);
        mustBeFree(caller, name, old);
        const patched = { ...old, name: name === undefined ? old.name : name };
        rows.set(old.id, patched);
        return patched;
      },
      delete: async (caller, id) => {
        const { id: snapshot, vmId } = ownSnapshot(caller, id);
        if (vms.get(vmId)?.snapshotId === snapshot)
          throw new Failure('in_use', `VM ${vmId} sleeps as this snapshot.`, {
            details: { snapshot, vms: [vmId] },
          });
        rows.delete(snapshot);
      },
    },
  };
}
