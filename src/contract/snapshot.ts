import { Type, type Static } from 'typebox';
import { Everyone, MemMib, Name, orNull, PAGE_FIELDS, Time, VmId } from './common.ts';

export const SnapshotId = Type.String({
  pattern: '^snap-[a-z0-9]{12}$',
  description: 'The id of a snapshot.',
  examples: ['snap-abc123def456'],
});

/** A snapshot by id or name, as a request names it. */
export const SnapshotName = Type.String({
  pattern: '^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$',
  'x-rule': 'a snapshot’s id (snap-abc123def456) or its name',
  description: 'A snapshot’s id or its name.',
  examples: ['snap-abc123def456'],
});

export const SnapshotVm = Type.Object(
  {
    name: Type.Optional(
      Type.String({ ...Name, description: 'A name, unique in the account and usable wherever its id is.' }),
    ),
    keep_running: Type.Optional(
      Type.Boolean({
        default: false,
        description: 'Whether the VM goes on after it was saved; else it sleeps, its addresses kept.',
      }),
    ),
  },
  {
    $id: 'SnapshotVm',
    additionalProperties: false,
    examples: [{}, { name: 'before-upgrade', keep_running: true }],
  },
);
export type SnapshotVm = Static<typeof SnapshotVm>;

export const RestoreVm = Type.Object(
  {
    snapshot_id: Type.Optional(
      Type.String({
        ...SnapshotName,
        description: 'A snapshot of this VM; the one it sleeps as when left out.',
      }),
    ),
    discard: Type.Optional(
      Type.Boolean({
        default: false,
        description: 'Needed for a stopped VM: what is on its disk now, and in no snapshot, is lost.',
      }),
    ),
  },
  { $id: 'RestoreVm', additionalProperties: false, examples: [{}, { snapshot_id: 'snap-abc123def456' }] },
);
export type RestoreVm = Static<typeof RestoreVm>;

export const ForkVm = Type.Object(
  {
    count: Type.Optional(
      Type.Integer({ minimum: 1, maximum: 100, default: 1, description: 'How many copies.' }),
    ),
    name: Type.Optional(
      Type.String({ ...Name, description: 'The copy’s name; of several, `name-1`, `name-2`...' }),
    ),
    keep_running: Type.Optional(
      Type.Boolean({ default: true, description: 'Whether a running VM goes on; else it sleeps.' }),
    ),
  },
  { $id: 'ForkVm', additionalProperties: false, examples: [{}, { count: 5, name: 'worker' }] },
);
export type ForkVm = Static<typeof ForkVm>;

export const PatchSnapshot = Type.Object(
  { name: Type.Optional(orNull(Name)) },
  {
    $id: 'PatchSnapshot',
    additionalProperties: false,
    description: '`name` null takes the name away. What a snapshot holds never changes.',
    examples: [{ name: 'golden' }],
  },
);
export type PatchSnapshot = Static<typeof PatchSnapshot>;

/** Bytes on their way, as long as they are. */
const Transfer = Type.Object(
  {
    direction: Type.Enum(['store', 'fetch'], {
      description: '`store`: to the store; `fetch`: from it, to the host that wants to wake it.',
    }),
    done_bytes: Type.Integer({ minimum: 0 }),
    total_bytes: Type.Integer({ minimum: 0, description: 'Of all its files, holes counted.' }),
  },
  { additionalProperties: false, description: 'How far its bytes are on their way; absent when none are.' },
);

export const Snapshot = Type.Object(
  {
    id: SnapshotId,
    vm_id: VmId,
    name: Type.Optional(Name),
    created_at: Time,
    kind: Type.Enum(['manual', 'idle', 'fork'], {
      description:
        '`manual`: asked for; `idle`: the VM fell asleep, and the next one replaces it; `fork`: made to copy it.',
    }),
    state: Type.Enum(['local', 'uploading', 'durable', 'damaged'], {
      description:
        '`local`: only on the host that made it; `uploading`: on its way to the store; `durable`: safe in the store; ' +
        '`damaged`: not whole any more.',
    }),
    mem_mib: MemMib,
    logical_bytes: Type.Integer({ minimum: 0, description: 'Of memory and disk as the guest sees them.' }),
    stored_bytes: Type.Optional(
      Type.Integer({ minimum: 0, description: 'New bytes it added to the store; absent until it is there.' }),
    ),
    parent_id: Type.Optional(Type.String({ description: 'The VM’s snapshot before it; it may be gone.' })),
    verified_at: Type.Optional(Time),
    vmm: Type.String({
      description: 'What saved it, and what it can go on under.',
      examples: ['qemu 7.2.22'],
    }),
    problem: Type.Optional(Type.String({ description: 'Why it is not durable yet, or damaged.' })),
    transfer: Type.Optional(Transfer),
  },
  {
    $id: 'Snapshot',
    additionalProperties: false,
    description: 'A whole VM at one moment: memory, disk and devices. Fields without a value are absent.',
    examples: [
      {
        id: 'snap-abc123def456',
        vm_id: 'vm-abc123def456',
        created_at: '2026-03-06T10:30:00Z',
        kind: 'manual',
        state: 'local',
        mem_mib: 512,
        logical_bytes: 2_684_354_560,
        vmm: 'qemu 7.2.22',
      },
    ],
  },
);
export type Snapshot = Static<typeof Snapshot>;

/** The header the key of a snapshot file comes in. */
export const KEY_HEADER = 'hatch-snapshot-key';
export const SnapshotKeyHeaders = Type.Object({
  [KEY_HEADER]: Type.Optional(
    Type.String({
      description:
        'The key the file is encrypted with: 32 random bytes in hexadecimal or base64. Only over TLS or the loopback: who hears it can read the file.',
    }),
  ),
});

export const ExportQuery = Type.Object(
  {
    plain: Type.Optional(
      Type.Boolean({
        default: false,
        description:
          'Without a key although snapshots are encrypted on this server: whoever has the file can read the guest’s memory and disk.',
      }),
    ),
  },
  { additionalProperties: false },
);

export const ImportQuery = Type.Object(
  {
    name: Type.Optional(
      Type.String({
        ...Name,
        description: 'A name for the snapshot; else the one it had, if nobody has it.',
      }),
    ),
  },
  { additionalProperties: false },
);

export const ImportedSnapshot = Type.Object(
  {
    ...Snapshot.properties,
    differences: Type.Array(Type.String(), {
      description: 'Why it cannot be woken on this host, in words; empty when it can.',
    }),
  },
  {
    $id: 'ImportedSnapshot',
    additionalProperties: false,
    description: 'A snapshot that came from another installation; `vm_id` is the new VM that sleeps as it.',
  },
);
export type ImportedSnapshot = Static<typeof ImportedSnapshot>;

export const SnapshotParams = Type.Object({ id: SnapshotName }, { additionalProperties: false });

const storedFields = {
  wait: Type.Optional(
    Type.Enum(['stored'], {
      description:
        'Hold the answer back until the snapshot is `durable`. When the time is over: 504, and it goes on being stored.',
    }),
  ),
  timeout: Type.Optional(
    Type.Integer({
      minimum: 1,
      maximum: 600,
      default: 60,
      description: 'How long to wait at most, in seconds. Only with `wait`.',
    }),
  ),
};
export const StoredQuery = Type.Object(storedFields, { additionalProperties: false });
export type StoredQuery = Static<typeof StoredQuery>;

export const SnapshotListQuery = Type.Object(
  { ...PAGE_FIELDS, all: Type.Optional(Everyone) },
  { additionalProperties: false },
);
