import { Type, type Static } from 'typebox';

/**
 * Building blocks of the contract. `x-rule` is the rule of a pattern in words: it ends the sentence `"field" must be ...`
 * of the error a value gets that breaks it.
 */

/** What no name may begin with, or it could be taken for an id. */
const NOT_AN_ID = '(?!(?:vm|snap|rt|key|op|evt|acct|layer|img|tpl)-)';
const LABEL = '[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?';
/** Text on one line: no control character. */
const ONE_LINE = '[^\\u0000-\\u001f\\u007f]*';

export const Name = Type.String({
  pattern: `^${NOT_AN_ID}${LABEL}$`,
  'x-rule':
    'a name of 1 to 63 lower-case letters, digits and inner dashes that does not begin like an id (vm-, img-, tpl-...)',
  description: 'A name: 1 to 63 lower-case letters, digits and inner dashes. It may not begin like an id.',
  examples: ['web-1'],
});

/** A made id of the given kind: `vm-abc123def456`. */
export const madeId = (kind: string, what: string) =>
  Type.String({
    pattern: `^${kind}-[a-z0-9]{12}$`,
    'x-rule': `an id such as ${kind}-abc123def456`,
    description: what,
    examples: [`${kind}-abc123def456`],
  });

export const VmId = Type.String({
  pattern: '^vm-[a-z0-9]{12}$',
  description: 'The id of a VM; it never changes and is never used again.',
  examples: ['vm-abc123def456'],
});
export const ImageId = Type.String({
  pattern: `^img-${LABEL}$`,
  'x-rule': 'an image id such as img-default',
  description: 'The id of an image: `img-` and its name.',
  examples: ['img-default'],
});
export const TemplateId = Type.String({
  pattern: `^tpl-${LABEL}$`,
  'x-rule': 'a template id such as tpl-web-server',
  description: 'The id of a template: `tpl-` and its name.',
  examples: ['tpl-web-server'],
});
export const AccountId = madeId('acct', 'The id of an account.');
export const KeyId = madeId('key', 'The id of an API key.');
export const EventId = madeId('evt', 'The id of an event.');

export const Time = Type.String({
  format: 'date-time',
  description: 'A time in UTC, as RFC 3339 has it.',
  examples: ['2026-03-06T10:30:00Z'],
});

export const VcpuCount = Type.Integer({
  minimum: 1,
  maximum: 32,
  description: 'Virtual CPUs.',
  examples: [2],
});
export const MemMib = Type.Integer({
  minimum: 128,
  maximum: 65536,
  description: 'Memory in MiB.',
  examples: [2048],
});
export const DiskMib = Type.Integer({
  minimum: 1,
  maximum: 16_777_216,
  description:
    'Size of the root disk in MiB, at least the size of the image; the file system grows to it on first boot.',
  examples: [8192],
});
export const BootArgs = Type.String({
  maxLength: 2048,
  pattern: '^[ -~]*$',
  'x-rule': 'one line of printable ASCII characters',
  description: 'The kernel command line: at most 2048 bytes, one line of printable ASCII.',
  examples: ['console=ttyS0 quiet'],
});
export const UserData = Type.String({
  maxLength: 262_144,
  description:
    'Cloud-init user data in any format cloud-init knows (`#cloud-config`, a script, MIME...), handed on byte for byte. ' +
    'At most 256 KiB as UTF-8. A `#cloud-config` must be YAML. Empty: none, even where the template has some.',
  examples: ['#cloud-config\npackages:\n  - nginx\n'],
});
export const Description = Type.String({
  maxLength: 1000,
  pattern: '^[^\\u0000-\\u0008\\u000b\\u000c\\u000e-\\u001f\\u007f]*$',
  'x-rule': 'text without control characters',
  description: 'What it is for, in words.',
});

export const Labels = Type.Record(
  Type.String({ pattern: '^[A-Za-z0-9](?:[A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?$' }),
  Type.String({
    maxLength: 255,
    pattern: `^${ONE_LINE}$`,
    'x-rule': 'one line of text, without control characters',
  }),
  {
    maxProperties: 32,
    additionalProperties: false,
    'x-key-rule':
      'of 1 to 63 letters, digits, dots, slashes, underscores and dashes, a letter or digit at both ends',
    description:
      'Up to 32 labels to find VMs by (`?label=key=value`). Keys: 1 to 63 letters, digits, dots, slashes, underscores ' +
      'and dashes, beginning and ending with a letter or digit. Values: up to 255 characters on one line.',
    examples: [{ tier: 'web' }],
  },
);

