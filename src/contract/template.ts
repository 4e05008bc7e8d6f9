import { Type, type Static } from 'typebox';
import {
  BootArgs,
  Description,
  DiskMib,
  Idle,
  IdlePatch,
  ImageId,
  Labels,
  MemMib,
  Name,
  orNull,
  TemplateId,
  Time,
  UserData,
  VcpuCount,
} from './common.ts';

export const CreateTemplate = Type.Object(
  {
    name: Type.String({ ...Name, description: 'The template becomes `tpl-<name>`.' }),
    description: Type.Optional(Description),
    image_id: Type.Optional(ImageId),
    vcpu_count: Type.Optional(VcpuCount),
    mem_mib: Type.Optional(MemMib),
    disk_mib: Type.Optional(DiskMib),
    user_data: Type.Optional(UserData),
    boot_args: Type.Optional(BootArgs),
    idle: Type.Optional(IdlePatch),
    labels: Type.Optional(Labels),
  },
  {
    $id: 'CreateTemplate',
    additionalProperties: false,
    description: 'Settings for VMs made from it, where their request is silent.',
    examples: [{ name: 'web-server', vcpu_count: 2, mem_mib: 2048 }],
  },
);
export type CreateTemplate = Static<typeof CreateTemplate>;

export const PatchTemplate = Type.Object(
  {
    description: Type.Optional(orNull(Description)),
    image_id: Type.Optional(orNull(ImageId)),
    vcpu_count: Type.Optional(orNull(VcpuCount)),
    mem_mib: Type.Optional(orNull(MemMib)),
    disk_mib: Type.Optional(orNull(DiskMib)),
    user_data: Type.Optional(orNull(UserData)),
    boot_args: Type.Optional(orNull(BootArgs)),
    idle: Type.Optional(orNull(IdlePatch)),
    labels: Type.Optional(Labels),
  },
  {
    $id: 'PatchTemplate',
    additionalProperties: false,
    description: 'What is to change; null takes a setting away, `labels` replaces all of them.',
    examples: [{ mem_mib: 4096, user_data: null }],
  },
);
export type PatchTemplate = Static<typeof PatchTemplate>;

export const Template = Type.Object(
  {
    id: TemplateId,
    name: Type.String(),
    description: Type.Optional(Type.String()),
    image_id: Type.Optional(ImageId),
    vcpu_count: Type.Optional(VcpuCount),
    mem_mib: Type.Optional(MemMib),
    disk_mib: Type.Optional(DiskMib),
    user_data: Type.Optional(
      Type.String({
        description: 'May hold secrets: shown only to a key with the scope `write`, and not in lists.',
      }),
    ),
    boot_args: Type.Optional(Type.String()),
    idle: Type.Optional(Idle),
    labels: Type.Optional(Labels),
    created_at: Time,
    updated_at: Time,
  },
  {
    $id: 'Template',
    additionalProperties: false,
    examples: [
      {
        id: 'tpl-web-server',
        name: 'web-server',
        vcpu_count: 2,
        mem_mib: 2048,
        created_at: '2026-03-06T10:30:00Z',
        updated_at: '2026-03-06T10:30:00Z',
      },
    ],
  },
);
export type Template = Static<typeof Template>;

export const TemplateParams = Type.Object({ id: TemplateId }, { additionalProperties: false });
