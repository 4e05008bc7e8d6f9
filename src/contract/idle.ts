import { Type, type Static } from 'typebox';
import { Name, Time, VmId } from './common.ts';
import { Event } from './event.ts';
import { VmState } from './vm.ts';

const Count = (description: string) => Type.Integer({ minimum: 0, description });
const Amount = (description: string) => Type.Number({ minimum: 0, description });

export const LeaseVm = Type.Object(
  {
    seconds: Type.Integer({
      minimum: 0,
      maximum: 3600,
      description:
        'For how long from now the VM is busy, in seconds, up to an hour; ask again before it is over. 0: it is not any more.',
    }),
  },
  { $id: 'LeaseVm', additionalProperties: false, examples: [{ seconds: 600 }] },
);
export type LeaseVm = Static<typeof LeaseVm>;

export const VmLease = Type.Object(
  {
    vm_id: VmId,
    leased_until: Type.Optional(
      Type.String({ ...Time, description: 'Until when it is busy. Absent: it is not any more.' }),
    ),
  },
  {
    $id: 'VmLease',
    additionalProperties: false,
    description: 'Until when somebody has said that a VM is busy.',
    examples: [{ vm_id: 'vm-abc123def456', leased_until: '2026-03-06T10:40:00Z' }],
  },
);
export type VmLease = Static<typeof VmLease>;

export const VmWhy = Type.Object(
  {
    vm_id: VmId,
    state: VmState,
    now: Type.Object(
      {
        is: Type.Enum(['awake', 'idle', 'asleep', 'off', 'changing'], {
          description:
            '`awake`: something keeps it awake; `idle`: nothing does, and it goes to sleep; `asleep`; `off`: stopped by a person, or in ' +
            'error; `changing`: on its way.',
        }),
        reason: Type.Optional(
          Type.String({
            description:
              'What keeps it awake: `pinned`, `no_action`, `operation`, `in_use`, `leased`, `guest_busy`, `keep_awake`, `used`, `booting`, `just_woken`, ' +
              '`cpu`, `cannot_save`, `failed`.',
          }),
        ),
        message: Type.String({ description: 'The same for people.' }),
        until: Type.Optional(
          Type.String({ ...Time, description: 'When that is over if nothing happens until then.' }),
        ),
        signals: Type.Record(Type.String(), Type.Unknown(), { description: 'What it was decided on.' }),
      },
      { additionalProperties: false },
    ),
    events: Type.Array(Type.Object(Event.properties, { additionalProperties: false }), {
      description:
        'The last 20 times it slept, woke or was refused either, with reason and signals; newest first.',
    }),
    asleep: Type.Object(
      {
        times: Count('How often it has slept.'),
        seconds: Amount('How long in all.'),
        gib_hours_saved: Amount('The memory it did not need meanwhile, in GiB, times hours.'),
      },
      { additionalProperties: false, description: 'In all its life.' },
    ),
    waits: Type.Object(
      {
        wakes: Count('How often somebody woke it.'),
        visitors: Count('How many waited for that.'),
        mean_ms: Type.Optional(Count('How long the first of them waited on average.')),
        longest_ms: Type.Optional(Count('How long at most.')),
      },
      { additionalProperties: false, description: 'Of the last 30 days.' },
    ),
  },
  {
    $id: 'VmWhy',
    additionalProperties: false,
    description: 'Why a VM is awake or asleep, and what came of that.',
  },
);
export type VmWhy = Static<typeof VmWhy>;

export const SimulateIdle = Type.Object(
  {
    timeout_seconds: Type.Integer({
      minimum: 1,
      maximum: 31_536_000,
      description: 'The timeout to try. Whatever else a VM’s policy says holds.',
    }),
    vm_id: Type.Optional(
      Type.String({
        pattern: '^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$',
        'x-rule': 'a VM’s id (vm-abc123def456) or its name',
        description: 'Only this VM, by its id or its name.',
      }),
    ),
  },
  { $id: 'SimulateIdle', additionalProperties: false, examples: [{ timeout_seconds: 600 }] },
);
export type SimulateIdle = Static<typeof SimulateIdle>;

const Slept = Type.Object(
  {
    sleeps: Count('How often it fell asleep.'),
    wakes: Count('How often it was woken: so many visitors at least waited.'),
    asleep_seconds: Amount('How long it slept.'),
    gib_hours_saved: Amount('The memory it did not need meanwhile, in GiB, times hours.'),
  },
  { additionalProperties: false },
);

export const IdleSimulation = Type.Object(
  {
    vm_id: VmId,
    name: Type.Optional(Name),
    from: Time,
    until: Time,
    was: Slept,
    would: Slept,
  },
  {
    $id: 'IdleSimulation',
    additionalProperties: false,
    description: 'How a VM slept, and how it would have slept with another timeout, used as it was.',
  },
);
export type IdleSimulation = Static<typeof IdleSimulation>;
