import { Type, type Static } from 'typebox';

const Text = Type.String({
  pattern: '^[^\\u0000]*$',
  'x-rule': 'text without a NUL character',
});

export const ExecVm = Type.Object(
  {
    command: Type.Union(
      [
        Type.String({ ...Text, minLength: 1, maxLength: 131_072, description: 'One line for /bin/sh.' }),
        Type.Array(Type.String({ ...Text, maxLength: 131_072 }), {
          minItems: 1,
          maxItems: 1024,
          description: 'A program and its arguments, without a shell.',
        }),
      ],
      {
        'x-rule':
          'a line for the shell (a string that is not empty), or a program and its arguments (a list of 1 to 1024 strings), ' +
          'each of at most 131072 characters and without a NUL character',
        description: 'A line for /bin/sh, or a program and its arguments.',
      },
    ),
    cwd: Type.Optional(
      Type.String({
        maxLength: 4096,
        pattern: '^/[^\\u0000]*$',
        'x-rule': 'an absolute path',
        description: 'The folder it runs in; / when left out.',
      }),
    ),
    env: Type.Optional(
      Type.Record(
        Type.String({ pattern: '^[A-Za-z_][A-Za-z0-9_]{0,127}$' }),
        Type.String({ ...Text, maxLength: 32_768 }),
        {
          maxProperties: 256,
          additionalProperties: false,
          'x-key-rule': 'of 1 to 128 letters, digits and underscores, not beginning with a digit',
          description: 'Added to the guest’s own environment.',
        },
      ),
    ),
    stdin: Type.Optional(Type.String({ maxLength: 524_288, description: 'What the command reads.' })),
    timeout_seconds: Type.Optional(
      Type.Integer({
        minimum: 1,
        maximum: 3600,
        default: 60,
        description: 'After this the command and all it started are killed, in seconds.',
      }),
    ),
  },
  {
    $id: 'ExecVm',
    additionalProperties: false,
    description: 'A command to run in the guest, through its agent.',
    examples: [{ command: 'uname -a' }, { command: ['cat', '/etc/os-release'], timeout_seconds: 10 }],
  },
);
export type ExecVm = Static<typeof ExecVm>;

export const ExecQuery = Type.Object(
  {
    wake: Type.Optional(
      Type.Boolean({
        description: 'true: a sleeping VM is woken for it, and one that was stopped by policy started.',
      }),
    ),
  },
  { additionalProperties: false },
);

export const ExecResult = Type.Object(
  {
    exit_code: Type.Union([Type.Integer(), Type.Null()], {
      description: 'null when the command was killed at its timeout.',
    }),
    stdout: Type.String({ description: 'The first 1 MiB.' }),
    stderr: Type.String({ description: 'The first 1 MiB.' }),
    truncated: Type.Boolean({ description: 'Whether there was more of either.' }),
    timed_out: Type.Boolean(),
  },
  {
    $id: 'ExecResult',
    additionalProperties: false,
    examples: [{ exit_code: 0, stdout: 'Linux\n', stderr: '', truncated: false, timed_out: false }],
  },
);
export type ExecResult = Static<typeof ExecResult>;
