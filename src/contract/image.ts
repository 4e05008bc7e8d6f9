import { Type, type Static } from 'typebox';
import { BootArgs, ImageId, Name, Time } from './common.ts';

const hostPath = (description: string) =>
  Type.String({
    maxLength: 4096,
    pattern: '^/[^\\u0000-\\u001f\\u007f]*$',
    'x-rule': 'an absolute path on the host',
    description,
  });
const DefaultUser = Type.String({
  pattern: '^[a-z_][a-z0-9_-]{0,31}$',
  'x-rule': 'a user name: up to 32 lower-case letters, digits, underscores and dashes',
  description: 'The user that `ssh_authorized_keys` let in.',
  examples: ['ubuntu'],
});

export const CreateImage = Type.Object(
  {
    name: Type.String({ ...Name, description: 'The image becomes `img-<name>`.' }),
    kernel_path: hostPath('The kernel on the host; it must lie in one of the image folders.'),
    rootfs_path: hostPath('The root file system on the host: a raw ext4 file or a qcow2 disk.'),
    initrd_path: Type.Optional(hostPath('The initial RAM disk on the host.')),
    boot_args: Type.Optional(BootArgs),
    default_user: Type.Optional(DefaultUser),
  },
  {
    $id: 'CreateImage',
    additionalProperties: false,
    description: 'Files on the host that VMs can boot from.',
    examples: [
      {
        name: 'debian-12',
        kernel_path: '/var/lib/hatch/images/vmlinuz',
        rootfs_path: '/var/lib/hatch/images/rootfs.ext4',
      },
    ],
  },
);
export type CreateImage = Static<typeof CreateImage>;

export const Image = Type.Object(
  {
    id: ImageId,
    name: Type.String(),
    size_bytes: Type.Integer({ minimum: 0, description: 'The size of the root disk as a guest sees it.' }),
    sha256: Type.Optional(
      Type.String({ description: 'Of the root file system; absent until it is counted.' }),
    ),
    agent: Type.Optional(
      Type.Boolean({ description: 'Whether it carries the guest agent; absent when that is not known.' }),
    ),
    default_user: Type.String(),
    boot_args: Type.Optional(Type.String({ description: 'Absent: the hypervisor’s own default.' })),
    created_at: Time,
  },
  {
    $id: 'Image',
    additionalProperties: false,
    description: 'A kernel and a root file system. Its paths on the host are not shown.',
    examples: [
      {
        id: 'img-default',
        name: 'default',
        size_bytes: 2_147_483_648,
        agent: true,
        default_user: 'ubuntu',
        created_at: '2026-03-06T10:30:00Z',
      },
    ],
  },
);
export type Image = Static<typeof Image>;

export const ImageParams = Type.Object({ id: ImageId }, { additionalProperties: false });
