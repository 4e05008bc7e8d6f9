import { Type, type Static } from 'typebox';
import { AccountId, KeyId, PAGE_FIELDS, Time } from './common.ts';

export const Scope = Type.Enum(['read', 'write', 'admin', 'operator'], {
  description:
    '`read`: see VMs and what hangs on them; `write`: see and change them; `admin`: the keys of the own account; ' +
    '`operator`: the host: accounts, images, everyone’s lists.',
});
export type Scope = Static<typeof Scope>;

const KeyName = Type.String({
  minLength: 1,
  maxLength: 100,
  pattern: '^[^\\u0000-\\u001f\\u007f]+$',
  'x-rule': 'one line of text, without control characters',
  description: 'What the key is for.',
  examples: ['deploys'],
});

export const CreateKey = Type.Object(
  {
    name: KeyName,
    scopes: Type.Array(Scope, {
      minItems: 1,
      maxItems: 4,
      uniqueItems: true,
      description: 'What the key may do. Only an operator can give the scope `operator`.',
    }),
    expires_at: Type.Optional(
      Type.String({
        pattern:
          '^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\\.[0-9]{1,9})?(?:Z|[+-][0-9]{2}:[0-9]{2})$',
        'x-rule': 'a time as RFC 3339 has it, such as 2026-03-06T10:30:00Z',
        description: 'When the key stops working; never when left out.',
        examples: ['2027-03-06T10:30:00Z'],
      }),
    ),
    account_id: Type.Optional(
      Type.String({ ...AccountId, description: 'A key for another account; needs the scope `operator`.' }),
    ),
  },
  {
    $id: 'CreateKey',
    additionalProperties: false,
    examples: [{ name: 'deploys', scopes: ['read', 'write'] }],
  },
);
export type CreateKey = Static<typeof CreateKey>;

const keyFields = {
  id: KeyId,
  account_id: AccountId,
  name: Type.String(),
  scopes: Type.Array(Scope),
  prefix: Type.String({ description: 'How the secret begins, to know it by.', examples: ['hatch_3kd9'] }),
  expires_at: Type.Optional(Time),
  revoked_at: Type.Optional(Time),
  last_used_at: Type.Optional(Time),
  created_at: Time,
};
const keyExample = {
  id: 'key-abc123def456',
  account_id: 'acct-abc123def456',
  name: 'deploys',
  scopes: ['read', 'write'],
  prefix: 'hatch_3kd9',
  created_at: '2026-03-06T10:30:00Z',
};

export const Key = Type.Object(keyFields, {
  $id: 'Key',
  additionalProperties: false,
  description: 'An API key, without its secret.',
  examples: [keyExample],
});
export type Key = Static<typeof Key>;

export const NewKey = Type.Object(
  {
    ...keyFields,
    secret: Type.String({ description: 'The key itself. It is shown here once and never again.' }),
  },
  {
    $id: 'NewKey',
    additionalProperties: false,
    description: 'A key that was just made, with its secret.',
    examples: [{ ...keyExample, secret: 'hatch_3kd9...' }],
  },
);
export type NewKey = Static<typeof NewKey>;

const OfAccount = Type.Optional(
  Type.String({ ...AccountId, description: 'Of another account than the own; needs the scope `operator`.' }),
);
export const KeyListQuery = Type.Object(
  { ...PAGE_FIELDS, account_id: OfAccount },
  { additionalProperties: false },
);
export const KeyQuery = Type.Object({ account_id: OfAccount }, { additionalProperties: false });

export const KeyParams = Type.Object({ id: KeyId }, { additionalProperties: false });
