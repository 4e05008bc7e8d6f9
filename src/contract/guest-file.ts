import { Type, type Static } from 'typebox';

const path = Type.String({
  minLength: 1,
  maxLength: 4095,
  pattern: '^/[^\\u0000]*$',
  'x-rule': 'an absolute path of at most 4095 bytes',
  description: 'The absolute path of a file in the guest. Links are followed.',
  examples: ['/etc/hosts'],
});
const wake = Type.Optional(
  Type.Boolean({
    description: 'true: a sleeping VM is woken for it, and one that was stopped by policy started.',
  }),
);
const who = (what: string) =>
  Type.Optional(
    Type.String({
      pattern: '^(?:[0-9]{1,10}|[A-Za-z_][A-Za-z0-9_.-]{0,31})$',
      'x-rule': 'a name or a number of at most 10 digits',
      description: `${what}, by name or number; as the file had it, or root.`,
      examples: ['root', '1000'],
    }),
  );

export const ReadFileQuery = Type.Object({ path, wake }, { additionalProperties: false });
export type ReadFileQuery = Static<typeof ReadFileQuery>;

export const WriteFileQuery = Type.Object(
  {
    path,
    wake,
    mode: Type.Optional(
      Type.String({
        pattern: '^0?[0-7]{3,4}$',
        'x-rule': 'permission bits in octal, such as 0644',
        description: 'Its permission bits, in octal; as the file had them, or 0644.',
        examples: ['0644'],
      }),
    ),
    owner: who('Its owner'),
    group: who('Its group'),
    parents: Type.Optional(
      Type.Boolean({ description: 'true: makes the folders it lies in, where there are none.' }),
    ),
  },
  { additionalProperties: false },
);
export type WriteFileQuery = Static<typeof WriteFileQuery>;

/** What a file is, in the headers of its content. */
export const FILE_HEADERS = {
  mode: 'hatch-file-mode',
  uid: 'hatch-file-uid',
  gid: 'hatch-file-gid',
} as const;
