import { Type, type Static } from 'typebox';
import { Time } from './common.ts';

/**
 * Files on the disk of a snapshot. Names on Linux are bytes: where they are UTF-8, the text is all of it; where not, the text shows
 * U+FFFD and a field beside it has the bytes, which `path_base64` takes.
 */

const base64 = (description: string) =>
  Type.String({
    pattern: '^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$',
    maxLength: 8192,
    'x-rule': 'base64 with its padding',
    description,
  });
const bytesOf = (what: string) =>
  base64(`The bytes of ${what} as base64; only where they are not UTF-8 and the text is not all of it.`);

export const FileKind = Type.Enum(['file', 'folder', 'link', 'other'], {
  description: '`link`: a symbolic link; `other`: a device, a pipe or a socket.',
});

const facts = {
  kind: FileKind,
  size_bytes: Type.Integer({ minimum: 0 }),
  mode: Type.String({
    pattern: '^[0-7]{4}$',
    description: 'The permission bits, in octal.',
    examples: ['0644'],
  }),
  uid: Type.Integer({ minimum: 0, description: 'The number of its owner in the guest.' }),
  gid: Type.Integer({ minimum: 0, description: 'The number of its group in the guest.' }),
  modified_at: Type.String({ ...Time, description: 'When its content changed last, by the guest’s clock.' }),
  target: Type.Optional(Type.String({ description: 'Where a link points.' })),
  target_base64: Type.Optional(bytesOf('`target`')),
};

export const FileFacts = Type.Object(facts, {
  $id: 'FileFacts',
  additionalProperties: false,
  description: 'What a file is in the guest, or was when the snapshot was made.',
  examples: [
    {
      kind: 'file',
      size_bytes: 20,
      mode: '0644',
      uid: 0,
      gid: 0,
      modified_at: '2026-03-06T10:30:00Z',
    },
  ],
});
export type FileFacts = Static<typeof FileFacts>;

export const FileEntry = Type.Object(
  { name: Type.String(), name_base64: Type.Optional(bytesOf('`name`')), ...facts },
  {
    $id: 'FileEntry',
    additionalProperties: false,
    description: 'A file in a folder on the disk of a snapshot.',
    examples: [
      {
        name: 'mtab',
        kind: 'link',
        size_bytes: 19,
        mode: '0777',
        uid: 0,
        gid: 0,
        modified_at: '2026-03-06T10:30:00Z',
        target: '../proc/self/mounts',
      },
    ],
  },
);
export type FileEntry = Static<typeof FileEntry>;

export const FileChange = Type.Object(
  {
    path: Type.String({ description: 'Absolute.' }),
    path_base64: Type.Optional(bytesOf('`path`')),
    change: Type.Enum(['added', 'removed', 'changed']),
    differences: Type.Array(
      Type.Enum(['kind', 'content', 'unread', 'size', 'mode', 'owner', 'times'], {
        description:
          'In what it changed. `content` of a link: where it points. `unread`: its size is the same and its times are not, and ' +
          'comparing the contents would have taken too long. `times`: nothing else that is told here; its extended ' +
          'attributes and further names change them too. Of folders the times are not told.',
      }),
    ),
    before: Type.Optional(FileFacts),
    after: Type.Optional(FileFacts),
  },
  {
    $id: 'FileChange',
    additionalProperties: false,
    description: 'A file that is another in the later snapshot.',
  },
);
export type FileChange = Static<typeof FileChange>;

export const SnapshotDiff = Type.Object(
  {
    changes: Type.Array(FileChange, {
      description: 'Folders before what is in them, names in the order of their bytes.',
    }),
    truncated: Type.Boolean({
      description: 'Whether there are more; ask for a higher `limit`, or for a part with `path`.',
    }),
  },
  {
    $id: 'SnapshotDiff',
    additionalProperties: false,
    description: 'What is another on the disk of the second snapshot.',
    examples: [
      {
        changes: [
          {
            path: '/etc/motd',
            change: 'added',
            differences: [],
            after: {
              kind: 'file',
              size_bytes: 6,
              mode: '0644',
              uid: 0,
              gid: 0,
              modified_at: '2026-03-06T10:30:00Z',
            },
          },
        ],
        truncated: false,
      },
    ],
  },
);
export type SnapshotDiff = Static<typeof SnapshotDiff>;

const pathFields = {
  path: Type.Optional(
    Type.String({
      maxLength: 4096,
      pattern: '^/[^\\u0000]*$',
      'x-rule': 'an absolute path',
      description: 'An absolute path in the guest. Links are followed, and never lead out of the disk.',
      examples: ['/etc/hosts'],
    }),
  ),
  path_base64: Type.Optional(
    base64('The bytes of an absolute path, instead of `path`, where it is not UTF-8.'),
  ),
};

export const FileListQuery = Type.Object(
  {
    ...pathFields,
    limit: Type.Optional(
      Type.Integer({ minimum: 1, maximum: 1000, default: 100, description: 'How many at most.' }),
    ),
    after: Type.Optional(
      Type.String({
        pattern: '^[0-9]{1,15}$',
        'x-rule': 'what the `Link` header of an earlier page has',
        description: 'Go on where the page before ended, as its `Link` header has it.',
      }),
    ),
  },
  { additionalProperties: false },
);
export type FileListQuery = Static<typeof FileListQuery>;

export const FileContentQuery = Type.Object(pathFields, { additionalProperties: false });
export type FileContentQuery = Static<typeof FileContentQuery>;

export const SnapshotDiffQuery = Type.Object(
  {
    ...pathFields,
    limit: Type.Optional(
      Type.Integer({ minimum: 1, maximum: 10_000, default: 1000, description: 'How many changes at most.' }),
    ),
  },
  { additionalProperties: false },
);
export type SnapshotDiffQuery = Static<typeof SnapshotDiffQuery>;
