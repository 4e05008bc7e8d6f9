import { Type, type Static } from 'typebox';
import { EventId, Everyone, PAGE_FIELDS, Time, VmId } from './common.ts';

export const Event = Type.Object(
  {
    id: EventId,
    kind: Type.String({
      description: '`vm.created`, `vm.running`, `vm.stopped`...',
      examples: ['vm.running'],
    }),
    vm_id: Type.Optional(VmId),
    message: Type.String({ description: 'For people.' }),
    data: Type.Record(Type.String(), Type.Unknown(), { description: 'For programs.' }),
    at: Time,
  },
  {
    $id: 'Event',
    additionalProperties: false,
    description: 'Something that happened.',
    examples: [
      {
        id: 'evt-abc123def456',
        kind: 'vm.running',
        vm_id: 'vm-abc123def456',
        message: 'The guest runs.',
        data: {},
        at: '2026-03-06T10:30:00Z',
      },
    ],
  },
);
export type Event = Static<typeof Event>;

const Kind = Type.String({
  pattern: '^[a-z_]+(?:\\.[a-z_]+)*$',
  maxLength: 64,
  'x-rule': 'a kind of event such as vm.running',
  description: 'Only events of this kind.',
  examples: ['vm.running'],
});

export const VmEventListQuery = Type.Object(
  { ...PAGE_FIELDS, kind: Type.Optional(Kind) },
  { additionalProperties: false },
);

export const EventListQuery = Type.Object(
  { ...PAGE_FIELDS, kind: Type.Optional(Kind), all: Type.Optional(Everyone) },
  { additionalProperties: false },
);