/** The same schema, or null. */
export const orNull = <T extends Type.TSchema>(schema: T) => Type.Union([schema, Type.Null()]);

const idleFields = {
  timeout_seconds: Type.Integer({
    minimum: 1,
    maximum: 31_536_000,
    description: 'How long nobody may have used the VM before it is idle, in seconds.',
  }),
  action: Type.Enum(['snapshot', 'stop', 'none'], { description: 'What happens to an idle VM.' }),
  connections: Type.Enum(['hold', 'quiet', 'ignore'], {
    description:
      'What open connections mean: `hold`: the VM is used; `quiet`: only while bytes pass; `ignore`: nothing.',
  }),
  pinned: Type.Boolean({ description: 'True: never idle.' }),
};
const Clock = (rule: string, pattern: string) =>
  Type.String({
    pattern,
    'x-rule': rule,
    description: `${rule[0]?.toUpperCase()}${rule.slice(1)}.`,
    examples: ['08:00'],
  });
export const KeepAwake = Type.Object(
  {
    days: Type.Array(Type.Enum(['mon', 'tue', 'wed', 'thu', 'fri', 'sat', 'sun']), {
      minItems: 1,
      maxItems: 7,
      description: 'The days it begins on.',
    }),
    from: Clock('a time of the day such as 08:00', '^(?:[01][0-9]|2[0-3]):[0-5][0-9]$'),
    to: Clock('a time of the day such as 18:00, up to 24:00', '^(?:(?:[01][0-9]|2[0-3]):[0-5][0-9]|24:00)$'),
    time_zone: Type.Optional(
      Type.String({
        maxLength: 64,
        default: 'UTC',
        description: 'The time zone of both, such as `Europe/Berlin`.',
        examples: ['Europe/Berlin'],
      }),
    ),
  },
  {
    additionalProperties: false,
    description: 'A time of the week. Where `to` is not after `from` it ends on the next day.',
  },
);
const laterFields = {
  cpu_below: Type.Optional(
    orNull(
      Type.Integer({
        minimum: 1,
        maximum: 100,
        description:
          'It does not sleep while it uses so much of its vCPUs or more, in percent, measured from outside between two looks. Little use alone ' +
          'puts nothing to sleep. null: that does not matter.',
      }),
    ),
  ),
  keep_awake: Type.Optional(
    Type.Array(KeepAwake, {
      maxItems: 14,
      description: 'When it does not sleep. Nothing wakes it for that.',
    }),
  ),
};
export const Idle = Type.Object(
  { ...idleFields, ...laterFields },
  {
    $id: 'Idle',
    additionalProperties: false,
    description: 'What happens to a VM nobody uses.',
  },
);
export const IdlePatch = Type.Partial(Type.Object({ ...idleFields, ...laterFields }), {
  $id: 'IdlePatch',
  additionalProperties: false,
  description:
    'What happens to a VM nobody uses. What is left out is as the template says, else the server’s timeout (45 min unless configured), `snapshot`, `hold`, not pinned.',
});
export type Idle = Static<typeof Idle>;
export type IdlePatch = Static<typeof IdlePatch>;

const pageFields = {
  limit: Type.Optional(
    Type.Integer({ minimum: 1, maximum: 1000, default: 100, description: 'How many at most.' }),
  ),
  after: Type.Optional(
    Type.String({
      pattern: '^[a-z]{2,8}-[a-z0-9][a-z0-9-]{0,62}$',
      'x-rule': 'the id of the last one of the page before',
      description: 'Go on after this id: the last one of the page before, as the `Link` header has it.',
    }),
  ),
};
/** The fields of every list's query, to build a list's own upon. */
export const PAGE_FIELDS = pageFields;
export const ListQuery = Type.Object(pageFields, { additionalProperties: false });

export const Everyone = Type.Boolean({
  default: false,
  description: 'Of all accounts, not only of the own; needs the scope `operator`.',
});

export const Deleted = Type.Object(
  { status: Type.Literal('deleted') },
  {
    $id: 'Deleted',
    additionalProperties: false,
    description: 'It is gone.',
    examples: [{ status: 'deleted' }],
  },
);
export type Deleted = Static<typeof Deleted>;
