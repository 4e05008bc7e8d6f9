import { Type, type Static } from 'typebox';
import { Compile } from 'typebox/compile';
import {
  BootArgs,
  DiskMib,
  ImageId,
  Labels,
  MemMib,
  Name,
  orNull,
  UserData,
  VcpuCount,
} from '../contract/common.ts';
import { CreateVm } from '../contract/vm.ts';
import { DAYS, isTimeZone } from './keep-awake.ts';
import type { Snapshot } from './snapshot.ts';
import type { Vm } from './vm.ts';

/** What of a snapshot and its VM goes with it to another installation, beside its bytes. docs/snapshot-format.md names the fields. */

const Word = Type.String({ pattern: '^[A-Za-z0-9][A-Za-z0-9._+-]{0,127}$' });
const Line = Type.String({ maxLength: 256, pattern: '^[^\\u0000-\\u001f\\u007f]*$' });
const Sha256 = orNull(Type.String({ pattern: '^[0-9a-f]{64}$' }));
const closed = { additionalProperties: false } as const;

const SavedOn = Type.Object(
  {
    driver: Type.Enum(['qemu', 'firecracker', 'fake']),
    version: Line,
    machineType: Word,
    accel: Word,
    cpu: Type.Object(
      {
        model: Line,
        flags: Type.Array(Word, { maxItems: 1024 }),
      },
      closed,
    ),
    kernelSha256: Sha256,
    imageSha256: Sha256,
  },
  closed,
);

const Guest = Type.Object(
  {
    hostname: Word,
    mac: orNull(Type.String({ pattern: '^[0-9a-f][02468ace](:[0-9a-f]{2}){5}$' })),
    diskFormat: Type.Enum(['raw', 'qcow2']),
    bootArgs: BootArgs,
    hasInitrd: Type.Boolean(),
    instanceId: Word,
    agent: Type.Boolean(),
  },
  closed,
);

const Time = Type.String({ pattern: '^([01][0-9]|2[0-3]):[0-5][0-9]$|^24:00$' });
const KeepAwakeWindow = Type.Object(
  {
    days: Type.Array(Type.Enum([...DAYS]), { minItems: 1, maxItems: 7 }),
    from: Time,
    to: Time,
    timeZone: Type.String({ pattern: '^[A-Za-z0-9/_+-]{1,64}$' }),
  },
  closed,
);

const IdlePolicy = Type.Object(
  {
    timeoutSeconds: Type.Integer({ minimum: 1, maximum: 31_536_000 }),
    action: Type.Enum(['snapshot', 'stop', 'none']),
    connections: Type.Enum(['hold', 'quiet', 'ignore']),
    pinned: Type.Boolean(),
    // What older readers do not know is left out where it says nothing.
    cpuBelow: Type.Optional(Type.Integer({ minimum: 1, maximum: 100 })),
    keepAwake: Type.Optional(Type.Array(KeepAwakeWindow, { maxItems: 14 })),
  },
  closed,
);

const Traveller = Type.Object(
  {
    snapshot: Type.Object(
      {
        name: orNull(Name),
        imageId: ImageId,
        vcpuCount: VcpuCount,
        memMib: MemMib,
        diskMib: orNull(DiskMib),
        savedOn: SavedOn,
        guest: Guest,
      },
      closed,
    ),
    vm: Type.Object(
      {
        name: orNull(Name),
        labels: Labels,
        idle: orNull(IdlePolicy),
        sshAuthorizedKeys: Type.Array(CreateVm.properties.ssh_authorized_keys.items, { maxItems: 32 }),
        userData: orNull(UserData),
      },
      closed,
    ),
  },
  closed,
);
export type Traveller = Static<typeof Traveller>;

/** What goes along of a snapshot and the VM it is of. */
export function travellerOf(snapshot: Snapshot, vm: Vm, userData: string | null): Traveller {
  const { name, imageId, vcpuCount, memMib, diskMib, savedOn, guest } = snapshot;
  return {
    snapshot: {
      name,
      imageId,
      vcpuCount,
      memMib,
      diskMib,
      savedOn: {
        ...savedOn,
        cpu: { model: savedOn.cpu.model, flags: [...savedOn.cpu.flags] },
      },
      guest: { ...guest },
    },
    vm: {
      name: vm.name,
      labels: { ...vm.labels },
      idle: vm.idle && policyOf(vm.idle),
      sshAuthorizedKeys: [...vm.sshAuthorizedKeys],
      userData,
    },
  };
}

function policyOf({ cpuBelow, keepAwake, ...policy }: NonNullable<Vm['idle']>): Static<typeof IdlePolicy> {
  return {
    ...policy,
    ...(cpuBelow === null ? {} : { cpuBelow }),
    ...(keepAwake.length === 0
      ? {}
      : { keepAwake: keepAwake.map((one) => ({ ...one, days: [...one.days] })) }),
  };
}

/** Reads what came along; a sentence's end saying what is wrong with it when it is not exactly as it must be. */
export function readTraveller(value: unknown): Traveller | { readonly wrong: string } {
  const schema = Compile(Traveller);
  if (schema.Check(value)) {
    const read = schema.Parse(value);
    const zone = read.vm.idle?.keepAwake?.find(({ timeZone }) => !isTimeZone(timeZone))?.timeZone;
    return zone === undefined
      ? read
      : { wrong: `"vm.idle.keepAwake" has a time zone that is not known here: ${zone}` };
  }
  const [first] = schema.Errors(value);
  const field = (first?.instancePath ?? '').slice(1).replaceAll('/', '.');
  return { wrong: `"${field.slice(0, 100)}" ${first?.message ?? 'is not as it must be'}` };
}
