import { Type, type Static } from 'typebox';
import { AccountId, Name, orNull, Time } from './common.ts';

const Limit = Type.Integer({ minimum: 0, maximum: 1_000_000_000 });
const quotaFields = {
  vms: orNull(Limit),
  vcpus: orNull(Limit),
  mem_mib: orNull(Limit),
};

export const Quotas = Type.Object(quotaFields, {
  $id: 'Quotas',
  additionalProperties: false,
  description: 'Most of each at once; null: no limit of its own.',
  examples: [{ vms: 50, vcpus: null, mem_mib: null }],
});
export const QuotasPatch = Type.Partial(Type.Object(quotaFields), {
  $id: 'QuotasPatch',
  additionalProperties: false,
  description: 'The quotas to set; null: the server’s own limit.',
});
export type Quotas = Static<typeof Quotas>;

export const CreateAccount = Type.Object(
  { name: Name, quotas: Type.Optional(QuotasPatch) },
  {
    $id: 'CreateAccount',
    additionalProperties: false,
    examples: [{ name: 'team-a', quotas: { vms: 10 } }],
  },
);
export type CreateAccount = Static<typeof CreateAccount>;

export const PatchAccount = Type.Object(
  { name: Type.Optional(Name), quotas: Type.Optional(QuotasPatch) },
  { $id: 'PatchAccount', additionalProperties: false, examples: [{ quotas: { vms: 20 } }] },
);
export type PatchAccount = Static<typeof PatchAccount>;

const accountFields = { id: AccountId, name: Type.String(), quotas: Quotas, created_at: Time };
const accountExample = {
  id: 'acct-abc123def456',
  name: 'team-a',
  quotas: { vms: 10, vcpus: null, mem_mib: null },
  created_at: '2026-03-06T10:30:00Z',
};

export const Account = Type.Object(accountFields, {
  $id: 'Account',
  additionalProperties: false,
  examples: [accountExample],
});
export type Account = Static<typeof Account>;

const Count = Type.Integer({ minimum: 0 });
export const OwnAccount = Type.Object(
  {
    ...accountFields,
    use: Type.Object(
      { vms: Count, vcpus: Count, mem_mib: Count },
      { additionalProperties: false, description: 'What counts against the quotas now.' },
    ),
  },
  {
    $id: 'OwnAccount',
    additionalProperties: false,
    description: 'The account of the key, the limits that hold for it, and its use.',
    examples: [{ ...accountExample, use: { vms: 2, vcpus: 3, mem_mib: 2560 } }],
  },
);
export type OwnAccount = Static<typeof OwnAccount>;

export const AccountParams = Type.Object({ id: AccountId }, { additionalProperties: false });
